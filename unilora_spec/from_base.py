"""What kinds that begin with the base's weights share (SPEC 11.9, 11.10, 11.16): matrices of a singular value decomposition, in the file.

The singular vectors of two LAPACKs, or of one with another number of threads, differ in their last bits, and by much more where singular
values are close. So these matrices are computed once, when training begins, and read from the file from then on.
"""

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from .errors import LayerMapError, LimitError
from .layer_map import LayerMap
from .program import Factored, Value, by_size, frozen_in_parts
from .projection import Read
from .segment import Segment


class FromBase(Factored):
    """A program with frozen matrices of each segment's own weight: the tensor ``frozen``, segment after segment, row by row.

    ``rule``  the rule of SPEC.md that the kind's refusals name

    Raises ``LimitError`` for a ``frozen`` of another shape; ``of_base`` raises ``LayerMapError`` for a weight of a lower rank than
    its segment's.
    """

    stored: ClassVar[dict[str, str]] = {"frozen": "F32"}
    rule: ClassVar[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        numbers = np.asarray(self.tensors["frozen"], np.float32)
        length = self.lengths(self.layer_map, **self.options)["frozen"]
        if numbers.shape != (length,):
            raise LimitError(f"frozen has shape {list(numbers.shape)}; it must be [{length}]", self.rule)
        self.tensors["frozen"] = numbers

    @staticmethod
    @abstractmethod
    def shapes(segment: Segment) -> Sequence[tuple[int, int]]:
        """The shapes of a segment's frozen matrices."""

    @staticmethod
    @abstractmethod
    def matrices(U: np.ndarray, S: np.ndarray, Vt: np.ndarray) -> Sequence[np.ndarray]:
        """A segment's frozen matrices, made of the ``singular_vectors`` of its weight."""

    @classmethod
    def _size(cls, segment: Segment) -> int:
        return sum(map(math.prod, cls.shapes(segment)))

    @classmethod
    def lengths(cls, layer_map: LayerMap, **options: int) -> dict[str, int]:
        return {"frozen": sum(by_size(layer_map, cls._size))}

    @cached_property
    def _starts(self) -> np.ndarray:
        """Where the matrices of each segment begin in ``frozen``: int64[segments + 1]."""
        starts = itertools.accumulate(by_size(self.layer_map, self._size), initial=0)
        return np.fromiter(starts, np.int64, len(self.layer_map) + 1)

    @classmethod
    def of_base(cls, layer_map: LayerMap, read: Read, **options: int) -> dict[str, np.ndarray]:
        made = {}
        for name, segments in layer_map.by_weight().items():
            weight = read(name)
            for segment in segments:
                numbers = cls.matrices(*cls._decomposed(segment, weight))
                made[segment] = np.concatenate([each.astype(np.float32).ravel() for each in numbers])
        return {"frozen": np.concatenate([made[segment] for segment in layer_map.segments])}

    @classmethod
    def _decomposed(cls, segment: Segment, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        matrix = segment.matrix(weight).astype(np.float64)
        if not np.isfinite(matrix).all():
            raise LayerMapError(
                f"{segment.name} holds NaN or infinity, and kind {cls.kind} begins with its values; leave the weight out",
                cls.rule,
            )
        U, S, Vt = singular_vectors(matrix, segment.rank)
        most = np.count_nonzero(S > S.max(initial=0) * max(matrix.shape) * 2.0**-23)
        if segment.rank > most:
            raise LayerMapError(
                f"{segment.name} has {segment.describe()}, whose own rank is at most {most}, and kind {cls.kind} needs {segment.rank} "
                "of its singular vectors; give a smaller rank, or leave the weight out",
                cls.rule,
            )
        return U, S, Vt

    def frozen_matrices(self, number: int, segment: Segment) -> Iterator[Value]:
        """The frozen matrices of the segment with this number in the layer map."""
        start = int(self._starts[number])
        for shape in self.shapes(segment):
            numbers = self.tensors["frozen"][start : start + math.prod(shape)].reshape(shape)
            yield frozen_in_parts(shape, numbers.__getitem__)
            start += math.prod(shape)


def singular_vectors(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U (out, rank), S (rank) and Vᵀ (rank, in) of the largest singular values of a matrix (out, in), descending: float64.

    Their signs are chosen so that in each column of U the first entry of at least three quarters of the largest magnitude is
    positive. (The largest entry would not do: two entries may have magnitudes that are equal but for their last bits.)
    """
    U, S, Vt = _by_eigenvectors(matrix, rank)
    if (64 * S < S.max(initial=0)).any():
        U, S, Vt = np.linalg.svd(matrix, full_matrices=False)
        U, S, Vt = U[:, :rank], S[:rank], Vt[:rank]
    large = abs(U) >= 0.75 * abs(U).max(axis=0)
    signs = np.sign(U[large.argmax(axis=0), np.arange(rank)])
    return U * signs, S, Vt * signs[:, None]


def _by_eigenvectors(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The singular vectors from the eigenvectors of the Gram matrix, in a third of the time that the whole decomposition takes (26 s
    and 71 s of a core for 4096 × 4096). The Gram matrix has the squares of the singular values, so that one that is n times smaller
    than the largest loses n times as much precision as in the whole decomposition."""
    wide = matrix.shape[0] < matrix.shape[1]
    tall = matrix.T if wide else matrix
    _, eigenvectors = np.linalg.eigh(tall.T @ tall)
    V = eigenvectors[:, ::-1][:, :rank]
    U, S, turned = np.linalg.svd(tall @ V, full_matrices=False)  # of the values themselves, not of their squares
    Vt = turned @ V.T
    return (Vt.T, S, U.T) if wide else (U, S, Vt)
