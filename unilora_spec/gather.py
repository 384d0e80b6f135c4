"""Projections whose rows hold one entry each, as Uni-LoRA's do: an index of columns, and a scale (SPEC 6)."""

import operator
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property

import numpy as np

from .errors import LimitError
from .layer_map import LayerMap
from .projection import Projection


class Gather(Projection):
    """A projection whose rows hold one entry each: θ_D[i] = θ[index(i)] · scale[index(i)] (SPEC 6).

    ``index`` needs no work or memory beyond its slice. ``expand`` and ``adjoint`` take d more, the length of θ.
    """

    @abstractmethod
    def columns(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """The column of each of the rows start … stop − 1, in blocks: yields the first row of each block, and its columns
        as integers in [0, d), of a dtype that the kind chooses, which are valid until the next block is asked for. The rows are some of 0 … D − 1."""

    @abstractmethod
    def members(self, j: int) -> np.ndarray:
        """The rows of column j, ascending: int64[n_j]."""

    @abstractmethod
    def counts(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """n_j, the number of rows of each of the columns start … stop − 1: int64[stop − start]."""

    def index(self, start: int = 0, stop: int | None = None, out: np.ndarray | None = None) -> np.ndarray:
        """The column of each of the rows start … stop − 1: values in [0, d), as int64[stop − start] or in ``out``, integers of
        that shape which hold d − 1."""
        start, stop = self.range_of(start, stop, self.D)
        out = np.empty(stop - start, dtype=np.int64) if out is None else out
        for i, block in self.columns(start, stop):
            out[i - start : i - start + len(block)] = block
        return out

    def scale(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """1 / √n_j of the columns start … stop − 1, rounded once: float32[stop − start]; 0 where n_j = 0 (SPEC 6.1)."""
        n = self.counts(start, stop).astype(np.float64)
        return np.divide(1.0, np.sqrt(n), out=np.zeros_like(n), where=n > 0).astype(np.float32)

    def expand(self, theta: np.ndarray, start: int = 0, stop: int | None = None) -> np.ndarray:
        start, stop = self.range_of(start, stop, self.D)
        scaled = self.vector(theta, self.d, "theta") * self.scale()
        result = np.empty(stop - start, dtype=np.float32)
        for i, block in self.columns(start, stop):
            # No index is outside of θ; by default, np.take would write to a buffer of its own, to be able to refuse one.
            np.take(scaled, block, out=result[i - start : i - start + len(block)], mode="clip")
        return result

    def adjoint(self, g: np.ndarray, start: int = 0, theta: np.ndarray | None = None) -> np.ndarray:
        start, stop = self.range_of(start, start + len(g), self.D)
        g = self.vector(g, stop - start, "g")
        total = np.zeros(self.d)
        for i, block in self.columns(start, stop):
            np.add.at(total, block, g[i - start : i - start + len(block)].astype(np.float64))
        return (self.scale() * total).astype(np.float32)

    def initial(self, layer_map: LayerMap | None, bound: float = 0.02) -> np.ndarray:
        return (self.uniform_start(0, self.d) * bound).astype(np.float32)

    def _column(self, j: int) -> int:
        if not 0 <= operator.index(j) < self.d:
            raise LimitError(f"column {j} is not in [0, {self.d})", "1.3")
        return operator.index(j)


class Counted(Gather):
    """A gather that can compute the column of a row, and finds a column's rows only by walking all D of them.

    ``members`` walks at each call; ``counts``, and so ``scale``, ``expand`` and ``adjoint``, once, in blocks and O(d) memory.
    """

    def members(self, j: int) -> np.ndarray:
        j = self._column(j)
        return np.concatenate([start + np.flatnonzero(block == j) for start, block in self.columns(0, self.D)])

    def counts(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        start, stop = self.range_of(start, stop, self.d)
        return self._counts[start:stop]

    @cached_property
    def _counts(self) -> np.ndarray:
        counts = np.zeros(self.d, dtype=np.int64)
        for _, block in self.columns(0, self.D):
            np.add.at(counts, block, 1)
        return counts
