"""SPEC 4 and 5: the projections `balanced` and `uniform`."""

from ..oracle import arithmetic
from . import exact, gives
from .chapter_01 import MOST, of_numbers, rows

SIDES = sorted({
    *range(1, 18), *(2**n + k for n in range(5, 21) for k in (-1, 0, 1)), 46340, 46341, 92681, 92682, 741455, 741456, 741457,
    800_000, 900_001, 1_000_000, 1_048_573, 1_048_574,
} - {2**20 + 1})  # fmt: skip
"""Sides a, up to the largest: where a² passes 2^31, 2^32, 2^33 and 2^39, and between."""


def _sizes():
    return [D for a in SIDES for D in (a * a - 1, a * a, a * a + 1) if 1 <= D <= MOST]


@exact("4.1", "the smallest a with a² ≥ D", "permutation", of="L · a + R")
def sides():
    """A root in float32, or one in float64 that is rounded up or down, is off by one at k² or beside it."""
    for D in _sizes():
        x = [0, D // 2, D - 1]
        y = [arithmetic.walk(D, 42, each)[-1] for each in x]
        yield gives(f"D = {D}, a = {arithmetic.side(D)}", {"y": y}, seed="42", D=D, x=x)


@exact("4.4", "the same a for π⁻¹", "inverse")
def sides_of_the_inverse():
    """As of π."""
    for D in _sizes()[::3]:
        y = [0, D // 2, D - 1]
        x = [arithmetic.inverse(D, 42, each) for each in y]
        yield gives(f"D = {D}, a = {arithmetic.side(D)}", {"x": x}, seed="42", D=D, y=y)


@exact("4.2", "(mix · a) >> 32, (L + f) mod a", "permutation", of="mix · a")
def rounds():
    """mix · a has 52 bits; L + f has one more than a. D is a square here, so that nothing is walked: all of a small one, and the
    ends of large ones."""
    for a in (1, 2, 3, 4, 15, 16, 17):
        x = list(range(a * a))
        yield gives(
            f"all of a = {a}", {"y": [arithmetic.walk(a * a, 7, each)[-1] for each in x]}, seed="7", D=a * a, x=x
        )
    for a in (255, 256, 257, 32767, 32768, 46341, 65535, 65536, 65537, 2**17, 2**19 + 1, 2**20 - 1, 2**20):
        D = a * a
        x = sorted(
            {n % D for n in (0, 1, a - 1, a, a + 1, D // 2, D - a, D - 2, D - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32)}
        )
        yield gives(f"a = {a}", {"y": [arithmetic.walk(D, 7, each)[-1] for each in x]}, seed="7", D=D, x=x)


WALKS = (
    (5, 1, 0), (5, 14, 4), (26, 3, 24), (10, 106, 5), (26, 60, 15), (37, 31, 17), (17, 1013, 8), (26, 23, 3), (17, 2797, 1),
    (26, 496, 6), (37, 8674, 5), (50, 36535, 6),
)  # fmt: skip
"""D, seed and x whose walks have from 4 to 10 passes, of those with D ≤ 101 and a seed below 100,000 the longest."""


def _long():
    """Those, and walks of large D, where one pass nearly always is enough: x is what comes back to a number from D on."""
    yield from WALKS
    for k in (46341, 65536, 2**17, 2**19, 2**20 - 1):
        D, a = k * k + 1, k + 1
        for outside in (D, D + k, a * a - 1):
            x = arithmetic.inverse_pass(D, 42, outside)
            while x >= D:
                x = arithmetic.inverse_pass(D, 42, x)
            yield D, 42, x


@exact("4.3", "until the result is below D", "permutation")
def walks():
    """A walk that ends after a fixed number of passes, or takes a modulus in place of the last."""
    for D, seed, x in _long():
        passes = arithmetic.walk(D, seed, x)
        yield gives(
            f"D = {D}, seed {seed}, x = {x}: {len(passes)} passes", {"y": passes[-1:]}, seed=str(seed), D=D, x=[x]
        )


@exact("4.4", "until the result is below D", "inverse")
def walks_back():
    """As of π."""
    for D, seed, x in _long():
        passes = arithmetic.walk(D, seed, x)
        yield gives(
            f"D = {D}, seed {seed}, x = {x}: {len(passes)} passes", {"x": [x]}, seed=str(seed), D=D, y=passes[-1:]
        )


@exact("4.6", "⌊D/d⌋ + 1 for j < D mod d, j + k · d", "members", of="j + k · d")
def columns():
    """A column more or less with one row more; j + k · d beyond 32 bits."""
    for d, D in ((1, 1), (1, 300), (4, 10), (5, 10), (10, 10), (9, 10), (255, 257), (256, 512), (256, 513)):
        for j in sorted({0, D % d - 1, D % d, d - 1} & {*range(d)}):
            yield _column(d, D, j)
    for d in (2**31 - 1, 2**31 - 3):
        for j in (0, MOST % d - 1, MOST % d, d - 1):
            yield _column(d, MOST, j)
    for j in (0, 1, 2, 2**31 - 2):
        yield _column(2**31 - 1, 2**32, j)


def _column(d, D, j):
    members = arithmetic.members("balanced", D, d, 42, j)
    p = of_numbers("balanced", d, D)
    return gives(
        f"column {j}, d = {d}, D = {D}",
        {"counts": [len(members)], "members": members},
        projection=p,
        start=j,
        stop=j + 1,
    )


@exact("4.5", "π(i) mod d, at the ends of d and D", "index")
def ends():
    """A modulus in 32 bits, of a π of 40."""
    for d, D in (
        (1, 7),
        (7, 7),
        (6, 7),
        (2**16, 2**32),
        (2**31 - 1, 2**32),
        (2**31 - 1, MOST),
        (3, MOST),
        (2**30, MOST - 1),
    ):
        yield rows("balanced", f"d = {d}, D = {D}, the first rows", d, D, 0, min(D, 4))
        yield rows("balanced", f"d = {d}, D = {D}, the last rows", d, D, max(D - 4, 0), D)


@exact("5.1 5.3", "(h · d) >> 32", "index", of="h · d")
def shares():
    """h · d has 63 bits: a float64 reaches the next multiple of 2^32 that lies just above it, a signed 32-bit h is negative."""
    found = 0
    for i in range(2000):
        h = arithmetic.index("uniform", MOST, 2**32, 42, i)  # (h · 2^32) >> 32
        for below in (1, 5, 100) if h % 2 and h >= 2**31 else ():
            d = -below * pow(h, -1, 2**32) % 2**32
            if 2**30 <= d < 2**31:
                found += 1
                yield rows("uniform", f"row {i}, d = {d}: h · d is {below} below a multiple of 2^32", d, MOST, i, i + 1)
        if found >= 20:
            break
    for d in (1, 2, 2**16, 2**31 - 1):
        yield rows("uniform", f"d = {d}", d, max(d, 12), 0, 12)


@exact("5.1", "i mod 2^32, i >> 32", "index")
def high_halves():
    """Rows 2^32 apart have columns of their own: 32 bits, or a shift of a number of 32 bits by 32, give the same."""
    for high in (1, 2, 127, 128, 255):
        yield rows("uniform", f"rows around {high} · 2^32", 2**31 - 1, MOST, high * 2**32 - 2, high * 2**32 + 2)
    yield rows("uniform", "the last rows", 2**31 - 1, MOST, MOST - 3, MOST)


@exact("5.2", "n_j, which may be 0", "members")
def counted():
    """A column without a row, the last one among them."""
    columns = {j: arithmetic.members("uniform", 8, 20, 3, j) for j in range(20)}
    empty = [j for j, column in columns.items() if not column]
    for j in (*empty[:3], empty[-1], *[j for j in columns if columns[j]][:3]):
        p = of_numbers("uniform", 20, 20, 3)
        members = arithmetic.members("uniform", 20, 20, 3, j)
        yield gives(f"column {j}", {"counts": [len(members)], "members": members}, projection=p, start=j, stop=j + 1)
