"""W + ΔW for whoever reads the weight: of modules that use it in ways of their own, and of those whose weight others read.

While the model or a part of it is called, the attribute that holds W gives W + ΔW; at any other time it is the parameter itself, so that
what loads, counts or initializes parameters finds what it looks for.
"""

import torch

from ..calls.in_place import InPlaceOfForward
from ..calls.threads import PerThread
from .low_rank import delta_weight, matrix, unchanged
from .shown import Shown


class DeltaWeight(Shown):
    """Shows W + ΔW as the attribute that holds W.

    ``unilora`` gives factors and noise; ``pairs`` are (number, segment, s) of the segments of the weight.
    """

    def __init__(self, unilora, pairs):
        self.unilora, self.pairs = unilora, pairs
        self._made = _Made()

    def install(self, module, parameter) -> list:
        """Puts itself on the module; returns handles with ``remove``."""
        segments = [segment for _, segment, _ in self.pairs]
        self.whole_experts = all(segment.index is not None and segment.row is None for segment in segments)
        self.experts = torch.tensor([segment.index or 0 for segment in segments])
        self.show(module, parameter)
        # torch's attention would go past a forward of ours if it saw no hook
        return [self, _Reading(module, self._made_once), module.register_forward_pre_hook(unchanged)]

    def shown(self) -> torch.Tensor:
        """What the attribute gives now."""
        weight = self.module._parameters[self.parameter]
        if torch.compiler.is_compiling():
            factors = self.unilora.factors_of_now()
            return weight if factors is None else self._adapted(weight, factors)
        made = self._made
        if made.calls:
            if made.weight is None:
                factors = self.unilora.factors_of_now()
                made.weight = weight if factors is None else self._adapted(weight, factors)
            return made.weight
        factors = self.unilora.factors_of_now() if self.unilora.is_called else None
        return weight if factors is None else self._adapted(weight, factors)

    def _made_once(self, forward, inputs, named):
        """Within one call of the module, W + ΔW is made once."""
        made = self._made
        made.calls += 1
        try:
            return forward(*inputs, **named)
        finally:
            made.calls -= 1
            made.weight = None

    def _adapted(self, weight, factors):
        deltas = []
        for number, segment, s in self.pairs:
            of_segment = [factor.to(weight.device, torch.float32) for factor in factors.segments[number]]
            deltas.append(delta_weight(segment, of_segment, s, segment.part(weight).shape).to(weight.dtype))
        if len(deltas) == 1 and self.pairs[0][1].index is None and self.pairs[0][1].row is None:
            adapted = weight + deltas[0]
        elif self.whole_experts:
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
                norms = matrix(segment, part).float().norm(dim=1)
                part.add_(segment.stored(draw(norms, segment.in_features), part.shape))
        return adapted


class _Reading(InPlaceOfForward):
    def __init__(self, module, around):
        super().__init__(module)
        self.around = around

    def run(self, *inputs, **named):
        if torch.compiler.is_compiling():
            return self.inner(*inputs, **named)
        return self.around(self.inner, inputs, named)

    remove = InPlaceOfForward.close


class _Made(PerThread):
    """Of a thread: how many calls of the module are open, and what the first reading in them made."""

    calls = 0
    weight = None
