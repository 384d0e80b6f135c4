"""`uniform`, the paper's theorem: each row's column drawn independently (SPEC 5)."""

import numpy as np

from ..permutation import mix
from ..projection import Counted


class Uniform(Counted, kind="uniform"):
    """index(i) = ⌊h(i)·d / 2^32⌋ for a hash h. Rows are O(1); nothing in an independent draw tells where a column's are."""

    def index(self, start=0, stop=None):
        start, stop = self.range_of(start, stop, self.D)
        i = np.arange(start, stop)
        h = mix(mix(i.astype(np.uint32), self.keys[6]) ^ (i >> 32).astype(np.uint32), self.keys[7])
        return (h.astype(np.int64) * self.d) >> 32
