"""`tied`: A and B that all segments share and train, with two small vectors a segment (SPEC 11.7).

Renduchintala et al., "Tied-LoRA: Enhancing parameter efficiency of LoRA with Weight Tying", arXiv 2311.09578.
"""

import math
from collections.abc import Iterator

from ..layer_map import LayerMap
from ..program import Factored, Range, Start, Value, largest
from ..segment import Segment


class Tied(Factored, kind="tied"):
    """A = u ∘ A₀ and B = v ∘ B₀, row by row: `vera` with A₀ and B₀ trained too. They are as large as there, and cut in the same way.

    u and v start at 1, with which training starts as LoRA's does; the values that the paper starts them with are not known here.
    """

    @classmethod
    def shared(cls, layer_map: LayerMap) -> Iterator[Range]:
        rank, in_features, out_features = largest(layer_map)
        yield Range("A", (rank, in_features), Start("uniform", 1 / math.sqrt(in_features)))
        yield Range("B", (out_features, rank), Start("constant", 0.0))

    @classmethod
    def own(cls, segment: Segment) -> Iterator[Range]:
        yield Range("u", (segment.rank,), Start("constant", 1.0))
        yield Range("v", (segment.out_features,), Start("constant", 1.0))

    def factors(self, number: int, segment: Segment) -> tuple[Value, Value]:
        rank, out = segment.rank, segment.out_features
        A = self.range("A")[:rank, : segment.in_features] * self.range("u", number).reshape(rank, 1)
        B = self.range("B")[:out, :rank] * self.range("v", number).reshape(out, 1)
        return A, B
