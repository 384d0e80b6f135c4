"""`uniform`, the paper's theorem: each row's column drawn independently (SPEC 5)."""

from functools import cached_property

import numpy as np

from ..permutation import BLOCK, mix
from ..projection import Gather


class Uniform(Gather, kind="uniform"):
    """index(i) = ⌊h(i)·d / 2^32⌋ for a hash h.

    Rows are O(1). Columns are not: ``counts``, ``scale`` and so ``expand`` and ``adjoint`` count all D rows once, in
    blocks and O(d) memory, and ``members`` walks them. Nothing in an independent draw tells where a column's rows are.
    """

    def index(self, start=0, stop=None):
        start, stop = self.range_of(start, stop, self.D)
        i = np.arange(start, stop)
        h = mix(mix(i.astype(np.uint32), self.keys[6]) ^ (i >> 32).astype(np.uint32), self.keys[7])
        return (h.astype(np.int64) * self.d) >> 32

    def members(self, j):
        j = self._column(j)
        return np.concatenate([start + np.flatnonzero(block == j) for start, block in self._blocks()])

    def counts(self, start=0, stop=None):
        start, stop = self.range_of(start, stop, self.d)
        return self._counts[start:stop]

    @cached_property
    def _counts(self):
        counts = np.zeros(self.d, dtype=np.int64)
        for _, block in self._blocks():
            np.add.at(counts, block, 1)
        return counts

    def _blocks(self):
        for start in range(0, self.D, BLOCK):
            yield start, self.index(start, min(start + BLOCK, self.D))
