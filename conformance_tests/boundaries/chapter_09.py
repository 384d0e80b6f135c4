"""SPEC 9 and 10: `identity`, `table`, unknown kinds, and the base model."""

import math

from ..hostile import TABLE, TABLE_TENSORS, TEXT
from ..oracle import arithmetic, files
from ..oracle.kinds import LAYERED
from . import exact, gives, limit, refused
from .chapter_01 import MOST, OUTSIDE, of_numbers
from .chapter_06 import bits
from .chapter_07 import W, described, file_of


@limit("9.1", "the kinds of version 1, by their names", "index")
def kinds():
    """A name without regard to capitals, or by its beginning; a kind by its number."""
    yield gives("balanced", {"index": []}, projection=of_numbers("balanced", 2, 5), start=0, stop=0)
    for kind in (
        "Balanced",
        "BALANCED",
        "balanced ",
        " balanced",
        "balance",
        "balanced2",
        "",
        "0",
        "lora",
        "balanced\u0000",
        "ｂalanced",
        "constructor",
        "__proto__",
    ):
        yield refused(repr(kind), "9.1", projection=of_numbers(kind, 2, 5), start=0, stop=0)


@limit("9.1", "the kind before the other fields of `projection`", "read")
def unknown_kinds():
    """A reader that looks at d, D or the seed first names another fault than the kind that it does not know."""
    yield gives("balanced", {"description": files.describe(TEXT)}, file=file_of(TEXT))
    for name, p in {
        "no other field": {}, "fields of its own": {"more": 1, "seed": 7}, "a d of text": {"d": "2", "D": 5, "seed": "42"},
        "d above D": {"d": 6, "D": 5, "seed": "42"}, "a seed of 2^64": {"d": 2, "D": 5, "seed": str(2**64)}, "a D of 2^41": {"d": 2, "D": 2**41, "seed": "42"},
    }.items():  # fmt: skip
        yield refused(name, "9.1", file=file_of(TEXT | {"projection": {"kind": "next", **p}}))


@limit("9.2", "d = D", "index", kind="identity")
def identity():
    """d ≤ D alone, or both in 32 bits."""
    for D in (1, 5, 2**31 - 1):
        yield gives(f"D = {D}", {"index": [D - 1]}, projection=of_numbers("identity", D, D), start=D - 1, stop=D)
        for d in {D - 1, D - 5, 1} - {D, 0, -4}:
            yield refused(f"d = {d}, D = {D}", "9.2", projection=of_numbers("identity", d, D), start=0, stop=0)
    for d, D in ((5, 2**32 + 5), (1, MOST)):
        yield refused(f"d = {d}, D = {D}", "9.2", projection=of_numbers("identity", d, D), start=0, stop=0)
    yield refused("d = D = 2^31", "1.1", projection=of_numbers("identity", 2**31, 2**31), start=0, stop=0)


@limit("9.2", "the layer map's D is D; (2u − 1) · (1/√in)", "initial", kind="identity")
def start_of_identity():
    """A layer map that is too long is cut, one that is too short leaves numbers as they were; a quotient in float32."""

    def started(name, segments):
        theta = []
        for s in segments:
            bound, A = 1 / math.sqrt(s["in"]), s["rank"] * s["in"]
            theta += [arithmetic.f32(arithmetic.start(42, j) * bound) for j in range(len(theta), len(theta) + A)]
            theta += [0.0] * (files.size(s) - A)
        p = of_numbers("identity", len(theta), len(theta))
        return gives(name, {"theta": theta}, projection=p, bound=0.5, layers=files.fold(segments))

    for columns in (1, 2, 3, 5, 6, 7, 10, 1000):
        yield started(
            f"in = {columns}",
            [W | {"in": columns}, W | {"name": "v", "in": columns, "rank": 0}, W | {"name": "u", "rank": 2}],
        )
    for D in (4, 6, 2):
        yield refused(
            f"D = {D}, and a layer map of 5", "9.2 8.8", projection=of_numbers("identity", D, D), bound=0.02, layers=[W]
        )


@limit("9.4", "each from 0 to d − 1, as many as D", "index", kind="table")
def tables():
    """Numbers from the end of θ backwards, d itself, an index in 8, 16 or 32 bits; rows counted from where a slice starts."""
    for start, stop in ((1, 3), (2, 4), (3, 5)):
        index = [0, 1, 2, 3, 4]
        yield gives(
            f"{index}[{start}:{stop}]",
            {"index": index[start:stop]},
            projection=of_numbers("table", 5, 5) | {"index": index},
            start=start,
            stop=stop,
        )
    for d, index in ((1, [0] * 5), (2, [0, 1, 1, 0, 1]), (5, [4, 3, 2, 1, 0]), (2, [1] * 5)):
        yield gives(
            f"{index}", {"index": index}, projection=of_numbers("table", d, 5) | {"index": index}, start=0, stop=5
        )
    for value in (2, 3, -1, -2, 255, 256, 257, 2**16, 2**31 - 1, 2**31, -(2**31), 2**32, 2**32 + 1, -(2**32), 2**62):
        for at in (0, 4):
            index = [0, 1, 1, 0, 1]
            index[at] = value
            yield refused(
                f"{value} in row {at}", "9.4", projection=of_numbers("table", 2, 5) | {"index": index}, start=0, stop=5
            )
    for length in (0, 1, 4, 6, 10):
        p = of_numbers("table", 2, 5) | {"index": [0] * length}
        yield refused(f"{length} of 5", "9.4 1.3", projection=p, start=0, stop=0)


@limit("1.3", "a range of [0, D)", "index", kind="table")
def rows_outside():
    """As of the other kinds: rows from the end, or beyond it."""
    index = [0, 1, 1, 0, 1]
    for start, stop in ((0, 5), (2, 4), (5, 5)):
        p = of_numbers("table", 2, 5) | {"index": index}
        yield gives(f"[{start}, {stop})", {"index": index[start:stop]}, projection=p, start=start, stop=stop)
    for start, stop in OUTSIDE:
        yield refused(
            f"[{start}, {stop})", "1.3", projection=of_numbers("table", 2, 5) | {"index": index}, start=start, stop=stop
        )


@limit("9.4", "a tensor `index` of shape [D]", "read", kind="table")
def tables_of_a_file():
    """As of the numbers."""
    yield gives("as it is", {"tensors": files.as_protocol(TABLE_TENSORS)}, file=files.write(TABLE, TABLE_TENSORS))
    for value in (2, -1, 256, 2**16, 2**31 - 1, -(2**31)):
        yield refused(
            f"{value}", "9.4", file=files.write(TABLE, TABLE_TENSORS | {"index": ("I32", [5], [0, 1, value, 0, 1])})
        )
    for shape in ([4], [6], [5, 1], [1, 5], [0]):
        index = ("I32", shape, [0] * math.prod(shape))
        yield refused(f"{shape}", "8.3 8.8 9.4", file=files.write(TABLE, TABLE_TENSORS | {"index": index}))


def _layered(kind):
    segments = [{"name": "w", "out": 2, "in": 2, "rank": 1}]
    p = (
        of_numbers(kind, 0, 4)
        | {"layers": segments}
        | {name: least for name, (least, _) in LAYERED[kind].OPTIONS.items()}
    )
    own = LAYERED[kind].own(p, segments) if hasattr(LAYERED[kind], "own") else {}
    for name, (_, length, _) in own.items():
        p[name] = [0] * length
    p["d"] = LAYERED[kind].dim(p, segments) if hasattr(LAYERED[kind], "dim") else 2
    return p


@exact(
    "9.3",
    "no index where an entry is not one trained number times its scale",
    "index",
    kinds=[k for k in LAYERED if hasattr(LAYERED[k], "theta_D")],
)
def without_index(kind):
    """qr, each of whose entries is one number or none, has none either; not even of no row."""
    for start, stop in ((0, 0), (0, 4)):
        yield refused(f"[{start}, {stop})", "9.3", projection=_layered(kind), start=start, stop=stop)


def _printed(layers, weights):
    plain = {name: (weight["shape"], weight["values"]) for name, weight in weights.items()}
    structure, contents = files.fingerprints(layers, plain)
    return {"structure": structure, "contents": contents}


@exact("10.1 10.2", "ordered by name, each once with its full shape, as float32", "fingerprints")
def fingerprints():
    """Names in UTF-16 code units or without regard to capitals; a weight twice; a zero without its sign."""
    names = ["w", "W", "w.1", "w.10", "w.2", "\uffff", "𝔸", "é", "\x7f", '"', "\\", "\n"]
    weights = {name: {"shape": [1, 2], "values": [float(at), -float(at)]} for at, name in enumerate(names)}
    layers = [{"name": name, "out": 1, "in": 2, "rank": 1} for name in names]
    for name, order in (("as given", layers), ("backwards", layers[::-1]), ("three of them", layers[4:7])):
        yield gives(name, _printed(order, weights), layers=order, weights=weights)
    rows = [{"name": "w", "out": 1, "in": 2, "rank": 1, "row": row} for row in (3, 0, 1)]
    weights = {
        "w": {"shape": [4, 2], "values": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]},
        "v": {"shape": [1], "values": [0.0]},
    }
    yield gives("a weight three times", _printed(rows, weights), layers=rows, weights=weights)
    values = bits(0, 0x80000000, 1, 0x80000001, 0x7FFFFF, 0x7F7FFFFF, 0x3F800001, 0xFF7FFFFF)
    weights = {"w": {"shape": [2, 2, 1, 2], "values": values}}
    layers = [{"name": "w", "out": 2, "in": 4, "rank": 1}]
    yield gives("numbers of all sorts", _printed(layers, weights), layers=layers, weights=weights)


@limit("10.3", "the recorded structure, and the recorded contents", "merge")
def records():
    """A record that is compared in part; a zero of the other sign that is the same contents."""
    weights = {"w": {"shape": [2, 3], "values": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}}
    printed = _printed([W], weights)

    def file(**changes):
        base = {"name": "b"} | printed | changes
        return files.write(described([W], base=base), {"theta": ("F32", [2], [0.0, 0.0])})

    yield gives("both", {"same_contents": True}, file=file(), weights=weights)
    yield gives(
        "no record",
        {"same_contents": None},
        file=files.write(described([W]), {"theta": ("F32", [2], [0.0, 0.0])}),
        weights=weights,
    )
    for at in (0, 15, 16, 31):
        other = {key: text[:at] + ("1" if text[at] == "0" else "0") + text[at + 1 :] for key, text in printed.items()}
        yield gives(
            f"other contents at digit {at}",
            {"same_contents": False},
            file=file(contents=other["contents"]),
            weights=weights,
        )
        yield refused(
            f"another structure at digit {at}", "10.3", file=file(structure=other["structure"]), weights=weights
        )
    minus = {"w": {"shape": [2, 3], "values": [-0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}}
    yield gives("a zero of the other sign", {"same_contents": False}, file=file(), weights=minus)
    yield refused("another weight", "10.3", file=file(), weights={"v": weights["w"]})
    yield refused("no weight", "10.3", file=file(), weights={})
