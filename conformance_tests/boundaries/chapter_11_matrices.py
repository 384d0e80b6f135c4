"""SPEC 11.6 to 11.11: kinds whose A and B are made of matrices that are shared, or of a bank."""

from ..oracle import arithmetic
from ..oracle.family import Rounded
from ..oracle.kinds import LAYERED, vera
from . import exact, gives, limit
from .chapter_11 import expanded, not_expanded, of_kind, plain, segment, theta_of, vb


def _vera(name, p, at, wanted):
    """Rows from ``at`` on of the first segment: of A, (row, column) of ``wanted``."""
    columns = max(s["in"] for s in p["layers"])
    theta = [0.7, -1.3, *theta_of(p["d"] - 2)] if p["d"] > 1 else [0.7]
    theta = [arithmetic.f32(x) for x in theta]
    theta_D = [float(Rounded(vera.shared(p, 1, columns, row, column)) * Rounded(theta[row])) for row, column in wanted]
    return gives(name, {"theta_D": theta_D}, projection=p, theta=theta, start=at, stop=at + len(wanted))


@exact("11.6 11.2", "row · I + column beyond 2^32", "expand", kind="vera", of="number of a stream: row · I + column")
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


@limit("11.9 11.10 11.16", "a `frozen` of its length", "expand", kinds=("xs", "qr", "tiny"))
def frozen(kind):
    """Numbers that are cut, or read beyond the end; any finite numbers are sound."""
    p = plain(kind)
    length = len(p["frozen"])
    yield gives("as it is", {"theta_D": []}, projection=p, theta=[0.0] * p["d"], start=0, stop=0)
    for other in (0, length - 1, length + 1, 2 * length):
        yield not_expanded(f"{other} of {length}", f"{LAYERED[kind].RULE} 1.3 8.3", p | {"frozen": [0.0] * other})


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
            p = vb(small, 1, k, k)
            theta = [arithmetic.f32(x) for x in [*bank, *weights, *weights]]
            yield expanded(f"{name}, {how}", p, theta=theta)


@exact("11.11", "sub-vectors through all segments, A before B, of b numbers", "expand", kind="vb")
def sub_vectors():
    """B cut as A is, or numbered for each segment anew."""
    for b in (1, 2, 3):
        segments = [segment(2 * b, 3 * b, 2, "a"), segment(b, b, 1, "b"), segment(3 * b, b, 1, "c")]
        yield expanded(f"length {b}", vb(segments, b, 5, 2))


@limit(
    "11.11",
    "b divides in and out; each index from 0 to h − 1; n · k of them",
    "expand",
    kind="vb",
    of=("h · b", "n · k"),
)
def banks():
    """h · b or n · k in 32 or 64 bits: a bank of 2^32 numbers takes none of θ."""
    p = vb([segment(4, 6, 1)], 2, 3, 2)
    yield expanded("as it is", p)
    rule = "11.11 11.1"
    for length in (3, 4, 5, 6, 12, 2**31 - 1):
        yield not_expanded(f"length {length}", rule + " 1.3", p | {"length": length})
    for length in (3, 4, 5):  # with the d and the index that whole sub-vectors alone would have
        many = 6 // length + 4 // length
        q = p | {"length": length, "d": 3 * length + many, "index": [0] * 2 * many}
        yield not_expanded(f"length {length}, and the d of whole sub-vectors", rule, q)
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
