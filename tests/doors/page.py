"""What the page that trains in a browser is given: an adapter and a table."""

from fuzz_mutations import packed

from unilora_spec.serialization import encode

from .door import LONG, Door, Seed, pipe
from .step_graphs import BAG, BAG_FILES

DOORS = [
    Door(
        "page's adapter",
        ("backends.web", "--graph", "step.onnx"),
        "step.safetensors",
        BAG_FILES,
        {
            "sound": Seed(encode(BAG), "the page's packages are not there"),  # it would be served to a browser
            "a header of 70 MB": Seed(LONG.content, "262144 is the limit"),
            "a header that nests": Seed(packed(b'{"a":' * 10**4), "nested deeper"),
            "a pipe": Seed(pipe, "is not there"),
        },
    ),
    Door(
        "page's table",
        ("backends.web", "--data", "rows.csv"),
        "rows.csv",
        {},
        {
            "sound": Seed(b"text,label\na,1\n", "the page's packages are not there"),
            "a pipe": Seed(pipe, "is not there"),
        },
    ),
]
