"""SPEC 6: values."""

import struct

from ..oracle import arithmetic
from . import exact, gives
from .chapter_01 import MOST, of_numbers


def bits(*patterns):
    """float32 numbers by their bits."""
    return list(struct.unpack(f"<{len(patterns)}f", struct.pack(f"<{len(patterns)}I", *patterns)))


COUNTS = sorted({
    *range(1, 40), *(2**n + k for n in (8, 12, 16, 20, 23, 24, 25, 30, 31, 32, 33, 39) for k in (-1, 0, 1)), 2**24 + 3, 2**32 + 42,
    12345678, 123456789, 1234567890, 12345678901, 999999999999, MOST - 1, MOST,
})  # fmt: skip


@exact("6.1", "float32(1 / √n_j), in float64", "scale")
def scales():
    """n in 32 bits or in a float32; a root in float32; a quotient of two roundings to float32. With d = 1, n_0 is D."""
    for n in COUNTS:
        yield gives(
            f"n = {n}", {"scale": [arithmetic.scale(n)]}, projection=of_numbers("balanced", 1, n), start=0, stop=1
        )


NUMBERS = bits(
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x00000002, 0x00000003, 0x007FFFFF, 0x807FFFFF, 0x00800000, 0x80800000,
    0x00800001, 0x3F800000, 0xBF800000, 0x3F7FFFFF, 0x3F800001, 0x3DCCCCCD, 0x7F7FFFFF, 0xFF7FFFFF, 0x4B800001, 0x00FFFFFF,
)  # fmt: skip
"""Zeros, numbers below the normal range and at its border, the largest, and odd ones, whose products are rounded."""


@exact(
    "6.2", "float32(θ[j]) · scale_j, one float32 multiplication", "expand", kinds=("balanced", "uniform", "identity")
)
def products(kind):
    """A product in float64 by a scale that was not rounded; numbers below the normal range that are flushed; the sign of a zero."""
    d = len(NUMBERS)
    for D in (d,) if kind == "identity" else (d, 2 * d, 3 * d + 1, 64):
        theta_D = arithmetic.expand(kind, D, d, 42, NUMBERS)
        yield gives(f"D = {D}", {"theta_D": theta_D}, projection=of_numbers(kind, d, D), theta=NUMBERS, start=0, stop=D)


@exact("6.2", "rows from 2^32 on", "expand")
def far_rows():
    """A row in 32 bits."""
    for start in (2**31 - 2, 2**32 - 2, 2**32, MOST - 4):
        p = of_numbers("balanced", 20, MOST)
        theta_D = arithmetic.expand("balanced", MOST, 20, 42, NUMBERS, start, start + 4)
        yield gives(f"from {start} on", {"theta_D": theta_D}, projection=p, theta=NUMBERS, start=start, stop=start + 4)


@exact("6.3", "the sum of a column, from 2^32 on", "adjoint")
def sums():
    """A row in 32 bits. Whole numbers, whose sums are exact in any order; scale_j is 2^-18."""
    for start in (0, 2**32 - 2, MOST - 4):
        d, g = 16, [1.0, 2.0, -3.0, 4.0]
        theta = [0.0] * d
        for i, value in enumerate(g, start):
            theta[arithmetic.index("balanced", MOST, d, 42, i)] += value * 2.0**-18
        yield gives(
            f"from {start} on",
            {"theta": theta},
            projection=of_numbers("balanced", d, MOST),
            g=g,
            start=start,
            stop=start + 4,
        )


@exact("6.4", "(2u − 1) · bound in float64, then float32", "initial")
def starts():
    """A product in float32, j in 16 bits, a bound that is rounded to float32 first."""
    for bound in (0.02, 0, 1, 0.1, 1e-6, 3.0, 1e-38, 1e-45):
        theta = [arithmetic.f32(arithmetic.start(42, j) * bound) for j in range(64)]
        yield gives(f"a bound of {bound}", {"theta": theta}, projection=of_numbers("balanced", 64, 100), bound=bound)
    theta = [arithmetic.f32(arithmetic.start(42, j) * 0.02) for j in range(65_540)]
    yield gives("65,540 numbers", {"theta": theta}, projection=of_numbers("balanced", 65_540, 65_540), bound=0.02)
