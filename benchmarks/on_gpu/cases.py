"""Inputs for the kernels where Hypothesis is not installed: within the bounds of tests/triton_bits.py, drawn by NumPy from a seed.

Edges come more often than by chance, and the same seed gives the same cases on every machine.
"""

import numpy as np
import torch

from unilora_spec import Projection

SEEDS = (0, 1, 42, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1)
LONGEST = 300  # rows of a slice


class Cases:
    """Draws the cases of one seed."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)

    def between(self, low: int, high: int) -> int:
        """A whole number of low … high."""
        return int(self.random.integers(low, high, endpoint=True))

    def one_of(self, *values):
        """One of the values."""
        return values[self.between(0, len(values) - 1)]

    def seed(self) -> int:
        """The seed of a projection."""
        return self.one_of(*SEEDS, int(self.random.integers(2**64, dtype=np.uint64)))

    def projection(self, most: int) -> Projection:
        """D up to ``most``; d is 1, D, a divisor of D or of D − 1, or anything."""
        D = self.between(1, most)
        pieces = self.between(1, 7)
        d = self.one_of(1, D, D // pieces, (D - 1) // pieces, self.between(1, D))
        return Projection("balanced", D=D, d=max(d, 1), seed=self.seed())

    def large(self, most_d: int = 2**31 - 1) -> Projection:
        """D around 2^31, where a signed number ends, 2^32, where the kernels go to 64 bits, and 2^40, the largest."""
        D = min(2 ** self.one_of(31, 32, 40) + self.between(-2, 2), 2**40)
        most = min(D, most_d)
        return Projection("balanced", D=D, d=self.one_of(1, most, self.between(1, most)), seed=self.seed())

    def rows(self, p: Projection) -> tuple[int, int]:
        """start and stop of a slice: at an end of θ_D or anywhere in it, or all of a short θ_D."""
        length = min(p.D, self.between(0, LONGEST))
        start = self.one_of(0, p.D - length, self.between(0, p.D - length))
        return self.one_of((start, start + length), (0, p.D)) if p.D <= 2**16 else (start, start + length)

    def vector(self, length: int, dtype: torch.dtype) -> torch.Tensor:
        """``dtype``[length], any finite bits: both zeros, denormal, the largest."""
        width = {2: np.int16, 4: np.int32}[dtype.itemsize]
        info = np.iinfo(width)
        some = torch.from_numpy(self.random.integers(info.min, info.max, min(length, 64), width, endpoint=True)).view(
            dtype
        )
        edges = torch.tensor([0.0, -0.0, torch.finfo(dtype).tiny / 2, torch.finfo(dtype).max]).to(dtype)
        some[: len(edges)] = edges[: len(some)]
        some = torch.where(some.isfinite(), some, torch.zeros_like(some))
        return some[self.random.permutation(np.resize(np.arange(len(some)), length))]
