"""θ_D of the kinds that are programs (SPEC 11), by torch: its autograd gives their Jacobian."""

import math

import torch
from torch import Tensor

from unilora_spec.program import Program, Value, run, under


class Frozen:
    """P as its frozen numbers: float32, and int64 of an index."""

    name = "frozen"

    def __init__(self, projection: Program, device):
        self.projection, self.device = projection, torch.device(device)
        self.pieces = list(projection.pieces(0, projection.D))
        self.arrays: dict[Value, Tensor] = {}
        for each in (each for _, value in self.pieces for each in under(value)):
            if each.op == "frozen" and each not in self.arrays:
                self.arrays[each] = torch.from_numpy(each.array).to(self.device)

    def __reduce__(self):
        return Frozen, (self.projection, self.device)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def expand(self, theta: Tensor, dtype=torch.float32) -> Tensor:
        """θ_D as ``dtype``[D] of θ, float[d]: in float32, and rounded once where ``dtype`` is of less precision."""
        theta = theta.float()

        def leaf(value):
            if value.op == "frozen":
                return self.arrays[value]
            return theta[value.how : value.how + math.prod(value.shape)].view(value.shape)

        # Each piece is a program of its own, so that what is made on its way goes when it ends.
        return torch.cat([run(value, leaf)[value] for _, value in self.pieces]).to(dtype)
