"""The options of a call as a YAML file."""

from .door import PIPE, Door, Seed
from .small_base import BASE


def _options(says, words: str) -> Seed:
    return Seed(words.encode(), says)


YAML = {
    "aliases of aliases": _options(
        "refers to 'a0'",
        "rank:\n - &a0 [x,x]\n" + "".join(f" - &a{i + 1} [{','.join([f'*a{i}'] * 10)}]\n" for i in range(9)),
    ),
    "a list in itself": _options("refers to 'a'", "rank: &a [*a]"),
    "a merge": _options("refers to 'a'", "lr: &a {rank: 1}\n<<: *a"),
    "lists that nest": _options("a text, a number, or a list", "rank: " + "[" * 60_000),
    "lists that nest by lines": _options(
        "a text, a number, or a list", "rank:\n" + "".join(" " * i + "-\n" for i in range(1, 300))
    ),
    "too long": _options("such a file has at most", "rank: " + "[" * 100_000),
    "many keys": _options("a text, a number, or a list", "a: 1\n" * 10_000),
    "a key twice": _options("a key is there twice", "rank: 1\nrank: 2"),
    "a key twice, spelled in two ways": _options("given twice, with - and with _", "max-length: 1\nmax_length: 2"),
    "code": _options("could not determine a constructor", "rank: !!python/object/apply:os.system [ls]"),
    "no date": _options("this is no YAML", "rank: 2001-99-99"),
    "no whole number": _options("this is no YAML", "rank: !!int x"),
    "no number of any size": _options("--lr is", "lr: 1" + "0" * 400),
    "a pipe": PIPE,
}

EVALUATION = {name: seed for name, seed in YAML.items() if name != "no number of any size"} | {
    "an option that no evaluation has": _options("the option 'lr' is unknown", "lr: 1"),
    "texts that are lists": _options("--stop is", "stop: [[a]]"),
    "a text that is true": _options("--begin is True", "begin: true"),
}

DOORS = [
    Door(
        "options, evaluate", ("backends.torch", "evaluate", "--config", "options.yaml"), "options.yaml", {}, EVALUATION
    ),
    Door("options", ("backends.torch", "train", "--config", "options.yaml"), "options.yaml", BASE, YAML),
]
