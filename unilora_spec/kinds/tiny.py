"""`tiny`, TinyLoRA: LoRA-XS's small matrix as a sum of fixed random ones, whose few weights many segments share (SPEC 11.16).

Morris et al., "Learning to Reason in 13 Parameters", arXiv 2602.04118.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import ClassVar

import numpy as np

from ..errors import LimitError
from ..layer_map import LayerMap
from ..program import Range, Start, Value, by_size, frozen
from ..projection import Option
from ..segment import Segment
from .xs import Xs

MAX_RANDOM = 2**24  # numbers of all P_i together, the most that a file of a few kilobytes can ask for


class Tiny(Xs, kind="tiny"):
    """`xs` with R = v_1·P_1 + … + v_u·P_u: each segment has P_i of its own, each group of segments one v.

    Raises ``LimitError`` where a group would have no segment, and where the P_i would have more than 2^24 numbers.
    """

    rule = "11.16"
    known_options: ClassVar[dict[str, Option]] = {
        "u": Option(1, 13, "how many numbers a group trains"),
        "groups": Option(1, 1, "how many groups the segments fall into"),
    }

    @classmethod
    def dim(cls, layer_map: LayerMap, u: int, groups: int) -> int:
        segments, squares = len(layer_map), sum(by_size(layer_map, _square))
        if groups > segments:
            raise LimitError(f"groups is {groups}; give at most {segments}, the number of segments", cls.rule)
        if u * squares > MAX_RANDOM:
            raise LimitError(
                f"u is {u}, and the squares of all ranks add up to {squares}: {u * squares} random numbers, and at most {MAX_RANDOM} "
                "can be; give a smaller u or smaller ranks",
                cls.rule,
            )
        return super().dim(layer_map, u=u, groups=groups)

    @classmethod
    def shared(cls, layer_map: LayerMap, u: int, groups: int) -> Iterator[Range]:
        yield Range("v", (groups, u), Start("constant", 0.0))

    @classmethod
    def own(cls, segment: Segment, u: int, groups: int) -> Iterable[Range]:
        return ()

    def between(self, number: int, segment: Segment) -> Value:
        group = number * self.options["groups"] // len(self.layer_map)
        v = self.range("v")[group : group + 1, :]
        return (v @ self.random(number, segment)).reshape(segment.rank, segment.rank)

    def random(self, number: int, segment: Segment) -> Value:
        """The P_i of the segment with this number in the layer map, a row each: (u, rank²)."""
        u, rank = self.options["u"], segment.rank
        start, count = u * int(self._entries[number]), u * rank**2

        def make() -> np.ndarray:
            normals = self.normal(1, start, start + count) * (1 / math.sqrt(rank))
            return normals.astype(np.float32).reshape(u, rank**2)

        return frozen((u, rank**2), make)

    @cached_property
    def _entries(self) -> np.ndarray:
        """How many entries the matrices R of all segments before each one have together: int64[segments + 1]."""
        before = itertools.accumulate(by_size(self.layer_map, _square), initial=0)
        return np.fromiter(before, np.int64, len(self.layer_map) + 1)


def _square(segment: Segment) -> int:
    return segment.rank**2
