"""`balanced` in each of several parts of θ_D, which share no number of θ (SPEC 11.13)."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .gather import Gather
from .permutation import Permutation, in_blocks, keys


class Block(NamedTuple):
    """Rows of θ_D that ``count`` parts take in turns, ``length`` rows each, from the row ``row`` on up to the next block.

    ``part`` is the first of the parts, after which the others are numbered, ``entry`` the number of the block's first row in each
    of them.
    """

    row: int
    part: int
    entry: int
    length: int
    count: int = 1  # type: ignore[assignment]  # a tuple has a method of this name, which nobody calls on a block


class InParts(Gather):
    """A gather whose parts are dealt to columns each by a permutation of its own. Every method is O(log segments) an entry.

    A kind says what parts there are, 65,536 at most, and which rows each has.
    """

    layered = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sizes, self._dims = (np.array(each, dtype=np.int64) for each in self.parts())
        self._first = np.cumsum(self._dims) - self._dims  # each part's first column
        self._permutations: dict[int, Permutation] = {}

    @abstractmethod
    def parts(self) -> tuple[Sequence[int], Sequence[int]]:
        """How many rows, and how many columns, each part has: at least one column, and no more columns than rows. Raises ``LimitError``
        where the kind's options make other parts."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """The blocks of all rows of θ_D, in order; the rows of a part hold its entries in order."""

    def columns(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        b = self._blocks
        for i, end in in_blocks(start, stop):
            rows = np.arange(i, end)
            k = np.searchsorted(b.row, rows, side="right") - 1
            turn, rest = np.divmod(rows - b.row[k], b.count[k] * b.length[k])
            place, rest = np.divmod(rest, b.length[k])
            yield i, self._dealt(b.part[k] + place, b.entry[k] + turn * b.length[k] + rest)

    def _dealt(self, parts: np.ndarray, entries: np.ndarray) -> np.ndarray:
        """The columns of these entries of these parts."""
        columns = np.empty_like(entries)
        order = np.argsort(parts.astype(np.uint16), kind="stable")  # NumPy sorts 16-bit numbers by radix
        for which in np.split(order, np.flatnonzero(np.diff(parts[order])) + 1):
            part = parts[which[0]]
            columns[which] = self._first[part] + self._permutation(part)(entries[which]) % self._dims[part]
        return columns

    def members(self, j: int) -> np.ndarray:
        j, b = self._column(j), self._blocks
        part = self._part_of(j)
        dealt = np.arange(j - self._first[part], self._sizes[part], self._dims[part])
        entries = np.sort(self._permutation(part).inverse(dealt))
        own = np.flatnonzero((b.part <= part) & (part < b.part + b.count))
        k = own[np.searchsorted(b.entry[own], entries, side="right") - 1]
        turn, rest = np.divmod(entries - b.entry[k], b.length[k])
        return b.row[k] + (turn * b.count[k] + part - b.part[k]) * b.length[k] + rest

    def counts(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        start, stop = self.range_of(start, stop, self.d)
        j = np.arange(start, stop)
        part = self._part_of(j)
        size, dim = self._sizes[part], self._dims[part]
        return size // dim + (j - self._first[part] < size % dim)

    def _part_of(self, j: np.ndarray | int) -> Any:
        return np.searchsorted(self._first, j, side="right") - 1

    @cached_property
    def _blocks(self) -> Any:
        """All blocks as one ``Block`` of arrays."""
        return Block(*np.array(list(self.blocks()), dtype=np.int64).T)

    @cached_property
    def _keys(self) -> list[int]:
        return keys(self.seed, 10 + 2 * len(self._sizes))[10:]

    def _permutation(self, part: int) -> Permutation:
        part = int(part)
        if part not in self._permutations:
            high, low = self._keys[2 * part : 2 * part + 2]
            self._permutations[part] = Permutation(int(self._sizes[part]), high << 32 | low)
        return self._permutations[part]
