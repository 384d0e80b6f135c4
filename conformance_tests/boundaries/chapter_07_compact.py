"""SPEC 7.1, 7.8 and 7.9: the compact form."""

import json

from .. import hostile
from ..oracle import files
from . import exact, gives, limit, refused
from .chapter_07 import MOST, THETA, W, described, not_taken, run, taken


@limit("7.1 7.8", "1 to 65,536 segments", "read", of="(end − first) · segments")
def many():
    """A number of segments in 16 bits, or a product of ranges that wraps: 2^32 and 2^64 are 0."""
    one = {"name": "", "out": 1, "in": 1, "rank": 1}
    yield taken("one", [W])
    yield taken("256", [run(0, 128, one | {"index": [0, 2]})])
    yield taken("60 · 60", [run(0, 60, one | {"index": [0, 60]})])
    yield not_taken("none", "7.1 7.8 1.1 8.8", [], 5)
    for name, entry in {
        "65,537 in a run": run(0, 65_537, one),
        "65,537 in a stack": one | {"name": "w", "index": [0, 65_537]},
        "257 · 256": run(0, 257, one | {"index": [0, 256]}),
        "2^32 in a stack": one | {"name": "w", "index": [0, 2**32]},
        "2^32 + 1": one | {"name": "w", "index": [0, 2**32 + 1]},
        "2^16 · 2^16": run(0, 2**16, one | {"index": [0, 2**16]}),
        "2^31 · 2": run(0, 2**31, one | {"index": [0, 2]}),
    }.items():
        yield not_taken(name, "7.1 7.8", [entry])  # with the D that they take
    yield not_taken("65,536 and one", "7.1 7.8", [run(0, 65_536, one), W])
    for exponents in ((32, 32), (40, 40), (31, 33), (40, 24)):
        first, second = (2**n for n in exponents)
        entries = [run(0, first, one | {"index": [0, second]}), W]
        yield not_taken(f"2^{exponents[0]} · 2^{exponents[1]}, and one", "7.1 7.8 1.1 8.8", entries, 5)


@limit("7.1", "2^22 bytes of all names", "read")
def names_together():
    """Counted in characters, in bytes of UTF-8 where not all are ASCII, or in UTF-16 code units."""
    for name, letters, most in (
        ("512 ASCII", "a" * 512, 8192), ("128 beyond the basic plane", "𝔸" * 128, 8192), ("127, one of them beyond ASCII", "a" * 126 + "é", 8256),
    ):  # fmt: skip
        stack = {"name": letters, "out": 1, "in": 1, "rank": 1}
        yield taken(f"{most} names of {name}", [stack | {"index": [0, most]}])
        yield not_taken(f"{most + 1} names of {name}", "7.1", [stack | {"index": [0, most + 1]}])
    yield not_taken("65,536 names of 65", "7.1", [stack | {"name": "a" * 65, "index": [0, 65_536]}])


@limit("7.8", "first and end from 0 to 2^40, two numbers at least", "read")
def ranges():
    """A range in 32 bits names other layers; a range of one or none."""
    inner = W | {"name": ".w"}
    for first in (0, 9, 99, 2**31 - 1, 2**32 - 1, 2**32, 999_999_998, 999_999_999, MOST - 2):
        yield taken(f"layers [{first}, {first + 2})", [run(first, first + 2, inner, prefix="l.")])
        yield taken(f"index [{first}, {first + 2})", [W | {"index": [first, first + 2]}])
    for first, end in ((0, 1), (0, 0), (1, 0), (5, 5), (MOST, MOST), (MOST - 1, MOST), (MOST - 1, MOST + 1), (MOST, MOST + 2), (-1, 1),
                       (-2, 0), (2**32, 2), (-(2**32), 2), (2**53 - 3, 2**53 - 1)):  # fmt: skip
        yield not_taken(f"layers [{first}, {end})", "7.8 7.2", [run(first, end, inner, prefix="l.")], 5)
        yield not_taken(f"index [{first}, {end})", "7.8 7.2", [W | {"index": [first, end]}], 5)


@limit("7.8", "numbers without a point or an exponent", "read")
def whole():
    """2.0 and 2e0 are whole numbers to many parsers."""
    text = json.dumps(described([W | {"row": 8, "index": [3, 7]}, run(4, 6, W | {"name": ".w"}, prefix="l.")]))
    yield taken("as they are", [W | {"row": 8, "index": [3, 7]}, run(4, 6, W | {"name": ".w"}, prefix="l.")])
    for old, new in (
        ('"out": 2,', '"out": 2.0,'), ('"out": 2,', '"out": 2e0,'), ('"in": 3,', '"in": 3.0,'), ('"in": 3,', '"in": 0.3E1,'),
        ('"rank": 1,', '"rank": 1.0,'), ('"rank": 1}', '"rank": 1e0}'), ('"row": 8', '"row": 8.0'), ('"row": 8', '"row": 80e-1'),
        ("[3, 7]", "[3.0, 7]"), ("[3, 7]", "[3, 7e0]"), ("[4, 6]", "[4, 6.0]"), ("[4, 6]", "[0.4e1, 6]"),
    ):  # fmt: skip
        yield refused(f"{new}", "7.2 7.8 8.6", file=hostile.metadata(unilora=text.replace(old, new, 1)))


FOLDS = {
    "a head without its dot: 1 and 10": ["layer.1", "layer.10", "layer.2", "layer.20"],
    "a head without its dot: 1 and 1x": ["h.1", "h.1x", "h.2", "h.2x"],
    "a head without its dot, in a block": ["l.1.a", "l.10.a", "l.2.a", "l.20.a"],
    "a head without its dot, and more digits": ["l.1.a", "l.1.b", "l.11.a", "l.2.a", "l.2.b", "l.21.a"],
    "1 and 10, and a run before": ["l.0.a", "l.1.a", "l.10.a", "l.11.a"],
    "9, 10, 99 and 100": ["l.9", "l.10", "m.99", "m.100"],
    "255, 256 and 257": ["l.255", "l.256", "l.257"],
    "32767 to 65536": ["l.32767", "l.32768", "m.65535", "m.65536"],
    "999999999 and 1000000000": ["l.999999999.a", "l.1000000000.a"],
    "4294967295 is text": ["l.4294967295", "l.4294967296"],
    "a prefix that is empty": ["0.a", "1.a", "2.a"],
    "a prefix of another name": ["a.0", "ab.0", "a.1", "ab.1"],
    "the names of layers, as long as the head": ["l.0", "l.0.a", "l.1", "l.1.a"],
    "a block that ends in the middle": ["l.0.a", "l.0.b", "l.1.a", "l.2.a", "l.2.b"],
    "more layers than one digit has": [f"l.{n}.w" for n in range(8, 13)],
    "300 layers": [f"l.{n}.w" for n in range(300)],
    "two runs within each other": [f"l.{n}.e.{m}" for n in range(3) for m in range(2)],
    "numbers in other scripts": ["l.１", "l.２", "l.²", "l.³"],
    "signs and blanks are text": ["l.+1", "l.+2", "l. 3", "l. 4", "l.-5", "l.-4"],
    "a zero before": ["l.00", "l.01", "l.02"],
    "8 and 9 numbers": ["0.0.0.0.0.0.0.0.0", "0.0.0.0.0.0.0.0.1", "0.0.0.0.0.0.0.1.0"],
}


@exact("7.9", "heads, blocks and numbers of 1 to 9 digits", "write")
def folds():
    """A head that is compared without its dot, a number in a narrower type or of another script."""
    tensors = files.as_protocol(THETA)
    for name, names in FOLDS.items():
        text = described([{"name": each, "out": 1, "in": 1, "rank": 1} for each in names])
        yield gives(name, {"file": files.write(text, THETA)}, description=text, tensors=tensors)


@exact("7.9", "i − 1, [f, i)", "write")
def stacks():
    """An index in 32 bits; a field that is not compared."""
    tensors, one = files.as_protocol(THETA), {"name": "w", "out": 1, "in": 1, "rank": 1}
    for name, objects in {
        "around 2^31": [one | {"index": i} for i in (2**31 - 1, 2**31, 2**31 + 1)],
        "around 2^32": [one | {"index": i} for i in (2**32 - 1, 2**32)],
        "2^32 − 1 and 0": [one | {"index": i} for i in (2**32 - 1, 0)],
        "the last ones": [one | {"index": i} for i in (MOST - 2, MOST - 1)],
        "255 and 256": [one | {"index": i} for i in (255, 256)],
        "descending": [one | {"index": i} for i in (2, 1, 0)],
        "a gap": [one | {"index": i} for i in (0, 1, 3, 4)],
        "another rank": [one | {"index": 0}, one | {"index": 1, "rank": 0}, one | {"index": 2, "rank": 0}],
        "another row": [one | {"index": 0, "row": 0}, one | {"index": 1, "row": 1}],
        "another name": [one | {"index": 0}, one | {"name": "v", "index": 1}],
        "none, and an index": [one | {"name": "v"}, one | {"index": 0}, one | {"index": 1}],
    }.items():  # fmt: skip
        text = described(objects)
        yield gives(name, {"file": files.write(text, THETA)}, description=text, tensors=tensors)
