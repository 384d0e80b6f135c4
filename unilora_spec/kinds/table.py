"""`table`: the index is stored, for adapters that were trained elsewhere with an index of their own (SPEC 9.4)."""

from typing import ClassVar

import numpy as np

from ..errors import LimitError
from ..permutation import in_blocks
from ..projection import Counted


class Table(Counted, kind="table"):
    """index(i) is entry i of the tensor ``index``, whole numbers [D] from 0 to d − 1; it is kept as int32.

    Raises ``LimitError`` for an ``index`` of another shape, of other numbers, or with one outside (SPEC 9.4).
    """

    stored: ClassVar[dict[str, str]] = {"index": "I32"}

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        index = np.asarray(self.tensors["index"])
        if index.shape != (self.D,) or not np.issubdtype(index.dtype, np.integer):
            raise LimitError(f"index is {index.dtype} {list(index.shape)}; it must be whole numbers [{self.D}]", "9.4")
        if not 0 <= index.min() <= index.max() < self.d:
            at = int(np.argmax((index < 0) | (index >= self.d)))
            raise LimitError(
                f"index[{at}] is {index[at]}; give a column from 0 to {self.d - 1}, as d is {self.d}", "9.4"
            )
        index = index.astype(np.int32)  # a copy, that nobody else changes
        index.flags.writeable = False
        self.tensors["index"] = index

    def columns(self, start, stop):
        for i, end in in_blocks(start, stop):
            yield i, self.tensors["index"][i:end]
