"""Adds the adapter's delta weights to the model's weights, for good or for a while."""

import contextlib

import torch
from torch import Tensor

from .sites.low_rank import delta_weight


def weights_of(unilora) -> dict[str, Tensor]:
    """The adapted weights by name. Raises ``LayerMapError`` where one is quantized."""
    unilora.refuse_quantized("merge into the unquantized base")
    return {name: owner.module._parameters[owner.parameter] for name, owner in unilora.owners.items()}


@torch.no_grad()
def add_deltas(unilora, weights: dict[str, Tensor]) -> None:
    """Adds every ΔW to its weight in place, in float32 and rounded once (SPEC 7.10)."""
    vector = unilora.vector
    factors = vector.cut(vector.expand(torch.float32))
    for segment, own in zip(vector.layer_map.segments, factors):
        part = segment.part(weights[segment.name])
        s = float(vector.layer_map.factor_scale(segment))
        delta = delta_weight(segment, [factor.to(part.device) for factor in own], s, part.shape)
        part.copy_(part.float() + delta)


@contextlib.contextmanager
def merged(unilora):
    """Within the block the weights hold W + ΔW, and the adapter does not act; afterwards they are W, to the bit."""
    weights, calls = weights_of(unilora), unilora.calls
    originals = {name: weight.data for name, weight in weights.items()}
    try:
        with calls.paused():
            for weight in weights.values():
                weight.data = weight.data.clone()
            add_deltas(unilora, weights)
            calls.is_merged = True
        yield
    finally:
        with calls.paused():
            calls.is_merged = False
            for name, weight in weights.items():
                weight.data = originals[name]
