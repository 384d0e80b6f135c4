"""The base class of optimizers that step the pairs A and B, and the pairs in a vector laid out as θ_D."""

import itertools
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from unilora_spec import KindError, LayerMap, WorkFailed

# Singular values of A or B below √1e-7 of the largest count as zero: along them a step would be thousands of times longer
# than along the others, and what float32 holds of them is partly rounding.
NEGLIGIBLE = 1e-7


class Pairs:
    """The A (rank, in) and B (out, rank) in vectors that are laid out as θ_D is, in batches of segments of one shape.

    Raises ``KindError`` for a segment of rank 0.
    """

    def __init__(self, layer_map: LayerMap):
        self.segments, batches = layer_map.segments, defaultdict(list)
        for number, segment in enumerate(self.segments):
            if segment.rank == 0:
                raise KindError(f"{segment.name} has rank 0, and so no A and B to step; take AdamW")
            batches[segment.out_features, segment.in_features, segment.rank].append(number)
        self.batches = list(batches.values())
        self._scales = [float(layer_map.factor_scale(segment)) for segment in self.segments]

    def scales(self, device) -> list[Tensor]:
        """s of ΔW = s·B·A for each batch: float64[n, 1, 1]."""
        s = torch.tensor(self._scales, dtype=torch.float64, device=device)
        return [s[numbers][:, None, None] for numbers in self.batches]

    def split(self, vector: Tensor) -> list[tuple[Tensor, Tensor]]:
        """A (n, rank, in) and B (n, out, rank) of each batch, copies in float64: Gram matrices square a condition number."""
        parts = vector.double().split([segment.size for segment in self.segments])
        pairs = [[self.segments[i].factors(parts[i]) for i in numbers] for numbers in self.batches]
        return [(torch.stack([A for A, _ in batch]), torch.stack([B for _, B in batch])) for batch in pairs]

    def join(self, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The vector, float64[D], that ``split`` makes ``pairs`` of."""
        parts = [None] * len(self.segments)
        for numbers, (A, B) in zip(self.batches, pairs):
            for i, *pair in zip(numbers, A.flatten(1), B.flatten(1)):
                parts[i] = pair
        return torch.cat(list(itertools.chain(*parts)))


class PairsOptimizer(torch.optim.AdamW):
    """AdamW for all parameters except for θ, which a subclass steps. ``others`` are further groups of parameters as
    AdamW takes them, such as a new head's; ``own`` are the options of θ's group, and ``defaults`` those of all groups.

    All state is in ``state_dict``, and the same gradients give the same bits. Raises ``KindError`` for a sharded θ
    (FSDP); ``step`` raises ``WorkFailed`` where training has diverged.
    """

    def __init__(self, unilora, others, own, **defaults):
        self.unilora, self.theta = unilora, unilora.theta
        if unilora.projection.links > 1:
            raise KindError(f"{type(self).__name__} steps all of theta, and of a chain one link is trained; take AdamW")
        if unilora.in_parts:
            raise KindError(f"{type(self).__name__} steps whole matrices, and theta is in parts; take AdamW")
        self.pairs = Pairs(unilora.layer_map)
        super().__init__([{"params": [self.theta], **own}, *others], **defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradient = self.theta.grad
        try:
            if gradient is not None:
                self.theta.grad = self.step_theta(gradient, self.param_groups[0], self.state[self.theta])
            super().step()  # skips a parameter without a gradient
        except torch.linalg.LinAlgError as error:
            raise WorkFailed("theta or its gradient is not finite any more; give a lower learning rate") from error
        finally:
            self.theta.grad = gradient
        return loss

    def step_theta(self, gradient: Tensor, group: dict, state: dict) -> Tensor | None:
        """Takes a step of θ, or returns the gradient by which AdamW is to take it."""
        raise NotImplementedError


def eigen(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(eigenvalues (n, r), eigenvectors (n, r, r), which eigenvalues are not negligible) of symmetric matrices."""
    values, vectors = torch.linalg.eigh(gram)
    return values, vectors, values > NEGLIGIBLE * values[:, -1:]
