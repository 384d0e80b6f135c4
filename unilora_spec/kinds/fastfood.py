"""`fastfood`, the dense rival of Uni-LoRA's P: every entry of θ_D is made of all of θ, by a fast transform (SPEC 11.12).

Le, Sarlós and Smola, "Fastfood: Approximating Kernel Expansions in Loglinear Time", ICML 2013. Li et al., "Measuring the
Intrinsic Dimension of Objective Landscapes", arXiv 1804.08838, first trained through it.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..layer_map import LayerMap
from ..program import Program, Range, Start, Value, frozen

_PIECE = 2**18  # entries of θ_D that one value makes, as all steps of its transform stay in memory until it ends


class Fastfood(Program, kind="fastfood"):
    """θ_D in blocks of L = 2^⌈log2 d⌉ entries, each H·G·Π·H·B of θ and zeros up to L. G contains the constant S = 1/√(D·L),
    by which P keeps the length of θ in the mean over all seeds."""

    layered, d_is_free = False, True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.L = 1 << (self.d - 1).bit_length()

    @classmethod
    def shared(cls, layer_map: LayerMap, d: int) -> Iterator[Range]:
        yield Range("theta", (d,), Start("uniform", 0.02))

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, Value]]:
        end = -(-stop // self.L) * self.L
        step = max(_PIECE // self.L, 1) * self.L
        for first in range(start // self.L * self.L, end, step):
            yield first, self._blocks(first, min(first + step, end))

    def _blocks(self, start: int, stop: int) -> Value:
        """The whole blocks of entries ``start`` … ``stop`` − 1 as one value, made of the numbers of that range of each stream."""
        L, shape = self.L, ((stop - start) // self.L, self.L)
        S = 1 / math.sqrt(self.D * L)  # the product is exact, as L is a power of two

        def signs() -> np.ndarray:
            signs = np.where(self.hashes(1, np.arange(start, stop)) < 2**31, np.float32(1), np.float32(-1)).reshape(
                shape
            )
            signs[:, self.d :] = 0
            return signs

        def places() -> np.ndarray:
            order = np.argsort(self.hashes(3, np.arange(start, stop)).reshape(shape), axis=1, kind="stable")
            return order + np.arange(0, stop - start, L)[:, None]

        padded = self.range("theta").take(frozen((L,), lambda: np.minimum(np.arange(L), self.d - 1)))
        mixed = _hadamard(padded * frozen(shape, signs)).reshape(stop - start).take(frozen(shape, places))
        normals = frozen(shape, lambda: (self.normal(2, start, stop) * S).astype(np.float32).reshape(shape))
        return _hadamard(mixed * normals).reshape(stop - start)[: min(stop, self.D) - start]


_SIGNS = frozen((2, 1, 1), lambda: np.array([1, -1], np.float32).reshape(2, 1, 1))


def _hadamard(x: Value) -> Value:
    """H of each row of ``x``, (n, L): log2 L steps, each the sums of neighbours and then their differences."""
    n, L = x.shape
    for _ in range(L.bit_length() - 1):
        pairs = x.reshape(n, 1, L // 2, 2)
        x = (pairs[:, :, :, 0:1] + pairs[:, :, :, 1:2] * _SIGNS).reshape(n, L)
    return x
