"""SPEC 11.12 to 11.15: `fastfood`, and the kinds in parts."""

import math

from ..oracle import arithmetic, parts
from ..oracle.family import Rounded
from ..oracle.kinds import LAYERED, fastfood
from . import exact, gives, limit, refused
from .chapter_11 import LARGEST_OPTION, MOST, OPTIONS, of_kind, segment, theta_of


def _fastfood(d, D, seed=42):
    """One segment of rank 0 with so many entries, of which neither side has 2^40 (7.2)."""
    sides = (2**20, 2**20) if D == MOST else (1, D)
    return of_kind("fastfood", [segment(*sides, 0)], d, seed)


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


@exact("11.12 11.2", "numbers of a stream beyond 2^32", "expand", kind="fastfood",
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


@exact("11.5", "6.4, j being the entry of θ in all of it", "initial", kinds=("layerwise", "nonuniform"))
def starts_of_parts(kind):
    """j counted in each part; the bound of the kinds with ranges."""
    p = of_kind(kind, [segment(2, 3, 2, "a.0"), segment(3, 2, 1, "a.1")], 8, **OPTIONS.get(kind, {}))
    for bound in (0.02, 0.5):
        theta = [arithmetic.f32(arithmetic.start(42, j) * bound) for j in range(8)]
        yield gives(f"a bound of {bound}", {"theta": theta}, projection=p, bound=bound)
