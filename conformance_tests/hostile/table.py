"""The kind that has a tensor of its own (SPEC 9.4)."""

import math

from ..oracle import files
from .case import refused
from .tiny import TABLE, TABLE_TENSORS, TENSORS, TEXT


def cases():
    def tabled(rules, name, *index, text=TABLE):
        tensors = TENSORS | ({"index": index} if index else {})
        return refused("table", rules, name, files.write(text, tensors))

    yield tabled("8.3 9.4", "a table without an index")
    yield tabled("8.3", "an index without a table", *TABLE_TENSORS["index"], text=TEXT)
    yield tabled("8.3 9.4", "an index of F32", "F32", [5], [0.0, 1.0, 1.0, 0.0, 1.0])
    yield tabled("8.3 9.4", "an index of F16", "F16", [5], [0.0, 1.0, 1.0, 0.0, 1.0])
    index = files.write(TABLE, TABLE_TENSORS)
    for dtype in ("U32", "I64", "I16"):
        yield refused("table", "8.2 8.3 9.4", f"an index of {dtype}", index.replace(b'"I32"', f'"{dtype}"'.encode()))
    for shape in ([4], [6], [5, 1], [1, 5], [], [0]):
        count = math.prod(shape)
        yield tabled("8.3 8.8 9.4", f"an index of shape {shape}", "I32", shape, [0] * count)
    for at, value in ((0, -1), (0, 2), (4, 2), (4, -(2**31)), (2, 2**31 - 1)):
        columns = [0, 1, 1, 0, 1]
        columns[at] = value
        yield tabled("9.4", f"{value} for the column of row {at}", "I32", [5], columns)
    yield tabled(
        "8.8",
        "a table of a D above the layer map's",
        "I32",
        [6],
        [0] * 6,
        text=TABLE | {"projection": TABLE["projection"] | {"D": 6}},
    )
    yield tabled(
        "8.6",
        "the columns as a field",
        "I32",
        [5],
        [0] * 5,
        text=TABLE | {"projection": TABLE["projection"] | {"index": [0] * 5}},
    )
    yield refused("table", "8.3", "theta as I32", index.replace(b'"F32"', b'"I32"'))
