"""`dense`: an encoder and a decoder that all segments share, with a small dense matrix a segment (SPEC 11.8).

Mu et al., "DenseLoRA: Dense Low-Rank Adaptation of Large Language Models", arXiv 2505.23808.
"""

import math
from collections.abc import Iterator

from ..layer_map import LayerMap
from ..program import Factored, Range, Start, Value, largest
from ..segment import Segment


class Dense(Factored, kind="dense"):
    """A = encoder and B = decoder · M. Encoder and decoder are as large as the largest segment needs, and cut for the others.

    The published implementation applies GELU to what the encoder and to what the decoder gives; then the update is no
    matrix, and neither θ_D nor a merged weight could hold it. It is left out.
    """

    exact = False

    @classmethod
    def shared(cls, layer_map: LayerMap) -> Iterator[Range]:
        rank, in_features, out_features = largest(layer_map)
        yield Range("encoder", (rank, in_features), Start("uniform", 1 / math.sqrt(in_features)))
        yield Range("decoder", (out_features, rank), Start("constant", 0.0))

    @classmethod
    def own(cls, segment: Segment) -> Iterator[Range]:
        yield Range("M", (segment.rank, segment.rank), Start("uniform", 1 / math.sqrt(segment.rank)))

    def factors(self, number: int, segment: Segment) -> tuple[Value, Value]:
        rank = segment.rank
        A = self.range("encoder")[:rank, : segment.in_features]
        B = self.range("decoder")[: segment.out_features, :rank] @ self.range("M", number)
        return A, B
