"""SPEC 1: limits."""

from ..oracle import arithmetic
from . import exact, gives, limit, refused

MOST = 2**40


def of_numbers(kind, d, D, seed=42):
    return {"kind": kind, "seed": str(seed), "d": d, "D": D}


def rows(kind, name, d, D, start, stop):
    index = [arithmetic.index(kind, D, d, 42, i) for i in range(start, stop)]
    return gives(name, {"index": index}, projection=of_numbers(kind, d, D), start=start, stop=stop)


@limit("1.1", "1 ≤ d ≤ D ≤ 2^40, d < 2^31", "index", kinds=("balanced", "uniform"))
def sizes(kind):
    """A d or D in 32 bits wraps to one that is sound; a comparison with ≤ in place of < takes 2^31."""
    for d, D in ((1, 1), (1, 5), (5, 5), (2**31 - 1, 2**31 - 1), (2**31 - 1, MOST), (2**16, 2**16 + 1), (7, 2**32 + 7)):
        yield rows(kind, f"d = {d}, D = {D}", d, D, 0, min(D, 3))
    for d, D in (
        (0, 5), (-1, 5), (6, 5), (0, 0), (1, 0), (1, -1), (2**31, MOST), (2**31, 2**31), (2**32 + 2, MOST), (2, MOST + 1),
        (2, 2**41), (2, 2**53 - 1), (2**53 - 1, 2**53 - 1), (-(2**32) + 2, 5), (2, 5 - 2**32), (2**40 + 2, MOST),
    ):  # fmt: skip
        yield refused(f"d = {d}, D = {D}", "1.1", projection=of_numbers(kind, d, D), start=0, stop=0)


@limit("1.1", "1 ≤ D ≤ 2^40", "permutation")
def size_of_a_permutation():
    """π has no d, but the same D."""
    for D in (1, MOST - 1, MOST):
        yield gives(f"D = {D}", {"y": [arithmetic.walk(D, 42, D - 1)[-1]]}, seed="42", D=D, x=[D - 1])
    for D in (0, -1, MOST + 1, 2**41, 2**53 - 1, -(2**40)):
        yield refused(f"D = {D}", "1.1", seed="42", D=D, x=[])


@limit("1.2", "0 ≤ seed < 2^64", "keys")
def seeds():
    """A seed in 32 bits, in a signed number or in a float64 is another one; 2^64 and more wraps."""
    for seed in (
        0,
        1,
        2**31,
        2**32 - 1,
        2**32,
        2**32 + 42,
        2**53 - 1,
        2**53 + 1,
        2**63 - 1,
        2**63,
        2**63 + 1,
        2**64 - 1,
    ):
        yield gives(f"seed {seed}", {"keys": arithmetic.keys(seed)}, seed=str(seed))
    for seed in (2**64, 2**64 + 1, 2**64 + 42, 2**65, 10**20, 10**30, 2**128 + 42):
        yield refused(f"seed {seed}", "1.2", seed=str(seed))


OUTSIDE = (
    (0, 6),
    (5, 6),
    (6, 6),
    (5, 4),
    (-1, 0),
    (-1, 5),
    (2**31, 2**31 + 1),
    (2**32, 2**32 + 5),
    (0, 2**32 + 5),
    (2**53 - 2, 2**53 - 1),
)
"""That are no ranges of [0, 5), some of them if cut to 32 bits."""


@limit("1.3", "a range of [0, D)", "index", kinds=("balanced", "uniform", "identity"))
def rows_outside(kind):
    """Ranges that are clipped, or wrapped at 32 bits, give rows that do not exist. The empty range exists at both ends."""
    d = 5 if kind == "identity" else 2
    for start, stop in ((0, 0), (5, 5), (4, 5), (0, 5)):
        yield rows(kind, f"[{start}, {stop})", d, 5, start, stop)
    for start, stop in OUTSIDE:
        yield refused(f"[{start}, {stop})", "1.3", projection=of_numbers(kind, d, 5), start=start, stop=stop)


@limit("1.3", "a range of [0, d)", "members", kinds=("balanced", "uniform", "identity"))
def columns_outside(kind):
    """As of rows."""
    d, D = (5, 5) if kind == "identity" else (5, 9)
    for start, stop in ((0, 0), (5, 5), (4, 5), (0, 5)):
        columns = [arithmetic.members(kind, D, d, 42, j) for j in range(start, stop)]
        answer = {"counts": list(map(len, columns)), "members": [i for column in columns for i in column]}
        yield gives(f"[{start}, {stop})", answer, projection=of_numbers(kind, d, D), start=start, stop=stop)
    for start, stop in OUTSIDE:
        yield refused(f"[{start}, {stop})", "1.3", projection=of_numbers(kind, d, D), start=start, stop=stop)


@limit("1.3", "a range of [0, d)", "scale", kinds=("balanced", "uniform", "identity"))
def scales_outside(kind):
    """As of rows."""
    d, D = (5, 5) if kind == "identity" else (5, 9)
    for start, stop in ((0, 0), (5, 5), (4, 5)):
        scale = [arithmetic.scale(arithmetic.count(kind, D, d, 42, j)) for j in range(start, stop)]
        yield gives(f"[{start}, {stop})", {"scale": scale}, projection=of_numbers(kind, d, D), start=start, stop=stop)
    for start, stop in OUTSIDE:
        yield refused(f"[{start}, {stop})", "1.3", projection=of_numbers(kind, d, D), start=start, stop=stop)


@limit("1.3", "a theta of d numbers, a range of [0, D)", "expand", kinds=("balanced", "uniform", "identity"))
def vectors(kind):
    """A vector of another length is padded, cut or read beyond its end."""
    d = 5 if kind == "identity" else 2
    p = of_numbers(kind, d, 5)
    for start, stop in ((0, 5), (5, 5), (0, 0), (4, 5)):
        theta_D = arithmetic.expand(kind, 5, d, 42, [1.0] * d, start, stop)
        yield gives(f"[{start}, {stop})", {"theta_D": theta_D}, projection=p, theta=[1.0] * d, start=start, stop=stop)
    for length in (0, d - 1, d + 1, 256 + d):
        yield refused(f"a theta of {length}", "1.3", projection=p, theta=[1.0] * length, start=0, stop=5)
    for start, stop in OUTSIDE:
        yield refused(f"[{start}, {stop})", "1.3", projection=p, theta=[1.0] * d, start=start, stop=stop)


@limit("1.3", "a gradient of its range's length", "adjoint", kinds=("balanced", "uniform", "identity"))
def gradients(kind):
    """As of theta."""
    d = 5 if kind == "identity" else 1
    theta = [0.0] * d
    yield gives("no rows", {"theta": theta}, projection=of_numbers(kind, d, 5), g=[], start=5, stop=5)
    for length in (0, 4, 6):
        yield refused(
            f"a gradient of {length}", "1.3", projection=of_numbers(kind, d, 5), g=[1.0] * length, start=0, stop=5
        )
    for start, stop in OUTSIDE[:6]:
        g = [1.0] * max(stop - start, 0)
        yield refused(f"[{start}, {stop})", "1.3", projection=of_numbers(kind, d, 5), g=g, start=start, stop=stop)


def _entries(D):
    side = arithmetic.side(D)
    return (D, side**2 - 1, side**2, 2 * D, -1, -D, 2**32, 2**32 + D - 1, 2**62, -(2**62))


@limit("1.3", "x < D", "permutation")
def entries_outside():
    """One pass could be computed for D ≤ x < a²; 2^32 is 0 in 32 bits."""
    for D in (5, 10):
        yield gives(f"x = {D - 1}", {"y": [arithmetic.walk(D, 42, D - 1)[-1]]}, seed="42", D=D, x=[D - 1])
        for x in _entries(D):
            yield refused(f"x = {x}, D = {D}", "1.3", seed="42", D=D, x=[0, x])


@limit("1.3", "y < D", "inverse")
def results_outside():
    """As of x."""
    for D in (5, 10):
        yield gives(f"y = {D - 1}", {"x": [arithmetic.inverse(D, 42, D - 1)]}, seed="42", D=D, y=[D - 1])
        for y in _entries(D):
            yield refused(f"y = {y}, D = {D}", "1.3", seed="42", D=D, y=[0, y])


@exact("1.4 4.5", "the largest D, at each row where a type ends", "index", kinds=("balanced", "uniform"))
def the_largest(kind):
    """A row in 8, 16, 32 or 33 bits, signed or not, or in a float32, is another one."""
    for bits in (8, 16, 24, 31, 32, 33, 39):
        for d in (2**31 - 1, 1000):
            yield rows(kind, f"rows around 2^{bits}, d = {d}", d, MOST, 2**bits - 2, 2**bits + 2)
    yield rows(kind, "the last rows", 2**31 - 1, MOST, MOST - 2, MOST)
