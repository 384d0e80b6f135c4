"""`balanced`, the default: every column holds ⌊D/d⌋ or ⌈D/d⌉ rows, in the order of a permutation (SPEC 4)."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..gather import Gather
from ..permutation import Permutation


class Balanced(Gather, kind="balanced"):
    """index(i) = π(i) mod d. Every method is O(1) an entry, in both directions, whatever D is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.permutation = Permutation(self.D, self.seed)

    def columns(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        turns = None
        for i, y in self.permutation.blocks(start, stop):
            turns = np.empty_like(y) if turns is None else turns[: len(y)]
            np.floor_divide(y, self.d, out=turns)  # NumPy's quotient is fast, its remainder is not
            turns *= self.d
            y -= turns
            yield i, y

    def members(self, j: int) -> np.ndarray:
        return np.sort(self.permutation.inverse(np.arange(self._column(j), self.D, self.d)))

    def counts(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        start, stop = self.range_of(start, stop, self.d)
        return self.D // self.d + (np.arange(start, stop) < self.D % self.d)
