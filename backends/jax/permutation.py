"""π and π⁻¹ (SPEC 3, 4) in 32-bit arithmetic for every D up to 2^40, so that nobody has to turn JAX's 64-bit mode on.

A number below a² ≤ 2^40 is held as the pair (L, R) of L·a + R, both below a ≤ 2^20. The rounds work on the two halves
anyway; only inputs have to be split, and results joined.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from unilora_spec.permutation import Permutation

WORD = jnp.uint32
SHORT = 2**16  # up to so many entries, it costs less to walk all of them than to find those that have to be walked


class Numbers(NamedTuple):
    """The numbers of π: uint32 scalars and uint32[6] keys. They may be traced, so that one compiled function serves
    every D."""

    keys: Array
    a: Array
    per_a: Array
    D: tuple[Array, Array]

    @classmethod
    def of(cls, permutation: Permutation) -> "Numbers":
        a = permutation.a
        return cls(np.array(permutation.keys, np.uint32), np.uint32(a), per(a), pair(permutation.D, a))


def pair(x: int, a: int) -> tuple[np.uint32, np.uint32]:
    """L and R of a number, on the host."""
    return tuple(map(np.uint32, divmod(x, a)))


def per(n: int) -> np.uint32:
    """⌊(2^32 − 1) / n⌋, which ``divided`` needs beside a divisor n."""
    return np.uint32((2**32 - 1) // n)


def high(x: Array, y: Array) -> Array:
    """The high word of x · y: uint32. The one product that needs more than 32 bits has them from here to the next line: ``lax.mulhi`` does
    the same, and XLA cannot partition it over devices."""
    with jax.enable_x64(True):
        product = lax.convert_element_type(x, np.uint64) * lax.convert_element_type(y, np.uint64)
        return lax.convert_element_type(lax.shift_right_logical(product, np.uint64(32)), np.uint32)


def divided(x: Array, n: Array, per_n: Array) -> tuple[Array, Array]:
    """Quotient and remainder by n < 2^31, without a division: per_n is above 2^32/n − 1, so that the first quotient is right or one less."""
    quotient = high(x, per_n)
    rest = x - quotient * n
    return jnp.where(rest < n, quotient, quotient + 1), jnp.minimum(rest, rest - n)


def mixed(x: Array, key: Array) -> Array:
    """The mixing function (SPEC 3.1): uint32 of any shape."""
    x = x ^ key
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x297A2D39)
    return x ^ (x >> 16)


def pairs(of: Numbers, start: tuple[Array, Array], i: Array) -> tuple[Array, Array]:
    """The pairs of the numbers i further than that of the pair ``start``; i is below 2^31."""
    L, R = start
    quotient, R = divided(R + i, of.a, of.per_a)
    return L + quotient, R


def low(of: Numbers, L: Array, R: Array) -> Array:
    """The numbers of pairs modulo 2^32."""
    return jnp.asarray(L) * of.a + R


def passed(of: Numbers, L: Array, R: Array, inverse: bool = False) -> tuple[Array, Array]:
    """One pass, or its inverse (SPEC 4.2, 4.4). Of x and x − a, or x + a, the one that has not wrapped around is the smaller."""
    for t in reversed(range(6)) if inverse else range(6):
        f = high(mixed(L if inverse else R, of.keys[t]), of.a)
        if inverse:
            L, R = jnp.minimum(R - f, R - f + of.a), L
        else:
            L, R = R, jnp.minimum(L + f, L + f - of.a)
    return L, R


def below(L: Array, R: Array, bound: tuple[Array, Array]) -> Array:
    """Whether pairs are below another one."""
    return (L < bound[0]) | ((L == bound[0]) & (R < bound[1]))


def walked(of: Numbers, L: Array, R: Array, inverse: bool = False) -> tuple[Array, Array]:
    """π, or π⁻¹, of the numbers of pairs (SPEC 4.3, 4.4)."""

    def again(state):
        inside = below(*state, of.D)
        return tuple(jnp.where(inside, *both) for both in zip(state, passed(of, *state, inverse)))

    return lax.while_loop(lambda state: ~below(*state, of.D).all(), again, passed(of, L, R, inverse))


def strays(of: Numbers, start: tuple[Array, Array], count: int, outside: int) -> tuple[Array, tuple[Array, Array]]:
    """Where in a range one pass ends outside of [0, D), and at which pair; ``outside`` is at least a² − D.

    Each of the a² − D numbers there is the image of one number, so that they are found from their images: a place of ``count`` says
    that this one's is not in the range.
    """
    images = pairs(of, of.D, lax.iota(WORD, outside))
    origins = passed(of, *images, inverse=True)
    place = low(of, *origins) - low(of, *start)  # right where it is in the range
    stop = pairs(of, start, jnp.array(count, WORD))
    among = below(*origins, of.D) & below(*origins, stop) & ~below(*origins, start) & (images[0] < of.a)
    # A walk from a number that is nobody's image might never end.
    return jnp.where(among, place, count), tuple(jnp.where(among, each, 0) for each in images)


def modulo(of: Numbers, L: Array, R: Array, d: Array, per_d: Array, wide: bool) -> Array:
    """(L·a + R) mod d; ``wide`` where a is above 2^16, and the number may need more than 32 bits."""
    if not wide:
        return divided(low(of, L, R), d, per_d)[1]
    high = divided((L >> 10) * of.a, d, per_d)[1]
    for _ in range(10):
        high = jnp.minimum(high * 2, high * 2 - d)
    total = high + divided((L & 1023) * of.a + R, d, per_d)[1]
    return jnp.minimum(total, total - d)


def columns(of: Numbers, start, d: Array, per_d: Array, count: int, outside: int, wide: bool) -> Array:
    """π(i) mod d of a range (SPEC 4.5): int32[count]. Of a long range one pass is made of all of it, and strays are walked on alone."""

    def column(L, R):
        return modulo(of, L, R, d, per_d, wide).astype(jnp.int32)

    range_ = pairs(of, start, lax.iota(WORD, count))
    if count <= SHORT:
        return column(*walked(of, *range_))
    place, images = strays(of, start, count, outside)
    return column(*passed(of, *range_)).at[place].set(column(*walked(of, *images)), mode="drop")


def columns_of(permutation: Permutation, d: int, start: int, stop: int) -> Array:
    """The columns of the rows start … stop − 1 of kind `balanced`: int32[stop − start], fewer than 2^31."""
    a = permutation.a
    outside = a * a - permutation.D
    return columns(Numbers.of(permutation), pair(start, a), np.uint32(d), per(d), stop - start, outside, a > 2**16)


jitted_columns = jax.jit(columns, static_argnames=("count", "outside", "wide"))
"""One compiled function for each count, bound of what is outside, and width; D, d, seed and start are arguments."""
