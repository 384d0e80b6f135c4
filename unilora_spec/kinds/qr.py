"""`qr`, QR-LoRA: what is trained stands on an orthonormal basis of the weight's own columns (SPEC 11.10).

Yang et al., "QR-LoRA: Efficient and Disentangled Fine-tuning via QR Decomposition for Customized Generation", arXiv 2507.04599.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from ..from_base import FromBase
from ..program import Range, Start, Value
from ..segment import Segment


class Qr(FromBase, kind="qr"):
    """A = ΔR and B = Q, where QR is the QR decomposition of the weight, cut to the rank by its singular values."""

    rule = "11.10"

    @classmethod
    def own(cls, segment: Segment) -> Iterator[Range]:
        yield Range("R", (segment.rank, segment.in_features), Start("constant", 0.0))

    @staticmethod
    def shapes(segment: Segment) -> Sequence[tuple[int, int]]:
        return [(segment.out_features, segment.rank)]

    @staticmethod
    def matrices(U: np.ndarray, S: np.ndarray, Vt: np.ndarray) -> Sequence[np.ndarray]:
        # The weight is U·(S·Vᵀ), and the columns of U are orthonormal, so only the small matrix S·Vᵀ is decomposed.
        Q, R = np.linalg.qr(S[:, None] * Vt)
        return [U @ (Q * np.where(np.diag(R) < 0, -1, 1))]

    def factors(self, number: int, segment: Segment) -> tuple[Value, Value]:
        (Q,) = self.frozen_matrices(number, segment)
        return self.range("R", number), Q
