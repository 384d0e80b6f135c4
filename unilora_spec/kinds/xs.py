"""`xs`, LoRA-XS: a small matrix between singular vectors of the weight (SPEC 11.9).

Bałazy et al., "LoRA-XS: Low-Rank Adaptation with Extremely Small Number of Parameters", arXiv 2405.17604.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from ..from_base import FromBase
from ..program import Range, Start, Value
from ..segment import Segment


class Xs(FromBase, kind="xs"):
    """A = Σ_r V_rᵀ and B = U_r R, where U_r Σ_r V_rᵀ is the weight's singular value decomposition, cut to the rank."""

    rule = "11.9"
    exact = False

    @classmethod
    def own(cls, segment: Segment) -> Iterator[Range]:
        yield Range("R", (segment.rank, segment.rank), Start("normal", 1e-5))

    @staticmethod
    def shapes(segment: Segment) -> Sequence[tuple[int, int]]:
        return (segment.rank, segment.in_features), (segment.out_features, segment.rank)

    @staticmethod
    def matrices(U: np.ndarray, S: np.ndarray, Vt: np.ndarray) -> Sequence[np.ndarray]:
        return S[:, None] * Vt, U

    def factors(self, number: int, segment: Segment) -> tuple[Value, Value]:
        A, U = self.frozen_matrices(number, segment)
        return A, U @ self.between(number, segment)

    def between(self, number: int, segment: Segment) -> Value:
        """R (rank, rank) of the segment with this number in the layer map."""
        return self.range("R", number)
