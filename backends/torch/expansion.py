"""θ_D = Pθ as one autograd function: forward expands, backward applies Pᵀ (SPEC 6.2, 6.3)."""

import torch

from unilora_spec.projection import Gather


def index_of(projection: Gather, start: int = 0, stop: int | None = None) -> torch.Tensor:
    """The columns of the rows start … stop − 1 as the backend holds them: int32, 4 bytes an entry, as d < 2^31."""
    return torch.tensor(projection.index(start, stop), dtype=torch.int32)


class Expand(torch.autograd.Function):
    """θ (float[d]) → θ_D (float32[D]); ``index`` is int32[D], ``scale`` float32[d].

    Scaling before gathering rounds each entry once, as the specification does, so the bits are the specification's.
    """

    @staticmethod
    def forward(theta, index, scale):
        return (theta.float() * scale).index_select(0, index)

    @staticmethod
    def setup_context(ctx, inputs, output):
        # Kept as attributes, not by save_for_backward: a graph that is used for two backward passes stays usable,
        # and gradient checkpointing, which counts saved tensors, sees none.
        theta, ctx.index, ctx.scale = inputs
        ctx.dtype = theta.dtype

    @staticmethod
    def backward(ctx, g):
        total = torch.zeros_like(ctx.scale).index_add_(0, ctx.index, g.float())
        return (total * ctx.scale).to(ctx.dtype), None, None
