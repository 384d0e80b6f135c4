"""float32 arithmetic as the specification has it, where XLA's differs.

XLA on a CPU takes numbers below 2^-126 for 0 in every operation, and its compilers round a product and a sum together
where they can (FMA). θ_D has to have the same bits everywhere (SPEC 6.2, 11.3), so that operations which could differ
are done with integers here.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

SMALL = 2.0**-100  # sums of larger numbers lose less than their own roundings where a result below 2^-126 becomes 0
SIGN, REST = np.uint32(2**31), np.uint32(2**31 - 1)
LIFT = 120  # a power of two that makes every number below SMALL one that is kept, and below 2^20


@jax.custom_jvp
def product(x: Array, y: Array) -> Array:
    """x · y, rounded once: float32 of shapes that broadcast."""
    x, y = jnp.broadcast_arrays(x, y)
    swap = (_bits(x) & REST) > (_bits(y) & REST)
    x, y = jnp.where(swap, y, x), jnp.where(swap, x, y)  # the smaller first: of both below 2^-126 the product is 0
    plain = jnp.where(_exponent(_bits(x)) == 0, lowered(lifted(x) * y), x * y)
    m, n = _mantissa(_bits(x)), _mantissa(_bits(y))
    exponents = jnp.maximum(_exponent(_bits(x)), 1) + jnp.maximum(_exponent(_bits(y)), 1)
    shift = jnp.clip(153 - exponents.astype(jnp.int32), 1, 63)
    tiny = _rounded_shift(*_words(m, n), shift) | ((_bits(x) ^ _bits(y)) & SIGN)
    return jnp.where(jnp.abs(plain) < 2.0**-125, _float(tiny), plain)


@jax.custom_jvp
def total(x: Array, y: Array) -> Array:
    """x + y, rounded once: float32 of shapes that broadcast."""
    small = jnp.maximum(jnp.abs(x), jnp.abs(y)) < SMALL
    return jnp.where(small, lowered(lifted(x) + lifted(y)), x + y)


@product.defjvp
def _(given, tangents):
    (x, y), (of_x, of_y) = given, tangents
    return product(x, y), of_x * y + x * of_y


@total.defjvp
def _(given, tangents):
    return total(*given), sum(jnp.broadcast_arrays(*tangents))


def has_below(x: Array, bound: float) -> Array:
    """Whether any number other than 0 is below a bound in magnitude: bool."""
    return ((_bits(x) & REST) - 1 < np.float32(bound).view(np.uint32) - 1).any()


def parts(x: Array) -> tuple[Array, Array]:
    """x as two: the numbers from ``SMALL`` on, and the others times 2^LIFT, each with 0 in the other's places."""
    large = jnp.abs(x) >= SMALL
    return jnp.where(large, x, 0), jnp.where(large, 0, lifted(x))


def lifted(x: Array) -> Array:
    """x · 2^LIFT, where that is no larger than float32 can be."""
    bits = _bits(x)
    below_normal = jnp.where(bits >> 31, -1.0, 1.0) * _mantissa(bits).astype(jnp.float32) * 2.0 ** (LIFT - 149)
    return jnp.where(_exponent(bits) == 0, below_normal, x * np.float32(2.0**LIFT))


def lowered(x: Array) -> Array:
    """x · 2^-LIFT."""
    below_normal = jnp.round(jnp.abs(x) * 2.0 ** (149 - LIFT)).astype(jnp.uint32) | (_bits(x) & SIGN)
    return jnp.where(jnp.abs(x) < 2.0 ** (LIFT - 125), _float(below_normal), x * np.float32(2.0**-LIFT))


@jax.custom_jvp
def fence(x: Array, theta: Array) -> Array:
    """x unchanged; a compiler has to compute its bits before it goes on, so that a product is rounded before it is
    added to something.

    The bits are combined with a mask that is always 0, which a compiler cannot know, as the mask is computed from θ. An
    optimization_barrier is gone by the time XLA's compilers look for FMAs.
    """
    never = _bits(theta[0]) == np.uint32(0xFFFFFFFF)  # a NaN that no arithmetic makes
    return _float(_bits(x) ^ never.astype(jnp.uint32))


@fence.defjvp
def _(given, tangents):
    return fence(*given), tangents[0]


def _bits(x):
    return lax.bitcast_convert_type(jnp.asarray(x), jnp.uint32)


def _float(bits):
    return lax.bitcast_convert_type(bits, jnp.float32)


def _exponent(bits):
    return (bits >> 23) & 0xFF


def _mantissa(bits):
    return (bits & 0x7FFFFF) | jnp.where(_exponent(bits) > 0, jnp.uint32(2**23), jnp.uint32(0))


def _words(m, n):
    """4 · m · n of two numbers of 24 bits, as its high and its low word; by halves."""
    m, n_low, n_high = 4 * m, n & 0xFFFF, n >> 16
    low = (m & 0xFFFF) * n_low
    middle = (m >> 16) * n_low + (low >> 16)
    other = (m & 0xFFFF) * n_high + (middle & 0xFFFF)
    return (m >> 16) * n_high + (middle >> 16) + (other >> 16), m * n


def _rounded_shift(high, low, k):
    """⌊(2^32·high + low) / 2^k⌉, ties to even, where it is below 2^31; k is int32, 2 … 63."""
    above, of_low, of_high = (
        k > 32,
        jnp.clip(k - 1, 0, 31).astype(jnp.uint32),
        jnp.clip(k - 33, 0, 31).astype(jnp.uint32),
    )
    twice = jnp.where(above, high >> of_high, (high << (32 - of_low)) | (low >> of_low)).astype(jnp.uint32)
    rest = jnp.where(above, low | (high & _ones(of_high)), low & _ones(of_low))
    up = twice & ((rest > 0) | (twice >> 1)) & 1
    return (twice >> 1) + up


def _ones(n):
    return (jnp.uint32(1) << n) - 1
