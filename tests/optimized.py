"""A small model whose factors an optimizer moves, in float64."""

import copy

import torch
from torch import nn

from backends.torch import attach

RANK = 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def adapted(seed=0, zero_B=False, kind="identity", d=None):
    """A model with two segments of one shape and one of another, s = 2, and θ in float64: A and B of it are of size one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 6), nn.Linear(7, 6), nn.Linear(6, 9))
    attach(model, RANK, d, targets=["0", "1", "2"], alpha=2 * RANK, kind=kind).double()
    theta = model.unilora.theta.data.normal_(generator=generator(seed))
    for segment, start in model.unilora.layer_map.placed() if zero_B else ():
        segment.factors(theta[start : start + segment.size])[1].zero_()
    return model.unilora


def factors(unilora, vector):
    placed = unilora.layer_map.placed()
    return [segment.factors(vector[start : start + segment.size]) for segment, start in placed]


def deltas(unilora, P=None):
    return [2 * B @ A for A, B in factors(unilora, unilora.theta if P is None else P @ unilora.theta)]


@torch.no_grad()
def transformed(unilora):
    """The same ΔW of other factors, (RA, BR⁻¹): a copy. R has a condition number of some ten."""
    other = copy.deepcopy(unilora.model).unilora
    random = generator(1)
    for A, B in factors(other, other.theta.data):
        R = torch.eye(RANK) * 2 + torch.randn(RANK, RANK, generator=random)
        A.copy_(R.double() @ A)
        B.copy_(B @ torch.linalg.inv(R.double()))
    return other


def trained(unilora, make, steps=8, through=None):
    """ΔW after each step on ½‖X(ΔW − Z)‖², X and Z random, new at each step, as batches are."""
    optimizer, random, seen = make(unilora), generator(2), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = 0
        for delta in deltas(unilora, through):
            X, Z = (torch.randn(delta.shape, generator=random, dtype=torch.float64) for _ in "XZ")
            loss += 0.5 * (X @ (delta - Z).T).square().sum()
        loss.backward()
        gradient = unilora.theta.grad.clone()
        optimizer.step()
        assert torch.equal(unilora.theta.grad, gradient), "what was put in its place is gone again"
        seen.append([delta.detach() for delta in deltas(unilora, through)])
    return seen


def apart(one, other):
    """How far two ΔW are apart, as a share of the largest entry."""
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(one, other))


class Called(torch.optim.Optimizer):
    """A function as an optimizer's step."""

    def __init__(self, unilora, step):
        super().__init__([unilora.theta], {})
        self.step = torch.no_grad()(step)
