"""`identity`, plain LoRA: every factor trained as it is, d = D (SPEC 9.2)."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import LimitError
from ..gather import Gather
from ..layer_map import LayerMap
from ..permutation import in_blocks


class Identity(Gather, kind="identity"):
    """index(i) = i. Training starts as LoRA's does: A uniform with the bound 1/√in (Kaiming), B zero."""

    d_is_free = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.d != self.D:
            raise LimitError(f"d is {self.d} and D is {self.D}; kind identity needs d = D", "9.2")

    @classmethod
    def dim(cls, layer_map: LayerMap) -> int:
        return layer_map.D

    def columns(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        for i, end in in_blocks(start, stop):
            yield i, np.arange(i, end)

    def members(self, j: int) -> np.ndarray:
        return np.array([self._column(j)])

    def counts(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        start, stop = self.range_of(start, stop, self.d)
        return np.ones(stop - start, dtype=np.int64)

    def initial(self, layer_map: LayerMap | None, bound: float = 0.02) -> np.ndarray:
        if layer_map is None or layer_map.D != self.D:
            raise LimitError(
                f"kind identity starts each A by its in_features; give the layer map, of D = {self.D} entries", "9.2"
            )
        theta = np.zeros(self.d, dtype=np.float32)
        for segment, start in layer_map.placed():
            stop = start + segment.rank * segment.in_features
            theta[start:stop] = self.uniform_start(start, stop) * (1 / math.sqrt(segment.in_features))
        return theta
