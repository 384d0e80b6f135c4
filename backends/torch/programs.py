"""θ_D of the kinds that are programs (SPEC 11), by torch: its autograd gives their Jacobian."""

import math

import torch
from torch import Tensor

from unilora_spec.program import OPERATIONS, Program, ordered


class Frozen:
    """P as its frozen numbers: float32, and int64 of an index."""

    name = "frozen"

    def __init__(self, projection: Program, device):
        self.projection, self.device = projection, torch.device(device)
        values = [value for _, value in projection.pieces(0, projection.D)]
        steps = ordered(values)
        number = {value: i for i, value in enumerate(steps)}
        # By numbers alone, which is what a compiler can follow.
        self.steps = [(step.op, step.how, step.shape, [number[each] for each in step.inputs]) for step in steps]
        self.arrays = {number[step]: torch.from_numpy(step.array).to(device) for step in steps if step.op == "frozen"}
        self.pieces = [number[value] for value in values]
        self.last = {i: at for at, (*_, inputs) in enumerate(self.steps) for i in inputs}
        self.last |= dict.fromkeys(self.pieces)

    def __reduce__(self):
        return Frozen, (self.projection, self.device)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def expand(self, theta: Tensor, dtype=torch.float32) -> Tensor:
        """θ_D as ``dtype``[D] of θ, float[d]: in float32, and rounded once where ``dtype`` is of less precision."""
        theta, made = theta.float(), []
        for number, (op, how, shape, inputs) in enumerate(self.steps):
            if op == "theta":
                made.append(theta[how : how + math.prod(shape)].view(shape))
            elif op == "frozen":
                made.append(self.arrays[number])
            else:
                made.append(OPERATIONS[op](how, *[made[i] for i in inputs]))
            for i in inputs:
                if self.last.get(i) == number:
                    made[i] = None  # a transform of fastfood has dozens of steps, each of the size of θ_D
        return torch.cat([made[i] for i in self.pieces]).to(dtype)
