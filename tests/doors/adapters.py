"""An adapter's file."""

from .door import Door, Seed, pipe
from .small_base import adapter

NAMES = {
    "a line of its own": Seed(adapter(weight="x\nerror: all fine\n.weight"), None),
    "an escape": Seed(adapter("\x1b[2J\u202e[bold]"), None),
}

DOORS = [
    Door(
        "inspect",
        ("unilora_spec", "inspect", "vec"),
        "vec",
        {},
        {"sound": Seed(adapter(), None), **NAMES, "a pipe": Seed(pipe, "no such file")},
    ),
]
