"""θ_D of the kinds that are programs (SPEC 11), by torch: its autograd gives their Jacobian."""

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from unilora_spec.program import OPERATIONS, Program, ordered


class Frozen:
    """P as the frozen numbers of its program: arrays of float32, and indices of int64.

    Training expands all of θ_D; with ``start`` and ``stop``, ``expand`` gives the pieces that
    ``projection.pieces(start, stop)`` names.
    """

    name, keeps_nothing = "frozen", False

    def __init__(self, projection: Program, device, start: int = 0, stop: int | None = None):
        self.projection, self.device = projection, torch.device(device)
        self.arrays, self.pieces, cuts = {}, [], {0, projection.d}
        for _, value in projection.pieces(start, projection.D if stop is None else stop):
            steps = ordered([value])
            number = {step: i for i, step in enumerate(steps)}
            for step in steps:
                if step.op == "theta":
                    cuts |= {step.how, step.how + math.prod(step.shape)}
                if step.op == "frozen" and step not in self.arrays:
                    self.arrays[step] = _tensor(step.array).to(device)
            # Steps refer to their inputs by number, which a compiler can follow.
            held = [self.arrays.get(step) for step in steps]
            self.pieces.append([(s.op, s.how, s.shape, [number[x] for x in s.inputs], a) for s, a in zip(steps, held)])
        self.cuts = sorted(cuts)

    def __reduce__(self):
        return Frozen, (self.projection, self.device)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def expand(self, theta: Tensor, dtype=torch.float32) -> Tensor:
        """θ_D as ``dtype``[D] of θ, float[d]: in float32, and rounded once where ``dtype`` is of less precision."""
        # θ is split once, so that the gradients of its ranges are joined once, and not each added to a gradient of all
        # of θ.
        lengths = [stop - start for start, stop in itertools.pairwise(self.cuts)]
        ranges = dict(zip(self.cuts, theta.float().split(lengths)))
        # Each piece is a program of its own, so that its intermediate results are freed when it ends.
        return torch.cat([_result(piece, ranges) for piece in self.pieces]).to(dtype)


def _result(piece, ranges):
    made = []
    for op, how, shape, inputs, array in piece:
        if op == "theta":
            made.append(ranges[how].view(shape))
        else:
            made.append(array if op == "frozen" else OPERATIONS[op](how, *[made[i] for i in inputs]))
    return made[-1]


def _tensor(array) -> Tensor:
    return torch.from_numpy(np.require(array, requirements="W"))  # torch has no tensor that cannot be written to
