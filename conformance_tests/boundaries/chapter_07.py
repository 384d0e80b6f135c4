"""SPEC 7: layer map. Files that hold one, of the kind `balanced` with d = 2."""

import json
import math

import numpy as np

from .. import hostile
from ..oracle import files
from . import exact, gives, limit, refused

W = {"name": "w", "out": 2, "in": 3, "rank": 1}
THETA = {"theta": ("F32", [2], [1.0, -0.5])}
MOST = 2**40


def described(entries, D=None, **more):
    """A description with these entries of the compact form, and the D that they take, if not told otherwise."""
    D = sum(map(hostile.size, entries)) if D is None else D
    return hostile.TEXT | {"layers": entries, "projection": hostile.TEXT["projection"] | {"D": D}} | more


def file_of(description) -> bytes:
    """A file with this description as it is, its layer map not folded."""
    return hostile.metadata(unilora=json.dumps(description, ensure_ascii=False))


def taken(name, entries, D=None, segments=None, **more):
    """``segments`` are what the entries stand for, where that is said by hand."""
    given = described(entries, D, **more)
    canonical = files.describe(given | {"layers": files.unfold(entries) if segments is None else segments})
    return gives(name, {"description": canonical}, file=file_of(given))


def not_taken(name, rules, entries, D=None, **more):
    return refused(name, rules, file=file_of(described(entries, D, **more)))


def run(first, end, *segments, prefix=""):
    return {"layers": [first, end], "prefix": prefix, "segments": list(segments or [W | {"name": ""}])}


@limit("7.1", "the sum of all sizes, at most 2^40", "read", of="the sum of all sizes")
def sums():
    """A sum in 32 bits, or one that wraps at 64, is another D."""
    half = {"name": "v", "out": 2**20, "in": 2**20, "rank": 2**18}
    quarter = {"name": "w", "out": 1, "in": 2**39 - 1, "rank": 1}
    yield taken("2^39 + 2^39", [half, quarter])
    yield taken("2^39 + 2^39 − 1", [half, quarter | {"in": 2**39 - 2}])
    yield taken("1,024 · 2^30", [run(0, 1024, {"name": "", "out": 1, "in": 2**30 - 1, "rank": 1})])
    wrong = "1.1 8.8"
    yield not_taken("2^39 + 2^39 + 1", wrong, [half, quarter | {"in": 2**39}])
    yield not_taken("2^39 + 2^39 + 1, with a D of 2^40", wrong, [half, quarter | {"in": 2**39}], MOST)
    yield not_taken("2^32 + 5, with a D of 5", wrong, [W, W | {"name": "v", "out": 1, "in": 2**32 - 1}], 5)
    yield not_taken("2^48, with a D of 2^40", wrong, [run(0, 256, W | {"name": "", "out": 1, "in": MOST - 1})], MOST)
    yield not_taken(
        "65,535 · 2^40 + 5, with a D of 5", wrong, [run(0, 65_535, W | {"name": "", "out": 1, "in": MOST - 1}), W], 5
    )
    yield not_taken(
        "256 · 2^24 and 5, with a D of 5", wrong, [run(0, 256, W | {"name": "", "out": 1, "in": 2**24 - 1}), W], 5
    )


@limit("7.2", "r · (in + out), out · in", "read", of="r · (in + out), out · in")
def products():
    """A size in 32 bits, or one that wraps at 64: 2^32 + 5 and 2^64 + 5 are 5."""
    yield taken("2^19 · 2^21", [W | {"out": 2**20, "in": 2**20, "rank": 2**19}])
    yield taken("2^20 · 2^20 of rank 0", [W | {"out": 2**20, "in": 2**20, "rank": 0}])
    yield taken("2^40 − 1 and 1", [W | {"out": MOST - 1, "in": 1}])
    yield taken("1 and 2^40 − 1", [W | {"out": 1, "in": MOST - 1}])
    yield taken("2^33 + 5", [W | {"out": 5, "in": 2**33}])
    yield taken("2^32 of rank 0", [W | {"out": 2**16, "in": 2**16, "rank": 0}])
    five, wrong = W | {"name": "v"}, "1.1 8.8"
    for name, entries, D in (
        ("2^40 + 2^20", [W | {"out": 2**20, "in": 2**20 + 2, "rank": 2**19}], MOST),
        ("2^40 + 1 by in + out", [W | {"out": 1, "in": MOST - 1}, W | {"name": "v", "out": 1, "in": 1, "rank": 0}], MOST),
        ("2^40 + 2^20 of rank 0", [W | {"out": 2**20, "in": 2**20 + 1, "rank": 0}], MOST),
        ("2^32 + 5", [W | {"out": 5, "in": 2**32}], 5),
        ("2^32 + 5 of rank 0", [W | {"out": 3, "in": 1431655767, "rank": 0}], 5),
        ("2^33 of rank 2^16, and 5", [W | {"out": 2**16, "in": 2**16, "rank": 2**16}, five], 5),
        ("2^63 twice, and 5", [five, *(W | {"name": n, "out": 2**32, "in": 2**32, "rank": 2**30} for n in "ab")], 5),
        ("2^64, and 5", [five, W | {"out": 2**32, "in": 2**32, "rank": 2**31}], 5),
        ("2^64 of rank 0, and 5", [five, W | {"out": 2**32, "in": 2**32, "rank": 0}], 5),
        ("2^80 of rank 0, and 5", [five, W | {"out": MOST - 1, "in": MOST - 1, "rank": 0}], 5),
        ("2^81", [W | {"out": MOST - 1, "in": MOST - 1, "rank": MOST - 1}], 2),
        ("2^32 by in + out, and 5", [W | {"out": 2**31, "in": 2**31}, five], 5),
    ):  # fmt: skip
        yield not_taken(name, wrong, entries, D)


@exact("7.2", "A of r rows, then B of out rows, each row by row", "delta_weight")
def orders():
    """Columns first, B first, or out for in. Whole numbers, of which no two are the same, and s = 1: every sum is exact."""
    for out, columns, rank in ((4, 3, 2), (2, 5, 2), (5, 2, 2), (3, 4, 3), (4, 2, 1), (2, 3, 0)):
        segment = {"name": "w", "out": out, "in": columns, "rank": rank}
        D = files.size(segment)
        numbers = np.arange(1.0, D + 1)
        text = {
            "projection": {"kind": "identity", "seed": "0", "d": D, "D": D},
            "alpha": rank or 1, "layers": [segment], "scaling": "lora",
        }  # fmt: skip
        A, B = (numbers[: rank * columns].reshape(rank, columns), numbers[rank * columns :].reshape(out, -1))
        delta = B @ A if rank else B
        answer = {"A": A.ravel().tolist(), "B": B.ravel().tolist() if rank else [], "delta": delta.ravel().tolist()}
        file = files.write(text, {"theta": ("F32", [D], numbers.tolist())})
        yield gives(f"{out} × {columns} of rank {rank}", answer, file=file, segment=0)


@limit("7.2", "name of 1 to 512 bytes of UTF-8", "read")
def names():
    """Counted in characters or in UTF-16 code units; or of a run's segment without its prefix and number."""
    for letter, size in (("a", 1), ("é", 2), ("€", 3), ("𝔸", 4)):
        most = letter * (512 // size) + "a" * (512 % size)
        yield taken(f"512 bytes, of {size} each", [W | {"name": most}])
        yield not_taken(f"513 bytes, of {size} each", "7.2 7.8", [W | {"name": most + "a"}])
    yield taken("one byte", [W | {"name": "a"}])
    yield not_taken("no byte", "7.2 7.8", [W | {"name": ""}])
    segment = W | {"name": "." + "y" * 199}
    yield taken(
        "512 bytes of a run",
        [run(8, 10, segment, prefix="x" * 310)],
        segments=files.unfold([run(8, 10, segment, prefix="x" * 310)]),
    )
    yield not_taken("513 bytes of a run, by its last number", "7.2 7.8", [run(8, 11, segment, prefix="x" * 311)])
    yield not_taken("513 bytes of a run", "7.2 7.8", [run(8, 10, segment, prefix="x" * 312)])


@limit("7.2", "out and in from 1, row and index from 0, all to 2^40 − 1", "read")
def fields():
    """Numbers in 32 bits, signed or not, or in float32; a limit that is taken or left out."""
    for key, values in {
        "out": (1, 2**31, 2**32, 2**32 + 1, MOST - 3), "in": (1, 2**31, 2**32, 2**32 + 1, MOST - 2), "row": (0, 1, 2**31, 2**32, 2**32 + 1, MOST - 1),
        "index": (0, 1, 2**31, 2**32, 2**32 + 1, MOST - 1), "rank": (0, 1, 2),
    }.items():  # fmt: skip
        for value in values:
            yield taken(f"{key} = {value}", [W | {"out": 2, "in": 2} | {key: value}])
    for key in ("out", "in"):
        yield not_taken(f"{key} = 0 of rank 0", "7.2 7.8", [W, W | {"name": "v", "rank": 0, key: 0}], 5)
    for key, values in {
        "out": (0, -1, MOST, MOST + 2, 2**53 - 1), "in": (0, -1, MOST, MOST + 3, 2**53 - 1), "row": (-1, -(2**32), MOST, 2**53 - 1),
        "index": (-1, -(2**32), MOST, 2**53 - 1), "rank": (-1, -(2**32) + 1, MOST, 2**53 - 1),
    }.items():  # fmt: skip
        for value in values:
            yield not_taken(
                f"{key} = {value}",
                "7.2 7.8 1.1 8.8" + (" 7.11" if key in ("rank", "out", "in") else ""),
                [W | {key: value}],
                5,
            )


@limit("7.11", "a rank of at most min(out, in)", "read")
def ranks():
    """The other side, the sum of both, or the larger one in the place of the smaller."""
    forms = {
        "": {},
        ", transposed": {"transposed": True},
        ", a row": {"row": 7},
        ", an index": {"index": 7},
        ", a stack": {"index": [0, 3]},
    }
    for form, more in forms.items():
        for out, columns in ((1, 1), (1, 9), (9, 1), (2, 3), (3, 2), (300, 256), (256, 300)):
            least = min(out, columns)
            segment = {"name": "w", "out": out, "in": columns, **more}
            yield taken(f"{least} of {out} × {columns}{form}", [segment | {"rank": least}])
            yield not_taken(f"{least + 1} of {out} × {columns}{form}", "7.11", [segment | {"rank": least + 1}])
    yield taken("rank 0", [W | {"out": 1, "in": 2, "rank": 0}])
    yield not_taken("2^32 of 1 × 1, with a D of 0 modulo 2^32", "7.11 8.8", [W | {"out": 1, "in": 1, "rank": 2**32}], 2)
    yield not_taken("2^39 of 1 × 1, with a D of 2^40", "7.11", [W | {"out": 1, "in": 1, "rank": 2**39}])
    yield not_taken("the second of two", "7.11", [W, W | {"name": "v", "rank": 3}])
    yield not_taken("one in a run", "7.11", [run(0, 2, W | {"name": ".v"}, W | {"name": ".w", "rank": 3})])


@limit("7.6", "rows and indices that meet and do not overlap", "read", of="row + out")
def overlaps():
    """row + out in 32 bits, or a row or index that is cut to 32 bits."""
    part = {"name": "w", "out": 2, "in": 2, "rank": 1}
    rows = lambda *numbers: [part | {"row": row} for row in numbers]
    for first in (0, 254, 2**16 - 2, 2**31 - 2, 2**31 - 1, 2**32 - 2, 2**32 - 1, 2**32, MOST - 3):
        yield taken(f"rows from {first} and {first + 2} on", rows(first, first + 2))
        yield not_taken(f"rows from {first} and {first + 1} on", "7.6", rows(first, first + 1))
        yield not_taken(f"rows from {first + 1} and {first} on", "7.6", rows(first + 1, first))
    yield taken("rows from 0 and 2^32 on", rows(0, 2**32))
    yield taken("rows from 1 and 2^32 on", rows(1, 2**32))
    yield taken("rows from 2^40 − 1 on, and from 0", rows(MOST - 1, 0))
    yield taken("indices 0 and 2^32", [part | {"index": 0}, part | {"index": 2**32}])
    yield taken("indices 2^31 and 0", [part | {"index": 2**31}, part | {"index": 0}])
    yield not_taken("the index 0 twice, 2^32 between", "7.6", [part | {"index": index} for index in (0, 2**32, 0)])
    yield not_taken("the index 2^32 twice, 0 between", "7.6", [part | {"index": index} for index in (2**32, 0, 2**32)])
    yield not_taken("the row 0 twice, 2^32 between", "7.6", rows(0, 2**32, 0))
    yield not_taken("the index 2^32 twice", "7.6", [part | {"index": 2**32}, part | {"index": 2**32}])
    wide = part | {"row": 0, "out": 2**32}
    yield taken("2^32 rows and the next", [wide, part | {"row": 2**32}])
    yield not_taken("2^32 rows and the last of them", "7.6", [wide, part | {"row": 2**32 - 1}])
    yield taken("rows of two indices", [part | {"row": 0, "index": 0}, part | {"row": 1, "index": 1}])
    for key, value in (("in", 3), ("transposed", True)):
        yield taken(f"{key} alike", [part | {"row": 0, key: value}, part | {"row": 2, key: value}])
        yield not_taken(f"{key} different", "7.6", [part | {"row": 0}, part | {"row": 2, key: value}])
        yield taken(f"{key} different, of two names", [part | {"row": 0}, part | {"name": "v", "row": 2, key: value}])
    yield not_taken("out different, without a row", "7.6", [part | {"index": 0}, part | {"index": 1, "out": 3}])
    yield taken("out different, with a row", [part | {"row": 0}, part | {"row": 2, "out": 3}])
    yield taken("rank different", [part | {"row": 0}, part | {"row": 2, "rank": 2}])


@limit("7.7", "10^-4 ≤ alpha ≤ 2^20, as float64", "read")
def alphas():
    """A comparison in float32, or with 0 and infinity alone."""
    for alpha in (1e-4, math.nextafter(1e-4, 1), math.nextafter(2**20, 0), 2**20, 1, 0.5):
        yield taken(f"{alpha!r}", [W], alpha=alpha)
    for alpha in (
        math.nextafter(1e-4, 0), 9.9999999e-5, 9.9e-5, 0, -1, -1e-4, math.nextafter(2**20, 2**21), 2**20 + 1, 1048576.01, 2**31,
        2**32 + 1, 2**53 - 1, 1e15, 5e-324, -0.0,
    ):  # fmt: skip
        yield not_taken(f"{alpha!r}", "7.7", [W], alpha=alpha)


@exact("7.7", "s = float32(alpha / r), float32(alpha / √r)", "delta_weight")
def scales():
    """A quotient or root in float32. B·A has one 1, and else zeros."""
    for alpha in (0.1, 1, 1e-4, 2**20, 1 / 3, 123456.78901234567):
        for rank in (0, 1, 2, 3, 5, 6, 7, 12):
            for scaling in ("lora", "rslora"):
                side = rank or 1
                theta = [0.0] * (2 * rank * side or 1)
                theta[0] = theta[rank * side] = 1.0
                D = len(theta)
                segments = [{"name": "w", "out": side, "in": side, "rank": rank}]
                text = {
                    "projection": {"kind": "identity", "seed": "0", "d": D, "D": D},
                    "alpha": alpha, "layers": segments, "scaling": scaling,
                }  # fmt: skip
                delta = [files.factor_scale(text, segments[0])] + [0.0] * (side**2 - 1)
                file = files.write(text, {"theta": ("F32", [D], theta)})
                yield gives(f"{alpha!r}, rank {rank}, {scaling}", {"delta": delta}, file=file, segment=0)


@limit("7.4 7.5 7.10", "the rows and columns of a weight", "merge", of="k_1 · k_2 · …")
def weights():
    """A product of k_1, k_2, … that is not taken, or in another order; rows beyond the end; a dimension more."""
    theta = {"theta": ("F32", [2], [0.0, 0.0])}  # so that what is added is 0

    def merged(name, segment, shape, rules=""):
        file = files.write(described([{"name": "w", "out": 2, "in": 12, "rank": 1} | segment]), theta)
        weights = {"w": {"shape": shape, "values": [1.0 + n for n in range(math.prod(shape))]}}
        if rules:
            return refused(name, rules, file=file, weights=weights)
        return gives(name, {"weights": weights}, file=file, weights=weights)

    for shape in ([2, 12], [2, 3, 4], [2, 1, 12], [2, 12, 1, 1], [2, 2, 3, 2]):
        yield merged(f"{shape}", {}, shape)
    for shape in (
        [12, 2],
        [2, 11],
        [2, 13],
        [1, 12],
        [3, 12],
        [24],
        [2, 3, 3],
        [3, 2, 4],
        [1, 2, 12],
        [2, 12, 0],
        [0, 2**16, 2**16 + 12],
    ):
        yield merged(f"{shape}", {}, shape, "10.3 7.4")
    for row, rows, fits in (
        (0, 2, True),
        (0, 1, False),
        (1, 3, True),
        (1, 2, False),
        (5, 7, True),
        (5, 6, False),
        (2**32, 7, False),
        (2**31, 7, False),
    ):
        yield merged(f"rows from {row} on of {rows}", {"row": row}, [rows, 12], "" if fits else "10.3")
    yield merged("rows of a transposed weight", {"row": 1, "transposed": True}, [12, 3])
    yield merged("one too few of a transposed weight", {"row": 2, "transposed": True}, [12, 3], "10.3")
    for index, count, fits in ((0, 1, True), (1, 2, True), (1, 1, False), (2, 2, False), (2**32, 2, False)):
        yield merged(f"the index {index} of {count}", {"index": index}, [count, 2, 12], "" if fits else "10.3")
    yield merged("an index of two dimensions", {"index": 0}, [2, 12], "10.3 7.4")
    yield merged("an index of four", {"index": 0}, [1, 2, 3, 4], "10.3 7.4")
    yield merged("a transposed one of three", {"transposed": True}, [12, 2, 1], "10.3 7.4")
    yield merged("a transposed one", {"transposed": True}, [12, 2])
    yield merged("a transposed one, turned", {"transposed": True}, [2, 12], "10.3")
