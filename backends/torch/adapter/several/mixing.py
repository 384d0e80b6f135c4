"""Weighted sums of adapters, which are exact where ΔW is linear in θ."""

import torch

from unilora_spec import LayerMapError, Projection
from unilora_spec.gather import Gather
from unilora_spec.program import ordered


def check_linear(projection: Projection, layer_map) -> None:
    """Raises ``LayerMapError`` unless the ΔW of every segment is linear in θ."""
    for segment in layer_map.segments:
        if segment.rank:
            raise LayerMapError(
                f"{segment.name} has A and B, and their product is not linear in theta; mix adapters whose ranks are 0"
            )
    if not isinstance(projection, Gather) and any(_degree(v) != 1 for _, v in projection.pieces(0, projection.D)):
        raise LayerMapError(
            f"theta_D of kind {projection.kind} is not linear in theta; mix adapters of a kind where it is"
        )


def weighted(base, weights, values):
    """base + Σ w·(value − base) of tensors of one shape, computed in float64 and rounded to the dtype of ``base``."""
    start = base.detach().double()
    return sum((w * (value.double() - start) for w, value in zip(weights, values, strict=True)), start).to(base.dtype)


def weighted_theta(weights, thetas) -> torch.Tensor:
    """Σ w·θ in float64, rounded once to float32[d]."""
    return sum(w * theta.double() for w, theta in zip(weights, thetas, strict=True)).float()


def _degree(value):
    """0 where a value does not depend on θ, 1 where it is linear in θ, None where it may be anything else."""
    of = {}
    for each in ordered([value]):
        degrees = [of[inner] for inner in each.inputs]
        match each.op:
            case "theta":
                of[each] = 1
            case "frozen":
                of[each] = 0
            case "part" | "reshape":
                of[each] = degrees[0]
            case "take" if degrees[1] == 0:
                of[each] = degrees[0]
            case "add" | "subtract" if degrees[0] == degrees[1]:
                of[each] = degrees[0]
            case "multiply" | "matmul" if sorted(degrees, key=str) in ([0, 0], [0, 1]):
                of[each] = max(degrees)
            case _:
                of[each] = None
    return of[value]
