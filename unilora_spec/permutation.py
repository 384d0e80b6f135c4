"""Keys, mixing function and the permutation π (SPEC 2 to 4): integer arithmetic only, O(1) an entry."""

import math

import numpy as np

from .errors import LimitError

MAX_D = 2**40
MAX_SEED = 2**64
ROUNDS = 6
BLOCK = 65_536  # entries worked on at a time: the temporaries of a block stay in the processor's second-level cache


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


def mix(x: np.ndarray, key: int) -> np.ndarray:
    """The 32-bit mixing function (SPEC 3.1), elementwise: uint32[n] → uint32[n]."""
    x = x ^ np.uint32(key)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x297A2D39)
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

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """π(x) for int64[n] x, 0 ≤ x < D."""
        return self._walk(x, self.keys, self._forward)

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """π⁻¹(y) for int64[n] y, 0 ≤ y < D."""
        return self._walk(y, self.keys[::-1], self._backward)

    def one_pass(self, x: np.ndarray) -> np.ndarray:
        """A single pass, without walking: int64[n] x, 0 ≤ x < a² (SPEC 4.2)."""
        return self._pass(x, self.keys, self._forward)

    def _walk(self, x, round_keys, step):
        x = np.asarray(x, dtype=np.int64)
        if len(x) and not 0 <= x.min() <= x.max() < self.D:
            raise LimitError(f"entries from {x.min()} to {x.max()} are not all in [0, {self.D})", "1.3")
        result = np.empty_like(x)
        for start in range(0, len(x), BLOCK):
            y = self._pass(x[start : start + BLOCK], round_keys, step)
            while (outside := y >= self.D).any():  # rarely more than one turn: a² − D < 2√D + 1
                y[outside] = self._pass(y[outside], round_keys, step)
            result[start : start + BLOCK] = y
        return result

    def _pass(self, x, round_keys, step):
        L, R = np.divmod(x, self.a)
        for key in round_keys:
            L, R = step(L, R, key)
        return L * self.a + R

    def _forward(self, L, R, key):
        total = L + self._round(R, key)
        return R, np.where(total < self.a, total, total - self.a)

    def _backward(self, L, R, key):
        difference = R - self._round(L, key)
        return np.where(difference < 0, difference + self.a, difference), L

    def _round(self, x, key):
        return (mix(x.astype(np.uint32), key).astype(np.int64) * self.a) >> 32
