"""Where a pair (A, B) acts: hooks on the module that owns the adapted weight. The base's own parameters never change.

``LowRank`` adds s·(x Aᵀ)Bᵀ to the output of a module that multiplies by its weight. ``DeltaWeight`` shows a module
W + ΔW in place of W while it runs: for stacked experts and grouped convolutions, which use their weights in ways of
their own.
"""

import torch
from torch import nn
from torch.nn import functional as F

from unilora_spec import Segment


def delta_weight(segment: Segment, A, B, s, shape):
    """ΔW = s·B·A (SPEC 7.7) as the stored weight's part of this ``shape``: float32."""
    return segment.stored(s * (B @ A), shape)


class LowRank:
    """Forward hook of a Linear, Conv1D (transformers) or ungrouped convolution; ``pairs`` are (number, segment, s)."""

    def __init__(self, unilora, pairs):
        self.unilora, self.pairs = unilora, pairs

    def install(self, module, parameter):
        return [module.register_forward_hook(self)]

    def __call__(self, module, inputs, output):
        x = inputs[0]
        factors = self.unilora.factors()
        for number, segment, s in self.pairs:
            A, B = (factor.to(x.dtype) for factor in factors[number])
            if isinstance(module, nn.modules.conv._ConvNd):
                output = self._add_convolution(module, segment, x, A, B, s, output)
            else:
                delta = F.linear(F.linear(x, A) * s, B)
                output = _add(output, delta.to(output.dtype), segment, -1)
        return output

    @staticmethod
    def _add_convolution(module, segment, x, A, B, s, output):
        spatial = module.weight.dim() - 2
        kernel = A.reshape(segment.rank, *module.weight.shape[1:])
        inner = module._conv_forward(x, kernel, None) * s
        delta = F.linear(inner.movedim(-spatial - 1, -1), B).movedim(-1, -spatial - 1)
        return _add(output, delta.to(output.dtype), segment, -spatial - 1)


def _add(output, delta, segment, dim):
    if segment.row is None:
        return output + delta
    output.narrow(dim, segment.row, segment.out_features).add_(delta)
    return output


class DeltaWeight:
    """Forward hooks that let a module see W + ΔW as the attribute that holds W, for the time of its forward."""

    def __init__(self, unilora, pairs):
        self.unilora, self.pairs = unilora, pairs

    def install(self, module, parameter):
        self.parameter = parameter
        return [
            module.register_forward_pre_hook(self.show),
            module.register_forward_hook(self.hide, always_call=True),
        ]

    def show(self, module, inputs):
        weight = module._parameters[self.parameter]
        factors = self.unilora.factors()
        segments = [segment for _, segment, _ in self.pairs]
        deltas = [
            delta_weight(segment, *factors[number], s, segment.part(weight).shape).to(weight.dtype)
            for number, segment, s in self.pairs
        ]
        if all(segment.index is not None and segment.row is None for segment in segments):
            experts = torch.tensor([segment.index for segment in segments], device=weight.device)
            adapted = weight.index_add(0, experts, torch.stack(deltas))
        else:
            adapted = weight.clone()
            for segment, delta in zip(segments, deltas):
                segment.part(adapted).add_(delta)
        # An instance's own attribute comes before its parameters, which stay untouched.
        module.__dict__[self.parameter] = adapted

    def hide(self, module, inputs, output):
        module.__dict__.pop(self.parameter, None)
