"""`layerwise`, an ablation of Uni-LoRA's paper: each layer has numbers of its own (SPEC 11.13).

Li et al., "Uni-LoRA: One Vector is All You Need", arXiv 2506.00799.
"""

import itertools

from ..errors import LimitError
from ..parts import Block, InParts


class Layerwise(InParts, kind="layerwise"):
    """`balanced` within each layer: all segments whose names have one head up to the first number, wherever they stand.

    Raises ``LimitError`` where d is so small that a layer gets no number of θ.
    """

    def parts(self):
        sizes = {}
        for segment in self.layer_map.segments:
            sizes[segment.layer] = sizes.get(segment.layer, 0) + segment.size
        ends = [self.d * end // self.D for end in itertools.accumulate(sizes.values(), initial=0)]
        dims = [end - start for start, end in itertools.pairwise(ends)]
        for layer, dim in zip(sizes, dims):
            if dim == 0:
                raise LimitError(
                    f"d is {self.d}, which leaves the layer {layer:.80} of {len(sizes)} without a number; give a larger d",
                    "11.13",
                )
        return list(sizes.values()), dims

    def blocks(self):
        numbers, entries = {}, {}
        for segment, row in self.layer_map.placed():
            part = numbers.setdefault(segment.layer, len(numbers))
            entry = entries.get(part, 0)
            yield Block(row, part, entry, segment.size)
            entries[part] = entry + segment.size
