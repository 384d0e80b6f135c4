"""`chain`: links that are trained one after the other, each with a projection of its own (SPEC 11.15).

Malinovsky et al., "Randomized Asymmetric Chain of LoRA", arXiv 2410.08305.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from ..errors import LimitError
from ..layer_map import LayerMap
from ..parts import Block, InParts
from ..projection import Option

MAX_LINKS = 65_536


class Chain(InParts, kind="chain"):
    """`balanced` within each link. Of a segment of rank r, link k has the rows of A and the columns of B from k·r/links on, so that
    B·A is the sum of all links' products: what merging them one after the other adds.

    Raises ``LimitError`` where links do not divide d and every rank.
    """

    known_options: ClassVar[dict[str, Option]] = {"links": Option(2, 2, "how many links the chain has")}

    @classmethod
    def fitted(cls, layer_map: LayerMap, *, links: int) -> LayerMap:
        """The layer map with each rank times ``links``, and an alpha that keeps the scale s as it was (with `rslora` up to rounding)."""
        segments = [replace(segment, rank=links * segment.rank) for segment in layer_map.segments]
        more = links if layer_map.scaling == "lora" else math.sqrt(links)
        return LayerMap(segments, more * layer_map.alpha, layer_map.scaling)

    @property
    def links(self) -> int:
        return self.options["links"]

    def link(self, k: int) -> slice:
        """The range of θ that link k trains."""
        length = self.d // self.links
        return slice(k * length, (k + 1) * length)

    def parts(self) -> tuple[Sequence[int] | np.ndarray, Sequence[int] | np.ndarray]:
        self.check_factors(self.layer_map)
        links = self.links
        indivisible = ((f"rank of {s.name:.80}", s.rank) for s in self.layer_map.segments if s.rank % links)
        what, number = ("d", self.d) if self.d % links else next(indivisible, ("d", self.d))
        if links > MAX_LINKS or number % links:
            raise LimitError(
                f"{what} is {number}, not a multiple of links, {links}; give a multiple, and at most {MAX_LINKS} links",
                "11.15",
            )
        return np.full(links, self.D // links), np.full(links, self.d // links)

    def blocks(self) -> Iterator[Block]:
        links = self.links
        for segment, row in self.layer_map.placed():
            rank, entry = segment.rank // links, row // links
            size_A = rank * segment.in_features
            yield Block(row, 0, entry, size_A, links)
            yield Block(row + links * size_A, 0, entry + size_A, rank, links)

    def initial(self, layer_map: LayerMap | None, bound: float = 0.02) -> np.ndarray:
        """Link 0 begins as any gather does. The others are zero, so that they get no gradient, until training sets them to ``start_of``."""
        theta = np.zeros(self.d, dtype=np.float32)
        theta[self.link(0)] = self.start_of(0, bound)
        return theta

    def start_of(self, k: int, bound: float = 0.02) -> np.ndarray:
        """The numbers that link k's training begins with: float32[d / links] (SPEC 6.4)."""
        own = self.link(k)
        return (self.uniform_start(own.start, own.stop) * bound).astype(np.float32)
