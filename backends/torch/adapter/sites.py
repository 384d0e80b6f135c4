"""Where a pair (A, B) acts: on the module that owns the adapted weight. The base's own parameters never change.

``LowRank`` adds s·(x Aᵀ)Bᵀ to the output of a module that multiplies by its weight. ``MergedLinear`` is the same for nn.Linear,
and takes x(W + ΔW)ᵀ where that costs less. ``DeltaWeight`` shows a module W + ΔW in place of W while it runs: for stacked
experts and grouped convolutions, which use their weights in ways of their own.

Of rank 0 there is one factor in place of the pair (SPEC 7.2): what is added is s·(x Mᵀ). Each adds the noise of training, where
there is one, in its own way.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from unilora_spec import Segment

from .linear import merged_linear, merged_weight


def delta_weight(segment: Segment, factors, s, shape):
    """ΔW (SPEC 7.7) of a segment's float32 ``factors`` as the stored weight's part of this ``shape``."""
    return segment.stored(s * segment.product(*factors), shape)


def _matrix(segment, part):
    """The stored weight's part as the matrix (out, in) that is adapted: a view."""
    return (part.T if segment.transposed else part).reshape(segment.out_features, segment.in_features)


class LowRank:
    """Forward hook of a Linear, Conv1D (transformers) or ungrouped convolution; ``pairs`` are (number, segment, s)."""

    def __init__(self, unilora, pairs):
        self.unilora, self.pairs = unilora, pairs

    def install(self, module, parameter):
        return [module.register_forward_hook(self)]

    def __call__(self, module, inputs, output):
        if self.unilora.is_merged:
            return output
        x = inputs[0]
        factors = self.unilora.factors()
        for number, segment, s in self.pairs:
            first, *rest = (factor.to(x.dtype) for factor in factors[number])
            if isinstance(module, nn.modules.conv._ConvNd):
                output = self._add_convolution(module, segment, x, first, rest, s, output)
            else:
                delta = F.linear(x, first) * s
                for B in rest:
                    delta = F.linear(delta, B)
                output = _add(output, delta.to(output.dtype), segment, -1)
        for (number, segment, s), draw in zip(self.pairs, self.unilora.draws(self.pairs)):
            # xεᵀ without ε in memory: the checkpoint makes it again for the backward pass
            norms = self._norms(module, segment, factors[number], s)
            noise = checkpoint(
                self._of_noise, module, segment, x, draw, norms, use_reentrant=False, preserve_rng_state=False
            )
            output = _add(output, noise.to(output.dtype), segment, self._channels(module))
        return output

    @staticmethod
    @torch.no_grad()
    def _norms(module, segment, factors, s):
        """Those of the rows of W + ΔW, float32."""
        rows = _matrix(segment, segment.part(module.weight)).float()
        return merged_weight(rows, ((None, s, len(factors)),), [factor.float() for factor in factors]).norm(dim=1)

    @staticmethod
    def _of_noise(module, segment, x, draw, norms):
        noise = draw(norms, segment.in_features).to(x.dtype)
        if isinstance(module, nn.modules.conv._ConvNd):
            return module._conv_forward(x, noise.reshape(-1, *module.weight.shape[1:]), None)
        return F.linear(x, noise)

    @staticmethod
    def _channels(module):
        """Where the features of an output are."""
        return 1 - module.weight.dim() if isinstance(module, nn.modules.conv._ConvNd) else -1

    @classmethod
    def _add_convolution(cls, module, segment, x, first, rest, s, output):
        channels = cls._channels(module)
        delta = module._conv_forward(x, first.reshape(-1, *module.weight.shape[1:]), None) * s
        for B in rest:
            delta = F.linear(delta.movedim(channels, -1), B).movedim(-1, channels)
        return _add(output, delta.to(output.dtype), segment, channels)


class MergedLinear(LowRank):
    """In place of the forward of an nn.Linear."""

    @staticmethod
    def fits(module) -> bool:
        """Whether the module multiplies as nn.Linear does: quantized ones and those that a library has wrapped do not."""
        return getattr(type(module), "forward", None) is nn.Linear.forward and "forward" not in vars(module)

    def install(self, module, parameter):
        self.module = module
        has_pairs = all(segment.rank for _, segment, _ in self.pairs)
        self.per_token = sum(module.weight.shape) if has_pairs else module.weight.numel()
        module.forward = self.forward
        # torch's encoder layers would go past a forward of ours if they saw no hook
        return [_Forward(module), module.register_forward_pre_hook(_unchanged)]

    def forward(self, input):
        module = self.module
        if self.unilora.is_merged or not self._costs_less(input, module.weight):
            return self(module, (input,), F.linear(input, module.weight, module.bias))
        return self._merged(input, module)

    def _merged(self, x, module):
        factors = self.unilora.factors()
        places = tuple((segment.row, s, len(factors[number])) for number, segment, s in self.pairs)
        flat = [factor.to(x.dtype) for number, *_ in self.pairs for factor in factors[number]]
        draws = self.unilora.draws(self.pairs)
        return merged_linear(x, module.weight, module.bias, places, *flat, draws=draws)

    def _costs_less(self, x, weight):
        """Making W + ΔW takes in · out · rank products, the low-rank path (in + out) · rank for each token; of rank 0, in · out
        sums, and in · out products for each token. In half precision a sum with W would round ΔW away, and a quantized weight
        cannot be added to."""
        plain = type(weight) in (nn.Parameter, torch.Tensor) and not weight.requires_grad
        plain = plain and x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
        device, tokens = x.device.type, x.numel() // x.shape[-1]
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        return plain and not autocast and tokens * self.per_token > weight.numel()


class _Forward:
    """The handle that gives a module its own forward back."""

    def __init__(self, module):
        self.module = module

    def remove(self):
        del self.module.forward


def _unchanged(module, inputs):
    return None


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
        segments = [segment for _, segment, _ in self.pairs]
        self.whole_experts = all(segment.index is not None and segment.row is None for segment in segments)
        self.experts = torch.tensor([segment.index or 0 for segment in segments])
        return [
            module.register_forward_pre_hook(self.show),
            module.register_forward_hook(self.hide, always_call=True),
        ]

    def show(self, module, inputs):
        if self.unilora.is_merged:
            return
        weight = module._parameters[self.parameter]
        factors = self.unilora.factors()
        deltas = []
        for number, segment, s in self.pairs:
            of_segment = [factor.float() for factor in factors[number]]
            deltas.append(delta_weight(segment, of_segment, s, segment.part(weight).shape).to(weight.dtype))
        if self.whole_experts:
            # copied once: at each step, it would wait for the GPU
            self.experts = self.experts.to(weight.device)
            adapted = weight.index_add(0, self.experts, torch.stack(deltas))
        else:
            adapted = weight.clone()
            for (_, segment, _), delta in zip(self.pairs, deltas):
                segment.part(adapted).add_(delta)
        with torch.no_grad():  # a constant, within what the module keeps of the adapted weight anyway
            for (_, segment, _), draw in zip(self.pairs, self.unilora.draws(self.pairs)):
                part = segment.part(adapted)
                norms = _matrix(segment, part).float().norm(dim=1)
                part.add_(segment.stored(draw(norms, segment.in_features), part.shape))
        # An instance's own attribute comes before its parameters, which stay untouched.
        module.__dict__[self.parameter] = adapted

    def hide(self, module, inputs, output):
        module.__dict__.pop(self.parameter, None)
