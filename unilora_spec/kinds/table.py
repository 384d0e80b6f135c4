"""`table`: the index is stored, for adapters that were trained elsewhere with an index of their own (SPEC 9.4)."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from ..gather import Counted
from ..permutation import in_blocks


class Table(Counted, kind="table"):
    """index(i) is entry i of the tensor ``index``, whole numbers [D] from 0 to d − 1; it is kept as int32.

    Raises ``LimitError`` for an ``index`` of another shape, with other than whole numbers, or with one outside 0 … d − 1 (SPEC 9.4).
    """

    stored: ClassVar[dict[str, str]] = {"index": "I32"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        possible = f"a column from 0 to {self.d - 1}, as d is {self.d}"
        self.tensors["index"] = self.checked_index(self.D, self.d, possible, "9.4")

    def columns(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        for i, end in in_blocks(start, stop):
            yield i, self.tensors["index"][i:end]
