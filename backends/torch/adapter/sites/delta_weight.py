"""Gives W + ΔW to code that reads a weight: of modules that use it in ways of their own, and of modules whose weight
others read.

While the model or a part of it is called, the attribute that holds W gives W + ΔW; at any other time it is the parameter itself, so that
code that loads, counts or initializes parameters finds the parameter.
"""

import torch

from ..calls.in_place import InPlaceOfForward
from ..calls.threads import PerThread
from .low_rank import delta_weight, empty_hook, matrix
from .shown import Shown


class DeltaWeight(Shown):
    """Shows W + ΔW as the attribute that holds W.

    ``unilora`` gives factors and noise; ``pairs`` has (number, segment, s) of each segment of the weight.
    """

    def __init__(self, unilora, pairs):
        self.unilora, self.pairs = unilora, pairs
        self._call = _Call()

    def install(self, module, parameter) -> list:
        """Puts itself on the module; returns handles with ``remove``."""
        segments = [segment for _, segment, _ in self.pairs]
        self.whole_experts = all(segment.index is not None and segment.row is None for segment in segments)
        self.experts = torch.tensor([segment.index or 0 for segment in segments])
        self.show(module, parameter)
        # torch's attention bypasses our forward unless the module has a hook
        return [self, _ForwardWithin(module, self._within_call), module.register_forward_pre_hook(empty_hook)]

    def shown(self) -> torch.Tensor:
        """The value that the attribute gives now."""
        weight = self.module._parameters[self.parameter]
        if torch.compiler.is_compiling():
            factors = self.unilora.acting_factors()
            return weight if factors is None else self._adapted(weight, factors)
        call = self._call
        if call.depth:
            if call.weight is None:
                factors = self.unilora.acting_factors()
                call.weight = weight if factors is None else self._adapted(weight, factors)
            return call.weight
        factors = self.unilora.acting_factors() if self.unilora.is_called else None
        return weight if factors is None else self._adapted(weight, factors)

    def _within_call(self, forward, inputs, named):
        """Runs a call of the module, within which W + ΔW is made once."""
        call = self._call
        call.depth += 1
        try:
            return forward(*inputs, **named)
        finally:
            call.depth -= 1
            call.weight = None

    def _adapted(self, weight, factors):
        deltas = []
        for number, segment, s in self.pairs:
            of_segment = [factor.to(weight.device, torch.float32) for factor in factors.segments[number]]
            deltas.append(delta_weight(segment, of_segment, s, segment.part(weight).shape).to(weight.dtype))
        if len(deltas) == 1 and self.pairs[0][1].index is None and self.pairs[0][1].row is None:
            adapted = weight + deltas[0]
        elif self.whole_experts:
            # moved once: a copy in each step would wait for the GPU
            self.experts = self.experts.to(weight.device)
            adapted = weight.index_add(0, self.experts, torch.stack(deltas))
        else:
            adapted = weight.clone()
            for (_, segment, _), delta in zip(self.pairs, deltas):
                segment.part(adapted).add_(delta)
        with torch.no_grad():  # the noise is a constant, added in place to the weight that the module keeps anyway
            for (_, segment, _), draw in zip(self.pairs, self.unilora.draws(self.pairs)):
                part = segment.part(adapted)
                norms = matrix(segment, part).float().norm(dim=1)
                part.add_(segment.stored(draw(norms, segment.in_features), part.shape))
        return adapted


class _ForwardWithin(InPlaceOfForward):
    """Runs the module's own forward within ``around(forward, inputs, named)``."""

    def __init__(self, module, around):
        super().__init__(module)
        self.around = around

    def run(self, *inputs, **named):
        if torch.compiler.is_compiling():
            return self.inner(*inputs, **named)
        return self.around(self.inner, inputs, named)

    remove = InPlaceOfForward.close


class _Call(PerThread):
    """Of each thread: how many calls of the module are open, one within another, and the weight that their first read
    made."""

    depth = 0
    weight = None
