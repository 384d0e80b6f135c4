"""A segment: one adapted weight or a part of one, its place in the weight, and its entries of θ_D (SPEC 7.2 to 7.5)."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .errors import BaseMismatch, LayerMapError
from .permutation import MAX_D

MAX_NAME = 512  # bytes of UTF-8; a run's prefix is repeated for each of its segments
NUMBER = re.compile("0|[1-9][0-9]{0,8}")  # a whole part of a name that is a number (SPEC 7.9)
_FIRST_NUMBER = re.compile(rf"(?:[^.]*\.)*?(?:{NUMBER.pattern})(?![^.])")  # a name up to its first number


@dataclass(frozen=True, slots=True)
class Segment:
    """One LoRA pair (A, B), or ΔW itself, for one weight, or for a part of one (SPEC 7.2 to 7.5).

    ``name``          the tensor's name in the model
    ``out_features``  rows of B, rows of the adapted matrix
    ``in_features``   columns of A; for a convolution in · k…, its kernel flattened
    ``rank``          rows of A, columns of B; 0: there is no pair, and ΔW's own entries are in θ_D
    ``transposed``    the tensor is stored (in, out)
    ``row``           the first row, where the rows row … row + out_features − 1 alone are adapted (fused q, k, v)
    ``index``         which matrix of a stacked tensor (experts, ·, ·)

    Raises ``LayerMapError`` for a value outside of these meanings.
    """

    name: str
    out_features: int
    in_features: int
    rank: int
    transposed: bool = False
    row: int | None = None
    index: int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and 0 < len(self.name.encode("utf-8", "surrogatepass")) <= MAX_NAME):
            raise LayerMapError(
                f"a segment's name is {self.name!r:.80}; give a tensor's name, of at most {MAX_NAME} bytes", "7.2"
            )
        for field, least in (("out_features", 1), ("in_features", 1), ("rank", 0), ("row", 0), ("index", 0)):
            value = getattr(self, field)
            if value is None and field in ("row", "index"):
                continue
            if type(value) is not int or not least <= value < MAX_D:
                raise LayerMapError(f"{field} of {self.name} is {value!r:.40}; give a whole number from {least}", "7.2")
        if type(self.transposed) is not bool:
            raise LayerMapError(f"transposed of {self.name} is {self.transposed!r:.40}; give true or false", "7.2")

    @property
    def layer(self) -> str:
        """The name up to its first number, such as encoder.layer.3, or the whole name where it has none (SPEC 7.9)."""
        head = _FIRST_NUMBER.match(self.name)
        return head[0] if head else self.name

    @property
    def size(self) -> int:
        """Entries of θ_D that the segment takes: A's, then B's, or those of ΔW (SPEC 7.2)."""
        if self.rank == 0:
            return self.out_features * self.in_features
        return self.rank * (self.in_features + self.out_features)

    @property
    def factor_shapes(self) -> tuple[tuple[int, int], ...]:
        """The shapes of what ``factors`` gives, in the order in which θ_D has them (SPEC 7.2)."""
        if self.rank == 0:
            return ((self.out_features, self.in_features),)
        return (self.rank, self.in_features), (self.out_features, self.rank)

    def factors(self, theta_D: Any) -> tuple[Any, ...]:
        """A (rank, in) and B (out, rank), or of rank 0 one factor (out, in): views of the segment's own slice of θ_D, NumPy's or
        torch's (SPEC 7.2)."""
        if self.rank == 0:
            return (theta_D.reshape(self.out_features, self.in_features),)
        of_A, of_B = self.factor_shapes
        split = self.rank * self.in_features
        return theta_D[:split].reshape(of_A), theta_D[split:].reshape(of_B)

    @staticmethod
    def product(first: Any, *others: Any) -> Any:
        """The product of what ``factors`` gives: ΔW before the scale s is applied, (out, in) (SPEC 7.7)."""
        for factor in others:
            first = factor @ first
        return first

    def part(self, weight: Any) -> Any:
        """The view of a stored weight that the segment adapts, NumPy's or torch's (SPEC 7.3 to 7.5)."""
        if self.index is not None:
            weight = weight[self.index]
        if self.row is not None:
            rows = slice(self.row, self.row + self.out_features)
            weight = weight[:, rows] if self.transposed else weight[rows]
        return weight

    def matrix(self, weight: Any) -> Any:
        """The matrix (out, in) that the segment adapts, of a stored weight, NumPy's or torch's (SPEC 7.3 to 7.5)."""
        part = self.part(weight)
        return (part.T if self.transposed else part).reshape(self.out_features, self.in_features)

    def stored(self, delta: Any, shape: Sequence[int]) -> Any:
        """A delta weight (out, in), turned and shaped as ``part`` of the stored weight is (SPEC 7.3, 7.4)."""
        return (delta.T if self.transposed else delta).reshape(shape)

    def bands(self, entries: int) -> Iterator[tuple[slice, "Segment"]]:
        """The segment cut into bands of whole rows, each of at most ``entries`` entries of ΔW, or of one row where that has more. Yields
        for each band its rows of ΔW, and the band as a segment."""
        step = max(1, entries // self.in_features)
        for first in range(0, self.out_features, step):
            rows = min(step, self.out_features - first)
            yield slice(first, first + rows), replace(self, out_features=rows, row=(self.row or 0) + first)

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raises ``BaseMismatch`` unless a weight of this shape has the part that the segment adapts (SPEC 10.3)."""
        rest = list(shape)
        fits = True
        if self.index is not None:
            fits = len(rest) == 3 and self.index < rest.pop(0)
        fits = fits and (len(rest) == 2 or (len(rest) > 2 and not self.transposed and self.index is None))
        if fits:
            rows, columns = rest[0], math.prod(rest[1:])
            if self.transposed:
                rows, columns = columns, rows
            fits = columns == self.in_features
            fits = fits and (rows == self.out_features if self.row is None else rows >= self.row + self.out_features)
        if not fits:
            raise BaseMismatch(
                f"the weight {self.name} has shape {list(shape)}, which does not hold {self.describe()}", "10.3"
            )

    def describe(self) -> str:
        """The segment's place in its weight, in words."""
        words = f"a matrix of {self.out_features} × {self.in_features} (out × in)"
        if self.transposed:
            words += ", stored transposed"
        if self.row is not None:
            words += f", as rows {self.row} to {self.row + self.out_features}"
        if self.index is not None:
            words += f", at index {self.index}"
        return words
