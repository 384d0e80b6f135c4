"""θ_D of the kinds that are programs (SPEC 11), by torch: its autograd gives their Jacobian."""

import math

import torch
from torch import Tensor

from unilora_spec.program import Program, Value, run


class Frozen:
    """P as its frozen numbers: float32, and int64 of an index."""

    name = "frozen"

    def __init__(self, projection: Program, device):
        self.projection, self.device = projection, torch.device(device)
        self.pieces = list(projection.pieces(0, projection.D))
        self.arrays: dict[Value, Tensor] = {}
        for _, value in self.pieces:
            self._hold(value)

    def _hold(self, value):
        if value.op == "frozen" and value not in self.arrays:
            self.arrays[value] = torch.from_numpy(value.array).to(self.device)
        for each in value.inputs:
            self._hold(each)

    def __reduce__(self):
        return Frozen, (self.projection, self.device)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def expand(self, theta: Tensor, dtype=torch.float32) -> Tensor:
        """θ_D as ``dtype``[D] of θ, float[d]: in float32, and rounded once where ``dtype`` is of less precision."""
        theta, made = theta.float(), dict(self.arrays)

        def leaf(value):
            return theta[value.how : value.how + math.prod(value.shape)].view(value.shape)

        return torch.cat([run(value, leaf, made) for _, value in self.pieces]).to(dtype)
