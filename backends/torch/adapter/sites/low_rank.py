"""Sites, which let a pair (A, B) act on the module that owns the adapted weight. The base's own parameters never
change.

``LowRank`` adds s·(x Aᵀ)Bᵀ to the output of a module that multiplies by its weight. ``MergedLinear`` does the same for
nn.Linear, and computes x(W + ΔW)ᵀ where that costs less. Both leave few tokens without a gradient to few_tokens.py.
``DeltaWeight`` (delta_weight.py) gives W + ΔW to code that reads a weight: that of stacked experts, grouped
convolutions, embeddings, and of modules whose weight another module reads without calling them.

A segment of rank 0 has one factor M in place of the pair (SPEC 7.2), and s·(x Mᵀ) is added. Each site adds the noise of
training, where there is one, in its own way.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from unilora_spec import Segment

from ..calls.compiling import in_torch_func
from ..calls.in_place import InPlaceOfForward
from . import few_tokens
from .linear import merged_linear, merged_weight


def delta_weight(segment: Segment, factors, s, shape):
    """ΔW (SPEC 7.7) of a segment's float32 ``factors`` as the stored weight's part of this ``shape``."""
    return segment.stored(s * segment.product(*factors), shape)


def matrix(segment, part):
    """The stored weight's part as the matrix (out, in) that is adapted: a view."""
    return (part.T if segment.transposed else part).reshape(segment.out_features, segment.in_features)


class LowRank:
    """Forward hook of a Linear, Conv1D (transformers) or ungrouped convolution.

    ``unilora`` gives factors and noise; ``pairs`` has (number, segment, s) of each segment of the module's weight.
    """

    is_convolution = False

    def __init__(self, unilora, pairs):
        self.unilora, self.pairs = unilora, pairs
        self.has_pairs = all(segment.rank for _, segment, _ in pairs)

    def install(self, module, parameter) -> list:
        """Puts itself on the module; returns handles with ``remove``."""
        self.is_convolution = isinstance(module, nn.modules.conv._ConvNd)
        return [module.register_forward_hook(self, with_kwargs=True)]

    def __call__(self, module, inputs, named, output):
        factors = self.unilora.acting_factors()
        if factors is None:
            return output
        x = inputs[0] if inputs else next(iter(named.values()))
        if self._are_few(x, output, factors):
            own = output.clone(memory_format=torch.contiguous_format)  # a hook before this one may have kept ``output``
            return self._added_to_few(x, own, factors)
        return self._added(module, x, output, factors)

    def _are_few(self, x, output, factors):
        """Whether few_tokens.py computes this call."""
        return (
            factors.rows is None
            and self.has_pairs
            and not self.is_convolution
            and few_tokens.are_few(x, output)
            and not self.unilora.draws(self.pairs)
        )

    def _added_to_few(self, x, output, factors):
        ready = factors.ready.get(self)
        if ready is None or not ready.are_for(x):
            pairs = [(segment, s, *factors.segments[number]) for number, segment, s in self.pairs]
            ready = factors.ready[self] = few_tokens.prepared(x, pairs)
        return few_tokens.add(x, output, ready)

    def _added(self, module, x, output, factors):
        if factors.rows is not None:
            for number, segment, s in self.pairs:
                own = factors.segments[number]
                output = factors.rows.add_deltas(module, x, output, segment, s, own, _add, self._convolved)
            return output
        draws = self.unilora.draws(self.pairs)
        for number, segment, s in self.pairs:
            first, *rest = (factor.to(x) for factor in factors.segments[number])
            if self.is_convolution:
                delta = self._convolved(module, x, first, rest, s)
            else:
                delta = F.linear(x, first) * s
                for B in rest:
                    delta = F.linear(delta, B)
            output = _add(output, delta.to(output.dtype), segment, self._features(module))
        for (number, segment, s), draw in zip(self.pairs, draws):
            # xεᵀ without ε in memory: the checkpoint makes it again for the backward pass
            norms = self._norms(module, segment, factors.segments[number], s)
            noise = checkpoint(
                self._noise_product, module, segment, x, draw, norms, use_reentrant=False, preserve_rng_state=False
            )
            output = _add(output, noise.to(output.dtype), segment, self._features(module))
        return output

    @staticmethod
    @torch.no_grad()
    def _norms(module, segment, factors, s):
        """The norms of the segment's rows of W + ΔW, float32[out]."""
        rows = matrix(segment, segment.part(module.weight)).float()
        return merged_weight(rows, ((None, s, len(factors)),), [factor.float() for factor in factors]).norm(dim=1)

    @staticmethod
    def _noise_product(module, segment, x, draw, norms):
        noise = draw(norms, segment.in_features).to(x.dtype)
        if isinstance(module, nn.modules.conv._ConvNd):
            return module._conv_forward(x, noise.reshape(-1, *module.weight.shape[1:]), None)
        return F.linear(x, noise)

    def _features(self, module):
        """The dimension of an output that holds its features."""
        return 1 - module.weight.dim() if self.is_convolution else -1

    @staticmethod
    def _convolved(module, x, first, rest, s):
        channels = 1 - module.weight.dim()
        delta = module._conv_forward(x, first.reshape(-1, *module.weight.shape[1:]), None) * s
        for B in rest:
            delta = F.linear(delta.movedim(channels, -1), B).movedim(-1, channels)
        return delta


class MergedLinear(LowRank):
    """Takes the place of the forward of an nn.Linear: x(W + ΔW)ᵀ + b where that costs less, else what ``LowRank``
    does."""

    @staticmethod
    def fits(module) -> bool:
        """Whether the module multiplies as nn.Linear does: quantized ones and those that a library has wrapped do not."""
        return type(module).forward is nn.Linear.forward and "forward" not in vars(module)

    def install(self, module, parameter) -> list:
        # Making W + ΔW takes in · out · rank products, the low-rank path (in + out) · rank for each token. With rank 0,
        # they take in · out sums, and in · out products for each token.
        inside, outside = module.in_features, module.out_features
        self.break_even = inside * outside / (inside + outside) if self.has_pairs else 1
        return [_MergedForward(module, self)]

    def forward(self, module, x):
        factors = self.unilora.acting_factors()
        if factors is not None and factors.rows is None and self._costs_less(x, module):
            return self._merged(x, module, factors)
        output = F.linear(x, module.weight, module.bias)
        if factors is None:
            return output
        if self._are_few(x, output, factors):
            return self._added_to_few(x, output, factors)
        return self._added(module, x, output, factors)

    def _merged(self, x, module, factors):
        places = tuple((segment.row, s, len(factors.segments[number])) for number, segment, s in self.pairs)
        flat = [factor.to(x) for number, *_ in self.pairs for factor in factors.segments[number]]
        draws = self.unilora.draws(self.pairs)
        return merged_linear(x, module.weight, module.bias, places, *flat, draws=draws)

    def _costs_less(self, x, module):
        """Whether x(W + ΔW)ᵀ costs less than the low-rank path, and is possible: in half precision a sum with W would
        round ΔW away, nothing can be added to a quantized weight, and torch.func does not know the autograd
        function."""
        if x.numel() <= self.break_even * x.shape[-1]:
            return False
        weight = module.weight
        if x.dtype != weight.dtype or weight.requires_grad:
            return False
        plain = type(weight) in (nn.Parameter, torch.Tensor) and x.dtype in (torch.float32, torch.float64)
        device = x.device.type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        return plain and not autocast and not in_torch_func()


class _MergedForward(InPlaceOfForward):
    def __init__(self, module, site):
        super().__init__(module)
        self.site = site

    def __call__(self, input):  # without ``run``, which would cost one more call in each layer for each token
        return self.inner(input) if self.is_closed else self.site.forward(self.module, input)

    remove = InPlaceOfForward.close


def empty_hook(module, inputs):
    """A forward pre-hook that does nothing: torch's own fast paths bypass our forwards unless they see a hook."""


def _add(output, delta, segment, dim):
    """``output`` with ``delta`` added to the segment's rows, which are along ``dim``."""
    if segment.row is None:
        return output + delta
    if in_torch_func():  # a batch of θ has a batch of deltas, and output may have none
        after = output.shape[dim] - segment.row - segment.out_features
        return output + F.pad(delta.movedim(dim, -1), (segment.row, after)).movedim(-1, dim)
    output.narrow(dim, segment.row, segment.out_features).add_(delta)
    return output
