"""`nonuniform`, an ablation of Uni-LoRA's paper: A and B have unequal shares of θ (SPEC 11.14).

Li et al., "Uni-LoRA: One Vector is All You Need", arXiv 2506.00799.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from ..errors import LimitError
from ..parts import Block, InParts
from ..projection import Option


class Nonuniform(InParts, kind="nonuniform"):
    """`balanced` within all A and within all B, which share θ's numbers as of_A : of_B.

    Raises ``LimitError`` where all A, or all B, would have no number of θ, or more numbers than entries.
    """

    known_options: ClassVar[dict[str, Option]] = {
        "of_A": Option(1, 1, "the A's share of theta"),
        "of_B": Option(1, 2, "the B's share of theta"),
    }

    def parts(self) -> tuple[Sequence[int] | np.ndarray, Sequence[int] | np.ndarray]:
        self.check_factors(self.layer_map)
        rows = sum(s.rank * s.in_features for s in self.layer_map.segments)
        sizes = rows, self.D - rows
        to_A = self.d * self.options["of_A"] // sum(self.options.values())
        dims = to_A, self.d - to_A
        for factor, size, dim in zip("AB", sizes, dims):
            if not 1 <= dim <= size:
                raise LimitError(
                    f"d is {self.d}, of which the {size} entries of all {factor} would have {dim} numbers; give another d or "
                    "other shares",
                    "11.14",
                )
        return sizes, dims

    def blocks(self) -> Iterator[Block]:
        entry_A = entry_B = 0
        for segment, row in self.layer_map.placed():
            size_A = segment.rank * segment.in_features
            yield Block(row, 0, entry_A, size_A)
            yield Block(row + size_A, 1, entry_B, segment.size - size_A)
            entry_A, entry_B = entry_A + size_A, entry_B + segment.size - size_A
