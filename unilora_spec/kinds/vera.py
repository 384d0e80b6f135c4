"""`vera`: two small vectors a segment, on frozen random matrices that all of them share (SPEC 11.6).

Kopiczko et al., "VeRA: Vector-based Random Matrix Adaptation", arXiv 2310.11454.
"""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import LimitError
from ..permutation import BLOCK
from ..program import Factored, Range, Start, Value, frozen_in_parts, largest
from ..segment import Segment

MAX_SHARED = 2**24  # numbers of A₀, and of B₀, that any layer map may have; beyond it, as many as θ_D has


class Vera(Factored, kind="vera"):
    """A = λ_d ∘ A₀ and B = λ_b ∘ B₀, row by row: A₀ and B₀ are as large as the largest segment needs, and cut for the others.

    Raises ``LimitError`` where segments of unlike ranks and sizes would have A₀ or B₀ larger than θ_D and than 2^24 numbers.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        rank, in_features, out_features = largest(self.layer_map)
        self._shapes = (rank, in_features), (out_features, rank)
        for name, (rows, columns) in zip("AB", self._shapes):
            if rows * columns > max(self.D, MAX_SHARED):
                raise LimitError(
                    f"the shared {name} would have {rows} × {columns} numbers, and all segments together {self.D}; give ranks that "
                    "differ less",
                    "11.6",
                )

    @classmethod
    def own(cls, segment: Segment) -> Iterator[Range]:
        yield Range("d", (segment.rank,), Start("constant", 0.1))
        yield Range("b", (segment.out_features,), Start("constant", 0.0))

    def factors(self, number: int, segment: Segment) -> tuple[Value, Value]:
        rank, out = segment.rank, segment.out_features
        A = self._A[:rank, : segment.in_features] * self.range("d", number).reshape(rank, 1)
        B = self._B[:out, :rank] * self.range("b", number).reshape(out, 1)
        return A, B

    @cached_property
    def _A(self) -> Value:
        return self._kaiming(1, self._shapes[0])

    @cached_property
    def _B(self) -> Value:
        return self._kaiming(2, self._shapes[1])

    def _kaiming(self, stream: int, shape: tuple[int, int]) -> Value:
        columns = shape[1]
        bound = math.sqrt(6 / columns)

        def part(slices: tuple[slice, ...]) -> np.ndarray:
            rows, across = (np.arange(s.start, s.stop) for s in slices)
            made = np.empty((len(rows), len(across)), np.float32)
            step = max(1, BLOCK // max(1, len(across)))
            for i in range(0, len(rows), step):
                numbers = rows[i : i + step, None] * columns + across
                made[i : i + step] = self.uniform(stream, numbers) * bound
            return made

        return frozen_in_parts(shape, part)
