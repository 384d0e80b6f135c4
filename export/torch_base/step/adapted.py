"""The forward pass of a traced model with A and B as its inputs: they act beside products and lookups, and as W + ΔW elsewhere.

What acts beside W costs no gradient of W: those of A and B are products with a narrow side.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from unilora_spec import LayerMap, Segment

aten = torch.ops.aten


@dataclass(frozen=True)
class Change:
    """What an adapter adds to one weight.

    ``parts``  the segments of the weight, each with its s and its factors: A (rank, in) and B (out, rank), or of rank 0 the one (out, in)
    """

    parts: Sequence[tuple[Segment, float, tuple[torch.Tensor, ...]]]

    @property
    def is_of_pairs(self) -> bool:
        return all(segment.rank and segment.index is None for segment, _, _ in self.parts)

    def product(self, x: torch.Tensor, features: int) -> torch.Tensor:
        """x·ΔWᵀ without ΔW, of as many ``features`` as W gives."""
        pieces = _with_gaps(
            [(segment, functional.linear(_scaled(functional.linear(x, A), s), B)) for segment, s, (A, B) in self.parts],
            features,
            -1,
        )
        return torch.cat(pieces, -1) if len(pieces) > 1 else pieces[0]

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """The rows ``ids`` of ΔW without ΔW, where one segment is the whole of it."""
        ((_, s, (A, B)),) = self.parts
        return _scaled(functional.embedding(ids, B), s) @ A

    def delta(self, shape: Sequence[int]) -> torch.Tensor:
        """ΔW as the weight is stored, with zeros between its segments (SPEC 7.3 to 7.5)."""
        if self.parts[0][0].index is None:
            return self._matrix(self.parts, shape)
        stack = []
        for index, group in itertools.groupby(self.parts, key=lambda part: part[0].index):
            matrix = self._matrix(list(group), shape[1:])
            stack += [torch.zeros_like(matrix)] * (index - len(stack)) + [matrix]
        stack += [torch.zeros_like(stack[0])] * (shape[0] - len(stack))
        return torch.stack(stack)

    @staticmethod
    def _matrix(parts, shape):
        first = parts[0][0]
        axis = 1 if first.transposed else 0
        matrices = []
        for segment, s, factors in parts:
            size = list(shape)
            size[axis] = segment.out_features
            matrices.append((segment, _scaled(segment.stored(segment.product(*factors), size), s)))
        pieces = _with_gaps(matrices, shape[axis], axis)
        return torch.cat(pieces, axis) if len(pieces) > 1 else pieces[0]


def _scaled(x, s):
    return x if s == 1 else x * s


def _with_gaps(pieces, length, axis) -> list[torch.Tensor]:
    """The tensors of segments in the order of their rows, with zeros between them, of ``length`` rows together along an axis."""
    found, end = [], 0
    for segment, piece in pieces:
        found += _zeros(piece, axis, (segment.row or 0) - end)
        found.append(piece)
        end = (segment.row or 0) + piece.shape[axis]
    return found + _zeros(pieces[0][1], axis, length - end)


def _zeros(like, axis, length):
    size = list(like.shape)
    size[axis] = length
    return [like.new_zeros(size)] if length else []


def changes(layer_map: LayerMap, factors: Mapping[int, Sequence[torch.Tensor]]) -> dict[str, Change]:
    """The ``Change`` of each weight by its name; ``factors`` are those of the segments, by the offsets in θ_D."""
    found = {}
    for name, placed in layer_map.placed_by_weight().items():
        placed = sorted(placed, key=lambda item: (item[0].index or 0, item[0].row or 0))
        found[name] = Change([(s, float(layer_map.factor_scale(s)), tuple(factors[offset])) for s, offset in placed])
    return found


class Adapted(torch.fx.Interpreter):
    """Runs a traced forward pass with changed weights, which are found by the tensor that stands for them."""

    def __init__(self, traced: torch.fx.GraphModule, changed: Sequence[tuple[torch.Tensor, Change]]):
        super().__init__(traced)
        self.changed = {id(weight): change for weight, change in changed}

    def call_function(self, target, args, kwargs):
        if target is aten._assert_tensor_metadata.default:  # of the example's tensors
            return None
        if (act := _BESIDE.get(target)) is not None:
            weight, beside = act
            change = self.changed.get(id(args[weight]))
            if change and change.is_of_pairs and (added := beside(change, *args)) is not None:
                return super().call_function(target, args, kwargs) + added
        args = torch.utils._pytree.tree_map_only(torch.Tensor, self._changed, args)
        return super().call_function(target, args, kwargs)

    def _changed(self, tensor):
        change = self.changed.get(id(tensor))
        return tensor if change is None else tensor + change.delta(tuple(tensor.shape))


def _beside_linear(change, x, weight, bias=None):
    return change.product(x, weight.shape[0])


def _beside_addmm(change, bias, x, weight):
    first = change.parts[0][0]
    return change.product(x, weight.shape[1]) if first.transposed else None


def _beside_embedding(change, weight, ids, *options):
    whole = len(change.parts) == 1 and change.parts[0][0].row is None and not change.parts[0][0].transposed
    return change.rows(ids) if whole else None


_BESIDE = {
    aten.linear.default: (1, _beside_linear),
    aten.addmm.default: (2, _beside_addmm),
    aten.embedding.default: (0, _beside_embedding),
}
"""Where the weight is among an operation's arguments, and what its change adds to the result."""
