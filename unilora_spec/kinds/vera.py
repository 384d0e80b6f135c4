"""`vera`: two small vectors a segment, on frozen random matrices that all of them share (SPEC 11.6).

Kopiczko et al., "VeRA: Vector-based Random Matrix Adaptation", arXiv 2310.11454.
"""

import math
from functools import cached_property

import numpy as np

from ..program import Factored, Range, Start, Value, frozen, largest


class Vera(Factored, kind="vera"):
    """A = λ_d ∘ A₀ and B = λ_b ∘ B₀, row by row: A₀ and B₀ are as large as the largest segment needs, and cut for the others."""

    @classmethod
    def layout(cls, layer_map):
        for number, segment in enumerate(layer_map.segments):
            yield Range((number, "d"), (segment.rank,), Start("constant", 0.1))
            yield Range((number, "b"), (segment.out_features,), Start("constant", 0.0))

    def factors(self, number, segment):
        rank, out = segment.rank, segment.out_features
        A = self._A[:rank, : segment.in_features] * self.range((number, "d")).reshape(rank, 1)
        B = self._B[:out, :rank] * self.range((number, "b")).reshape(out, 1)
        return A, B

    @cached_property
    def _A(self) -> Value:
        rank, in_features, _ = largest(self.layer_map)
        return self._kaiming(1, rank, in_features)

    @cached_property
    def _B(self) -> Value:
        rank, _, out_features = largest(self.layer_map)
        return self._kaiming(2, out_features, rank)

    def _kaiming(self, stream, rows, columns):
        bound = math.sqrt(6 / columns)
        return frozen(
            (rows, columns),
            lambda: (self.uniform(stream, 0, rows * columns) * bound).astype(np.float32).reshape(rows, columns),
        )
