"""`uniform`, the paper's theorem: each row's column drawn independently (SPEC 5)."""

from collections.abc import Iterator

import numpy as np

from ..gather import Counted
from ..permutation import in_blocks, mix


class Uniform(Counted, kind="uniform"):
    """index(i) = ⌊h(i)·d / 2^32⌋ for a hash h. A row's column is found in O(1). A column's rows are found only by walking all
    rows, as each is drawn independently."""

    def columns(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        for first, end in in_blocks(start, stop):
            i = np.arange(first, end)
            h = mix(mix(i.astype(np.uint32), self.keys[6]) ^ (i >> 32).astype(np.uint32), self.keys[7])
            yield first, (h.astype(np.int64) * self.d) >> 32
