"""Keys, mixing function and the permutation π (SPEC 2 to 4): integer arithmetic only, O(1) an entry."""

import math
from collections.abc import Iterator

import numpy as np

from .errors import LimitError

MAX_D = 2**40
MAX_SEED = 2**64
ROUNDS = 6
BLOCK = 98_304  # entries worked on at a time: less and NumPy's calls cost more than its work, more and caches overflow


def keys(seed: int, count: int) -> list[int]:
    """The first ``count`` 32-bit keys K_0, K_1, … of ``seed`` (SPEC 2.1, 2.2).

    >>> keys(42, 4)
    [3184996902, 686809907, 1196582743, 1478287871]
    """
    if not 0 <= seed < MAX_SEED:
        raise LimitError(f"seed is {seed}; give one from 0 to 2^64 − 1", "1.2")
    state, result = seed, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        result.append((z ^ (z >> 31)) >> 32)
    return result


def check_D(D: int) -> int:
    """D as it is. Raises ``LimitError`` outside of 1 … 2^40 (SPEC 1.1)."""
    if not 1 <= D <= MAX_D:
        raise LimitError(f"D is {D}; a layer map holds 1 to 2^40 entries", "1.1")
    return D


_C1, _C2 = np.uint32(0x7FEB352D), np.uint32(0x297A2D39)


def check_key(key: int) -> None:
    """Raises ``LimitError`` for a key of more than 32 bits, or below 0 (SPEC 3.1)."""
    if not 0 <= key < 2**32:
        raise LimitError(f"key is {key}; give a number of 32 bits, from 0", "3.1")


def mix(x: np.ndarray, key: int) -> np.ndarray:
    """The 32-bit mixing function (SPEC 3.1), elementwise: uint32[n] → uint32[n]. Raises ``LimitError`` for a key of more bits."""
    check_key(key)
    x = x ^ np.uint32(key)
    x ^= x >> np.uint32(16)
    x *= _C1
    x ^= x >> np.uint32(15)
    x *= _C2
    x ^= x >> np.uint32(16)
    return x


class Permutation:
    """π of {0, …, D − 1} and its inverse, both O(1) an entry (SPEC 4.1 to 4.4).

    Raises ``LimitError`` for D, seed or entries out of range.

    >>> int(Permutation(2**40, seed=42)(np.array([0]))[0])
    891194291790
    """

    def __init__(self, D: int, seed: int):
        self.D = check_D(D)
        self.a = math.isqrt(D - 1) + 1
        self.keys = keys(seed, ROUNDS)
        self._word = np.uint32 if self.a < 2**16 else np.uint64  # holds what is below a²

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """π(x) for int64[n] x, 0 ≤ x < D."""
        return self._walk(x, inverse=False)

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """π⁻¹(y) for int64[n] y, 0 ≤ y < D."""
        return self._walk(y, inverse=True)

    def one_pass(self, x: np.ndarray) -> np.ndarray:
        """A single pass, without walking: int64[n] x, 0 ≤ x < a² (SPEC 4.2)."""
        x = np.array(x, dtype=self._word)
        self._pass(x, _space(len(x)))
        return x.astype(np.int64)

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """π of start … stop − 1, 0 ≤ start ≤ stop ≤ D, in blocks: yields the first entry of each block, and the values of π as unsigned
        integers, which are valid until the next block is asked for."""
        count = np.arange(min(BLOCK, stop - start), dtype=self._word)
        block, space = np.empty_like(count), _space(len(count))
        for i, end in in_blocks(start, stop):
            x = block[: end - i]
            yield i, self._walked(np.add(count[: end - i], self._word(i), out=x), space)

    def _walk(self, x: np.ndarray, inverse: bool) -> np.ndarray:
        x = np.asarray(x, dtype=np.int64)
        if len(x) and not 0 <= x.min() <= x.max() < self.D:
            raise LimitError(f"entries from {x.min()} to {x.max()} are not all in [0, {self.D})", "1.3")
        result, space = np.empty_like(x), _space(min(BLOCK, len(x)))
        for i, end in in_blocks(0, len(x)):
            result[i:end] = self._walked(x[i:end].astype(self._word), space, inverse)
        return result

    def _walked(self, x: np.ndarray, space: np.ndarray, inverse: bool = False) -> np.ndarray:
        self._pass(x, space, inverse)
        while x.max(initial=0) >= self.D:  # rarely more than one turn: a² − D < 2√D + 1
            outside = np.flatnonzero(x >= self.D)
            again = x[outside]
            self._pass(again, space, inverse)
            x[outside] = again
        return x

    def _pass(self, x: np.ndarray, space: np.ndarray, inverse: bool = False) -> None:
        """x becomes pass(x), or its inverse (SPEC 4.2, 4.4): x is words[n], ``space`` is scratch space."""
        L, R, f, t = space[:, : len(x)]
        a = np.uint32(self.a)
        np.floor_divide(x, self._word(self.a), out=L, casting="unsafe")
        np.subtract(x, np.multiply(L, a, out=t), out=R, casting="unsafe")  # modulo 2^32, where words are wider too
        changed, read, shift, unshift = (R, L, np.subtract, np.add) if inverse else (L, R, np.add, np.subtract)
        for key in reversed(self.keys) if inverse else self.keys:
            self._round(read, key, f, t)
            shift(changed, f, out=changed)
            # modulo a: of the sum and the sum less a, the one that has not wrapped around 2^32 is the smaller
            np.minimum(changed, unshift(changed, a, out=f), out=changed)
            changed, read = read, changed
        np.multiply(L, self._word(self.a), out=x)
        x += R

    def _round(self, x: np.ndarray, key: int, f: np.ndarray, t: np.ndarray) -> None:
        """f = (mix(x, key)·a) >> 32 (SPEC 4.2): all are uint32[n], and t is scratch space."""
        if self._word is np.uint64:
            f[:] = (mix(x, key).astype(np.uint64) * np.uint64(self.a)) >> np.uint64(32)
            return
        # x < a < 2^16: the first shift of mix moves bits of the key alone, and a product of 16 bits with a fits in 32.
        a = np.uint32(self.a)
        np.bitwise_xor(x, np.uint32(key ^ (key >> 16)), out=f)
        f *= _C1
        f ^= np.right_shift(f, np.uint32(15), out=t)
        f *= _C2
        f ^= np.right_shift(f, np.uint32(16), out=t)
        f &= np.uint32(0xFFFF)
        f *= a
        f >>= np.uint32(16)
        t *= a
        f += t
        f >>= np.uint32(16)


def in_blocks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The range start … stop − 1 cut into ranges of ``BLOCK`` entries."""
    for i in range(start, stop, BLOCK):
        yield i, min(i + BLOCK, stop)


def _space(n: int) -> np.ndarray:
    """Scratch space for a block of n entries, made once: making an array costs as much as some operations on it."""
    return np.empty((4, n), dtype=np.uint32)
