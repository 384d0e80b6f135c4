"""`layerwise`, an ablation of Uni-LoRA's paper: each layer has numbers of its own (SPEC 11.13).

Li et al., "Uni-LoRA: One Vector is All You Need", arXiv 2506.00799.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from ..errors import LimitError
from ..parts import Block, InParts


class Layerwise(InParts, kind="layerwise"):
    """`balanced` within each layer. A layer is all segments whose names are the same up to their first number, wherever they stand.

    Raises ``LimitError`` where d is so small that a layer gets no number of θ.
    """

    def parts(self) -> tuple[Sequence[int] | np.ndarray, Sequence[int] | np.ndarray]:
        segments, layers = self.layer_map.segments, self._layers
        sizes = np.zeros(layers.max() + 1, np.int64)
        np.add.at(sizes, layers, np.fromiter((segment.size for segment in segments), np.int64, len(segments)))
        ends = (self.d * int(end) // self.D for end in itertools.chain([0], sizes.cumsum()))  # up to 71 bits
        dims = np.diff(np.fromiter(ends, np.int64, len(sizes) + 1))
        if not dims.all():
            without = segments[int((layers == dims.argmin()).argmax())].layer
            raise LimitError(
                f"d is {self.d}, which leaves the layer {without:.80}, one of {len(sizes)}, without a number of theta; give a larger d",
                "11.13",
            )
        return sizes, dims

    @cached_property
    def _layers(self) -> np.ndarray:
        """The number of each segment's layer, in the order of their first segments: int32[segments].

        Layers are found by the hashes of their names: a dictionary of 65,536 names would take most of the memory that a small file needs.
        """
        segments = self.layer_map.segments
        for salt in itertools.count():
            hashes = np.fromiter((hash((salt, segment.layer)) for segment in segments), np.int64, len(segments))
            order = hashes.argsort(kind="stable").astype(np.int32)
            begins = np.append(True, np.diff(hashes[order]) != 0)
            groups, firsts = begins.cumsum(dtype=np.int32) - 1, order[begins]
            if all(segments[i].layer == segments[firsts[k]].layer for i, k in zip(order, groups) if i != firsts[k]):
                break
        layers = np.empty(len(segments), np.int32)
        layers[order] = firsts.argsort().argsort()[groups]
        return layers

    def blocks(self) -> Iterator[Block]:
        entries = np.zeros(len(self._sizes), np.int64)
        for part, (segment, row) in zip(self._layers, self.layer_map.placed()):
            yield Block(row, part, entries[part], segment.size)
            entries[part] += segment.size
