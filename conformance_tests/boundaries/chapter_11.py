"""SPEC 11: the family."""

import math

from ..oracle import arithmetic, family, files, parts
from ..oracle.family import Rounded
from ..oracle.kinds import LAYERED, fastfood, vera
from . import exact, gives, limit, refused
from .chapter_07 import described, file_of

MOST = 2**40
LARGEST_OPTION = 2**31 - 1


def of_kind(kind, segments, d=None, seed=42, **own):
    """The projection of these segments; ``d``, if not given, is what follows from them."""
    p = {
        "kind": kind,
        "seed": str(seed),
        "d": d,
        "D": sum(map(files.size, files.unfold(segments))),
        "layers": segments,
        **own,
    }
    return p | {"d": d if d is not None else LAYERED[kind].dim(p, files.unfold(segments))}


def segment(out, columns, rank=1, name="w"):
    return {"name": name, "out": out, "in": columns, "rank": rank}


def theta_of(d):
    return [arithmetic.f32((5 * j % 7 - 3) / 3) for j in range(d)]


def expanded(name, p, start=0, stop=None, theta=None):
    theta, stop = theta_of(p["d"]) if theta is None else theta, p["D"] if stop is None else stop
    theta_D, _ = family.expand(p, theta, start, stop)
    return gives(name, {"theta_D": theta_D}, projection=p, theta=theta, start=start, stop=stop)


def not_expanded(name, rules, p):
    return refused(name, rules, projection=p, theta=[0.0] * min(max(p["d"], 0), 2**20), start=0, stop=0)


FREE = {"layerwise": 2, "nonuniform": 2, "chain": 2, "fastfood": 2}
OPTIONS = {"vb": {"length": 1, "bank": 2, "topk": 2}, "nonuniform": {"of_A": 1, "of_B": 1}, "chain": {"links": 2}}


def plain(kind, segments=None, **changes):
    """A projection of the kind with the least that it needs."""
    p = of_kind(kind, segments or [segment(2, 2, 2)], FREE.get(kind, 0), **OPTIONS.get(kind, {}))
    for name, (_, length, _) in (LAYERED[kind].own(p, p["layers"]) if hasattr(LAYERED[kind], "own") else {}).items():
        p[name] = [0] * length
    if kind not in FREE:
        p["d"] = LAYERED[kind].dim(p, p["layers"])
    return p | changes


@limit("11.1", "the layer map's D is D; another d", "expand", kinds=[kind for kind in LAYERED if kind != "fastfood"])
def sizes(kind):
    """D or d in 32 bits; a d that is taken as it is where it follows from the layer map. (fastfood knows D alone, 11.12.)"""
    p = plain(kind)
    zeros = [0.0] * p["d"]
    yield gives("as it is, no rows", {"theta_D": []}, projection=p, theta=zeros, start=0, stop=0)
    own = f" {LAYERED[kind].RULE} 8.8"
    for D in (p["D"] - 1, p["D"] + 1, p["D"] + 2**32, 0, MOST + 1):
        yield not_expanded(f"D = {D}", "11.1 1.1" + own, p | {"D": D})
    follows = kind not in FREE
    for d in (p["d"] - 1, p["d"] + 1, 2 * p["d"], p["d"] + 256) if follows else ():
        yield not_expanded(f"d = {d}", "11.1 1.1" + own, p | {"d": d})
    for d in (0, -1, 2**31, 2**32 + p["d"]):
        yield refused(f"d = {d}", "11.1 1.1" + own, projection=p | {"d": d}, theta=zeros, start=0, stop=0)


@limit("11.1", "options from their least to 2^31 − 1", "expand", kinds=tuple(OPTIONS))
def options(kind):
    """An option in 32 bits; 0 as none; one less than the least."""
    p = plain(kind)
    yield gives("as they are", {"theta_D": []}, projection=p, theta=[0.0] * p["d"], start=0, stop=0)
    for option in OPTIONS[kind]:
        least = LAYERED[kind].OPTIONS[option][0]
        for value in (least - 1, -1, -(2**32) + p[option], 2**31, 2**32, 2**32 + p[option], MOST, 2**53 - 1):
            yield not_expanded(f"{option} = {value}", f"11.1 {LAYERED[kind].RULE}", p | {option: value})


@limit(
    "11.1",
    "no segment of rank 0 in a kind of A and B",
    "expand",
    kinds=[k for k in LAYERED if not getattr(LAYERED[k], "WHOLE", False)],
)
def rank_0(kind):
    """A segment without A and B that takes no entries, or those of one."""
    p = plain(kind)
    yield gives("rank 2", {"theta_D": []}, projection=p, theta=[0.0] * p["d"], start=0, stop=0)
    for at in (0, 1):
        segments = [segment(2, 2, 2, "v"), segment(2, 2, 2, "w")]
        q = plain(kind, segments)
        q["layers"] = [s | {"rank": 0 if k == at else 2} for k, s in enumerate(segments)]
        q["D"] = 12
        yield not_expanded(f"segment {at} of two", f"11.1 {LAYERED[kind].RULE}", q)


# vera (11.6)


def _vera(name, p, at, wanted):
    """Rows from ``at`` on of the first segment: of A, (row, column) of ``wanted``."""
    columns = max(s["in"] for s in p["layers"])
    theta = [0.7, -1.3, *theta_of(p["d"] - 2)] if p["d"] > 1 else [0.7]
    theta = [arithmetic.f32(x) for x in theta]
    theta_D = [float(Rounded(vera.shared(p, 1, columns, row, column)) * Rounded(theta[row])) for row, column in wanted]
    return gives(name, {"theta_D": theta_D}, projection=p, theta=theta, start=at, stop=at + len(wanted))


@exact("11.6", "row · I + column beyond 2^32", "expand", kind="vera", of="number of a stream: row · I + column")
def far_streams():
    """The number of a stream in 32 bits, or the whole matrices for a slice of two numbers."""
    p = of_kind("vera", [segment(1, 2**36)])
    for at in (0, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**35, 2**36 - 2):
        yield _vera(f"in = 2^36, from {at} on", p, at, [(0, at), (0, at + 1)])
    p = of_kind("vera", [segment(3, 2**33 + 1, 3)])
    for row, column in ((0, 2**33), (1, 0), (1, 2**32), (2, 0), (2, 2**33)):
        yield _vera(f"in = 2^33 + 1, row {row}, column {column}", p, row * (2**33 + 1) + column, [(row, column)])


@limit("11.6", "R · I and O · R at most D or 2^24", "expand", kind="vera", of="R · I, O · R")
def shared_matrices():
    """R · I in 32 bits; a limit without D, or without 2^24."""

    def of(rank, I, O):
        """R · I and O · R of a segment of the rank and one that is long."""
        return of_kind("vera", [segment(O, I, 1, "long"), segment(rank, rank, rank, "square")])

    for name, p in (
        ("R · I = 2^24", of(4, 2**22, 1)), ("O · R = 2^24", of(256, 1, 2**16)), ("both far below", of(4, 5, 5)),
        ("R · I = D", of_kind("vera", [segment(1, 2**36)])),
        ("R · I above 2^24 and below D", of_kind("vera", [segment(8, 2**30, 8), segment(4, 4, 4, "v")])),
    ):  # fmt: skip
        theta = theta_of(p["d"])
        first = float(Rounded(vera.shared(p, 1, max(s["in"] for s in p["layers"]), 0, 0)) * Rounded(theta[0]))
        yield gives(name, {"theta_D": [first]}, projection=p, theta=theta, start=0, stop=1)
    for name, p in (
        ("R · I = 2^24 + 4", of(4, 2**22 + 1, 1)), ("O · R = 2^24 + 256", of(256, 1, 2**16 + 1)), ("R · I = 2^32", of(256, 2**24, 1)),
        ("R · I = 2^32 + 256", of(256, 2**24 + 1, 1)), ("R · I = 2^40", of(16, 2**36, 1)), ("R · I = D + 2", of(2, 2**30, 1)),
        ("R · I = 2^47", of(2**8, 2**39, 1)),
    ):  # fmt: skip
        yield not_expanded(name, "11.6", p)


@exact("11.6 11.7", "R, I and O, the largest of all segments", "expand", kinds=("vera", "tied"))
def largest_sides(kind):
    """Each from another segment; of the first or the last one alone."""
    segments = [segment(2, 7, 1, "a"), segment(7, 2, 2, "b"), segment(3, 3, 3, "c")]
    for name, order in (("as they are", segments), ("backwards", segments[::-1])):
        yield expanded(name, of_kind(kind, order))


@exact("11.7 1.1", "d may exceed D", "expand", kind="tied")
def more_numbers_than_entries():
    """d ≤ D where d follows from the layer map."""
    p = of_kind("tied", [segment(1, 9, 1, "a"), segment(9, 1, 1, "b")])
    assert p["d"] > p["D"]
    yield expanded(f"d = {p['d']}, D = {p['D']}", p)


@exact("11.8 11.9", "sums over m, of whole numbers, which are exact in any order", "expand", kinds=("dense", "xs"))
def whole_sums(kind):
    """A sum over the rank of another segment, M or R turned, the last columns of what all share."""
    segments = [segment(2, 7, 2, "a"), segment(7, 2, 1, "b"), segment(5, 4, 4, "c"), segment(3, 3, 3, "d")]
    for name, order in (("as they are", segments), ("backwards", segments[::-1])):
        p = of_kind(kind, order)
        if kind == "xs":
            p["frozen"] = [float(1 + 3 * j % 5) for j in range(LAYERED["xs"].own(p, order)["frozen"][1])]
        yield expanded(name, p, theta=[float(1 + 5 * j % 7) for j in range(p["d"])])


@limit("11.9 11.10", "a `frozen` of its length", "expand", kinds=("xs", "qr"))
def frozen(kind):
    """Numbers that are cut, or read beyond the end; any finite numbers are sound."""
    p = plain(kind)
    length = len(p["frozen"])
    yield gives("as it is", {"theta_D": []}, projection=p, theta=[0.0] * p["d"], start=0, stop=0)
    for other in (0, length - 1, length + 1, 2 * length):
        yield not_expanded(f"{other} of {length}", f"{LAYERED[kind].RULE} 1.3 8.3", p | {"frozen": [0.0] * other})


# vb (11.11)


def _vb(segments, length, bank, topk, index=None):
    p = {"length": length, "bank": bank, "topk": topk}
    n = LAYERED["vb"].count(p, segments)
    return of_kind("vb", segments, **p, index=[j % bank for j in range(n * topk)] if index is None else index)


@exact("11.11", "w_k = ((1 − w_1) − w_2) − … − w_(k−1), and the sum in order", "expand", kind="vb")
def last_weights():
    """1 − (w_1 + w_2 + …), or the products added from the last one on: their roundings are others."""
    small = [segment(1, 1)]
    for name, weights in (
        ("two of 2^-25", [2.0**-25] * 2), ("three of 2^-25", [2.0**-25] * 3), ("2^-25 and 2^-24", [2.0**-25, 2.0**-24]), ("tenths", [0.1, 0.2, 0.3]),
        ("large ones", [16777216.0, 1.0]), ("1 and 2^-30", [1.0, 2.0**-30]), ("thirds", [1 / 3, 1 / 3]), ("one", [0.3]), ("none", []),
        ("seven of 0.1", [0.1] * 7),
    ):  # fmt: skip
        k = len(weights) + 1
        for how, bank in (
            ("last", [0.0] * (k - 1) + [1.0]),
            ("rounded", [1.1, 1e8, -1e8, 3.3, 0.7, 1e-8, 5.5, 9.1][:k]),
        ):
            p = _vb(small, 1, k, k)
            theta = [arithmetic.f32(x) for x in [*bank, *weights, *weights]]
            yield expanded(f"{name}, {how}", p, theta=theta)


@exact("11.11", "sub-vectors through all segments, A before B, of b numbers", "expand", kind="vb")
def sub_vectors():
    """B cut as A is, or numbered for each segment anew."""
    for b in (1, 2, 3):
        segments = [segment(2 * b, 3 * b, 2, "a"), segment(b, b, 1, "b"), segment(3 * b, b, 1, "c")]
        yield expanded(f"length {b}", _vb(segments, b, 5, 2))


@limit(
    "11.11",
    "b divides in and out; each index from 0 to h − 1; n · k of them",
    "expand",
    kind="vb",
    of=("h · b", "n · k"),
)
def banks():
    """h · b or n · k in 32 or 64 bits: a bank of 2^32 numbers takes none of θ."""
    p = _vb([segment(4, 6, 1)], 2, 3, 2)
    yield expanded("as it is", p)
    rule = "11.11 11.1"
    for length in (3, 4, 5, 6, 12, 2**31 - 1):
        yield not_expanded(f"length {length}", rule + " 1.3", p | {"length": length})
    for value in (3, -1, 255, 256, 2**31 - 1, 2**31, 2**32, 2**32 + 1, -(2**31), 2**62):
        yield not_expanded(f"a row {value} of 3", "11.11", p | {"index": [value, *p["index"][1:]]})
        yield not_expanded(f"a last row {value} of 3", "11.11", p | {"index": [*p["index"][:-1], value]})
    for count in (0, 1, len(p["index"]) - 1, len(p["index"]) + 1, 2 * len(p["index"])):
        yield not_expanded(f"{count} rows of {len(p['index'])}", "11.11 1.3 8.3", p | {"index": [0] * count})
    side = 2**16
    n = 2
    for name, length, bank, topk, index in (
        ("h · b = 2^32", side, side, 2, [0] * 2 * n), ("h · b = 2^32 − 2", 2, 2**31 - 1, 1, [0] * side),
        ("h · b = 2^31", side, 2**15, 1, [0] * n), ("h · b above 2^46", side, 2**31 - 1, 1, [0] * n), ("n · k = 2^32", side, 1, 2**31, []),
        ("n · k = 2^32 − 2", side, 1, 2**31 - 1, [0]),
    ):  # fmt: skip
        q = of_kind("vb", [segment(side, side)], 1, length=length, bank=bank, topk=topk, index=index)
        many = LAYERED["vb"].count(q, q["layers"])
        for bits in (32, 64):
            d = (bank * length + many * (topk - 1)) % 2**bits
            yield not_expanded(f"{name}, d modulo 2^{bits}", rule + " 1.1 1.3", q | {"d": min(max(d, 1), 2**31 - 1)})
    q = of_kind("vb", [segment(1, 2**34 - 1)], 1, length=1, bank=1, topk=2**30, index=[])
    yield not_expanded("n · k = 2^64", rule + " 1.1 1.3", q)


# fastfood (11.12)


def _fastfood(d, D, seed=42):
    return of_kind("fastfood", [segment(1, D, 0)], d, seed)


def _block(name, p, at, theta=None, count=2):
    """Entries from ``at`` on, by their blocks alone."""
    theta = theta_of(p["d"]) if theta is None else theta
    L = fastfood.size(p["d"])
    stop = min(at + count, p["D"])
    blocks = {
        k: fastfood.block(p, k, [Rounded(x) for x in theta], Rounded) for k in range(at // L, (stop - 1) // L + 1)
    }
    theta_D = [float(blocks[i // L][i % L]) for i in range(at, stop)]
    return gives(name, {"theta_D": theta_D}, projection=p, theta=theta, start=at, stop=stop)


@exact("11.12", "numbers of a stream beyond 2^32", "expand", kind="fastfood",
       of=("number of a stream: 12i + 11", "h_t(12i) + … + h_t(12i + 11)", "D · L"))  # fmt: skip
def far_blocks():
    """i, 12i + 11 or kL + i in 32 bits; a sum of twelve numbers in 32; D · L in 32."""
    for d in (1, 3, 5):
        p = _fastfood(d, MOST)
        for at in (
            0,
            2**28,
            357_913_941,
            357_913_942,
            2**29,
            2**31 - 4,
            2**31,
            2**32 - 4,
            2**32,
            2**35,
            2**36 + 2**33,
            MOST - 2,
        ):
            yield _block(f"d = {d}, from {at} on", p, at)
    for D in (MOST - 1, 2**32, 2**32 + 1, 2**31, 999_999_999_999, 16_777_217):
        yield _block(f"D = {D}", _fastfood(3, D), D - 3)


@exact("11.12", "the smallest power of two that is not below d", "expand", kind="fastfood")
def block_sizes():
    """A power that is not above d, or always above it; a last block that is not cut off."""
    for d in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65):
        L = fastfood.size(d)
        D = 2 * L + max(d // 2, 1)
        yield _block(f"d = {d}", _fastfood(d, D), 0, count=D)


@exact("11.12", "b_i = 0 times θ_min(i, d−1), so that a zero has a sign", "expand", kind="fastfood")
def padding():
    """Padding by +0 is another number where θ_(d−1) is negative. All θ are zeros here, with the signs that make b_i · θ_i −0."""
    for d, seed in ((3, 3), (5, 3), (6, 10), (7, 3)):
        signs = [arithmetic.hashed(seed, 1, i) < 2**31 for i in range(d)]
        theta = [-0.0 if positive else 0.0 for positive in signs]
        yield _block(f"d = {d}, seed {seed}", _fastfood(d, 16, seed), 0, theta, 16)


# kinds in parts (11.13 to 11.15)


def _found(name, p, rows, dims, part_and_entry, start):
    index = [parts.column(p, part, entry, rows, dims) for part, entry in part_and_entry]
    return gives(name, {"index": index}, projection=p, start=start, stop=start + len(index))


@exact("11.13", "parts beyond 8 bits, 65,536 of them", "index", kind="layerwise", of="2^32 · K_(10+2p) + K_(11+2p)")
def many_layers():
    """The number of a part in 8 bits, signed or not, or in 16; a seed whose halves are added in 32."""
    for count in (2, 3, 129, 257, 300, 65_536):
        run = {"layers": [0, count], "prefix": "l.", "segments": [segment(1, 2, name=".w")]}
        p = of_kind("layerwise", [run], 2 * count)
        rows, dims = [3] * count, [2] * count
        for part in sorted({0, 1, 127, 128, 255, 256, count - 1} & {*range(count)}) if count < 1000 else [65_535]:
            yield _found(f"layer {part} of {count}", p, rows, dims, [(part, entry) for entry in range(3)], 3 * part)


@exact("11.13", "the head with the first number, its dot included", "index", kind="layerwise")
def heads():
    """layer.1 and layer.10 for one layer; a number that is text; the last number in place of the first."""
    for name, names in {
        "1 and 10": ["layer.1.q", "layer.10.q", "layer.1.v", "layer.10.v"], "1 and 1x": ["h.1", "h.1x", "h.1.a"],
        "the first number": ["a.0.b.1", "a.0.b.2", "a.1.b.1"], "leading zeros": ["a.01.x", "a.1.x", "a.01.y", "a.02.1"],
        "nine digits and ten": ["a.999999999.x", "a.9999999990.x", "a.9999999990.y", "a.999999999.y"],
        "no number": ["a", "b", "a.b", "c.x"], "a number alone": ["0", "1", "0.x", "00"], "digits of other scripts": ["l.١.a", "l.١.b", "l.1.a"],
        "not together": ["l.0.a", "l.1.a", "l.0.b", "m", "l.1.b"], "two names with one head": ["l.0", "l.0.0", "l.0.1", "k.0"],
    }.items():  # fmt: skip
        segments = [segment(2, 2, name=each) for each in names]
        p = of_kind("layerwise", segments, 3 * len(names))
        yield gives(name, {"index": LAYERED["layerwise"].index(p, segments)}, projection=p, start=0, stop=p["D"])


@exact("1.4 11.13", "c_p = ⌊d · E_p / D⌋", "index", kind="layerwise", of="d · E_p")
def shares():
    """d · E_p has 71 bits: a float64 is off where it is just below, at or just above a whole number times D."""
    for D, d in (
        (MOST - 1, 2**31 - 2),
        (MOST - 3, 2**31 - 1),
        (2**39 + 1, 2**30 + 1),
        (999_999_999_989, 2_000_000_011),
    ):
        d = next(each for each in range(d, 0, -1) if math.gcd(each, D) == 1)
        inverse = pow(d, -1, D)
        for below in (1, 2, 0):
            first = -below * inverse % D if below else D // 2
            rows = [first, D - first]
            dims = LAYERED["layerwise"].columns(d, rows)
            if min(rows) < 2 or not all(dims):
                continue
            p = of_kind("layerwise", [segment(1, size - 1, name=f"{k}") for k, size in enumerate(rows)], d)
            for part, entry in ((0, rows[0] - 1), (1, 0), (1, rows[1] - 1)):
                at = part * rows[0] + entry
                yield _found(f"D = {D}, d = {d}, E_1 = {first}, row {at}", p, rows, dims, [(part, entry)], at)


@limit("11.13", "no layer without a column", "index", kind="layerwise")
def layers_without_columns():
    """A layer of d_p = 0, the first, a middle or the last one."""
    for sizes in ([1, 1, 1], [1, 20, 20], [20, 1, 20], [20, 20, 1]):
        segments = [segment(1, size, name=f"{k}") for k, size in enumerate(sizes)]
        rows = [size + 1 for size in sizes]
        D = sum(rows)
        for d in range(1, D + 1):
            p = of_kind("layerwise", segments, d)
            if all(LAYERED["layerwise"].columns(d, rows)):
                yield gives(
                    f"{rows}, d = {d}",
                    {"index": LAYERED["layerwise"].index(p, segments)},
                    projection=p,
                    start=0,
                    stop=D,
                )
            else:
                yield refused(f"{rows}, d = {d}", "11.13", projection=p, start=0, stop=D)


@limit(
    "11.14", "1 ≤ d_p ≤ D_p, d_0 = ⌊d · of_A / (of_A + of_B)⌋", "index", kind="nonuniform", of="d · of_A, of_A + of_B"
)
def shares_of_A_and_B():
    """of_A + of_B in 32 bits is negative, d · of_A in a float64 is rounded."""
    segments = [segment(2, 3, 2, "a"), segment(3, 2, 1, "b")]
    for of_A, of_B in (
        (1, 1),
        (1, 2),
        (2, 1),
        (1, 3),
        (LARGEST_OPTION, LARGEST_OPTION),
        (1, LARGEST_OPTION),
        (LARGEST_OPTION, 1),
        (2**30, 2**30 + 1),
    ):
        for d in range(1, 16):
            p = of_kind("nonuniform", segments, d, of_A=of_A, of_B=of_B)
            sizes = [LAYERED["nonuniform"].part_of(segments).count(part) for part in (0, 1)]
            dims = LAYERED["nonuniform"].columns(p, d)
            if all(1 <= dim <= size for dim, size in zip(dims, sizes)):
                yield gives(
                    f"{of_A} : {of_B}, d = {d}",
                    {"index": LAYERED["nonuniform"].index(p, segments)},
                    projection=p,
                    start=0,
                    stop=p["D"],
                )
            else:
                yield refused(f"{of_A} : {of_B}, d = {d}", "11.14", projection=p, start=0, stop=p["D"])
    square = [segment(20, 20, 8)]
    for of_A, of_B, d in (
        (3, 8, 55),
        (1, 48, 49),
        (1, 48, 98),
        (11, 11, 30),
        (7, 7, 122),
    ):  # d times a rounded quotient is off by one
        p = of_kind("nonuniform", square, d, of_A=of_A, of_B=of_B)
        yield gives(
            f"{of_A} : {of_B}, d = {d}",
            {"index": LAYERED["nonuniform"].index(p, square)},
            projection=p,
            start=0,
            stop=p["D"],
        )
    half = 2**31  # rows of A and of B
    for of_A, of_B, d in (
        (LARGEST_OPTION, LARGEST_OPTION, 2**31 - 1),
        (2**30 + 1, 2**30 - 1, 2**31 - 1),
        (2**31 - 3, 2**31 - 1, 2**31 - 5),
        (3, 1, 2**31 - 1),
    ):
        p = of_kind("nonuniform", [segment(half, half)], d, of_A=of_A, of_B=of_B)
        dims = LAYERED["nonuniform"].columns(p, d)
        for part, entry in ((0, 0), (0, half - 1), (1, 0), (1, half - 1)):
            yield _found(
                f"{of_A} : {of_B}, d = {d}, part {part}, entry {entry}",
                p,
                [half, half],
                dims,
                [(part, entry)],
                part * half + entry,
            )


@limit("11.15", "links from 2, at most 65,536, that divide d and the rank of every segment", "index", kind="chain")
def links():
    """The number of a link in 8 or 16 bits; a d, or one rank of many, that is not looked at."""

    def chain(count, d, *ranks):
        return of_kind("chain", [segment(r, r, r, f"{k}") for k, r in enumerate(ranks)], d, links=count)

    for count in (2, 3, 4, 129, 257, 300, 65_536):
        p = chain(count, 2 * count, count)
        rows, dims = [2 * count] * count, [2] * count
        for part in sorted({0, 1, 127, 128, 255, 256, count - 1} & {*range(count)}) if count < 1000 else [65_535]:
            yield _found(f"link {part} of {count}, of A", p, rows, dims, [(part, count - 1)], (part + 1) * count - 1)
            yield _found(
                f"link {part} of {count}, of B", p, rows, dims, [(part, 2 * count - 1)], 2 * count**2 - count + part
            )
    small = chain(2, 4, 4, 2)
    index = LAYERED["chain"].index(small, small["layers"])
    yield gives("all of two links", {"index": index}, projection=small, start=0, stop=small["D"])
    for name, p in (
        ("65,537", chain(65_537, 2 * 65_537, 65_537)), ("131,072", chain(131_072, 131_072, 131_072)), ("d", chain(2, 5, 4)), ("the first rank", chain(2, 4, 3, 2)),
        ("the last rank", chain(2, 4, 2, 3)), ("3 of d = 4", chain(3, 4, 3)), ("4 of a rank of 2", chain(4, 4, 2)), ("d below the links", chain(4, 2, 4)),
        ("a rank of 1", chain(2, 4, 4, 1)), ("2^31 − 1", chain(LARGEST_OPTION, 4, 4)), ("2^16 + 2", chain(65_538, 4, 4)),
    ):  # fmt: skip
        yield refused(f"{name}", "11.15 11.1", projection=p, start=0, stop=0)
    for count in (1, 0, -2, 2**32 + 2):
        yield refused(f"{count} links", "11.15 11.1", projection=chain(count, 4, 4), start=0, stop=0)


@exact("11.15 11.5", "link 0 as 6.4, all others 0", "initial", kind="chain")
def start_of_a_chain():
    """All links begin, or j is counted in each."""
    for count, d in ((2, 6), (3, 6), (2, 2)):
        p = of_kind("chain", [segment(6, 6, 6)], d, links=count)
        yield gives(
            f"{count} links, d = {d}", {"theta": LAYERED["chain"].start(p, p["layers"], 0.5)}, projection=p, bound=0.5
        )


@exact("11.5", "what a range begins with", "initial", kinds=[k for k in LAYERED if hasattr(LAYERED[k], "theta_D")])
def starts(kind):
    """Roots and quotients in float32; j counted in each range; the bound of the request taken."""
    segments = [segment(6, 3, 2, "a"), segment(3, 6, 3, "b")]
    if kind == "fastfood":
        p = of_kind(kind, segments, 40)
    elif kind == "vb":
        p = _vb(segments, 3, 7, 3)
    else:
        p = of_kind(kind, segments, 0)
        own = LAYERED[kind].own(p, segments) if hasattr(LAYERED[kind], "own") else {}
        p |= {name: [0.0] * length for name, (_, length, _) in own.items()} | {"d": LAYERED[kind].dim(p, segments)}
    for bound in (0.02, 5.0):
        yield gives(f"a bound of {bound}", {"theta": LAYERED[kind].start(p, segments)}, projection=p, bound=bound)


@exact("11.5", "6.4, j being the entry of θ in all of it", "initial", kinds=("layerwise", "nonuniform"))
def starts_of_parts(kind):
    """j counted in each part; the bound of the kinds with ranges."""
    p = of_kind(kind, [segment(2, 3, 2, "a.0"), segment(3, 2, 1, "a.1")], 8, **OPTIONS.get(kind, {}))
    for bound in (0.02, 0.5):
        theta = [arithmetic.f32(arithmetic.start(42, j) * bound) for j in range(8)]
        yield gives(f"a bound of {bound}", {"theta": theta}, projection=p, bound=bound)


@exact(
    "11.3",
    "each sum and each product rounded once, in the order of the rule",
    "expand",
    kinds=("vera", "tied", "vb", "fastfood", "qr"),
)
def roundings(kind):
    """Products or sums in float64, or fused: numbers below the normal range, odd ones, the largest that does not overflow."""
    numbers = [1.1, -0.3, 2.0**-140, 1e-38, -(2.0**-149), 16777217.0, 3.3, -0.0, 0.1, 1e10, -7.7, 1 / 3]
    segments = [segment(3, 6, 2, "a"), segment(6, 3, 3, "b")]
    p = (
        of_kind(kind, segments, 12)
        if kind == "fastfood"
        else _vb(segments, 3, 4, 3)
        if kind == "vb"
        else of_kind(kind, segments, 0, frozen=[])
    )
    if kind == "qr":
        p["frozen"] = [arithmetic.f32(numbers[j % 12]) for j in range(LAYERED["qr"].own(p, segments)["frozen"][1])]
    if kind not in ("fastfood", "vb"):
        p = {key: value for key, value in p.items() if key != "frozen" or kind == "qr"} | {
            "d": LAYERED[kind].dim(p, segments)
        }
    theta = [arithmetic.f32(numbers[j % 12]) for j in range(p["d"])]
    yield expanded("all", p, theta=theta)
    yield expanded("a slice", p, 3, 11, theta)


@limit("11.1 8.6", "options, fields of `projection` that must be there", "read", kinds=tuple(OPTIONS))
def options_of_a_file(kind):
    """An option that is missing, given to another kind, or spelled with a point."""
    p = plain(kind)
    own = {
        name: (dtype, [length], [0] * length)
        for name, (dtype, length, _) in (
            LAYERED[kind].own(p, p["layers"]) if hasattr(LAYERED[kind], "own") else {}
        ).items()
    }
    tensors = {"theta": ("F32", [p["d"]], [0.0] * p["d"])} | own
    bare = {key: value for key, value in p.items() if key not in ("layers", *own)}
    text = described(p["layers"]) | {"projection": bare}
    yield gives("as they are", {"description": files.describe(text)}, file=files.write(text, tensors))
    for option in OPTIONS[kind]:
        for name, rules, change in (
            ("missing", "8.6", lambda q, o=option: q.pop(o)), ("0", f"11.1 {LAYERED[kind].RULE}", lambda q, o=option: q.update({o: 0})),
            ("a text", "8.6", lambda q, o=option: q.update({o: str(q[o])})), ("true", "8.6", lambda q, o=option: q.update({o: True})),
            ("2^31", f"11.1 {LAYERED[kind].RULE}", lambda q, o=option: q.update({o: 2**31})), ("a list", "8.6", lambda q, o=option: q.update({o: [q[o]]})),
            ("in capitals too", "8.6", lambda q, o=option: q.update({o.upper(): q[o]})),
        ):  # fmt: skip
            changed = dict(bare)
            change(changed)
            yield refused(f"{option}: {name}", rules, file=files.write(text | {"projection": changed}, tensors))
        yield refused(
            f"{option} of balanced",
            "8.6",
            file=file_of(described(p["layers"]) | {"projection": bare | {"kind": "balanced"}}),
        )
