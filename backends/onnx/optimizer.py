"""AdamW over some thousand numbers, its learning rates, and the bound of the gradient, as PyTorch and transformers have them."""

import math
from collections.abc import Mapping

import numpy as np

from ..runs.state import State

BETAS, EPSILON = (0.9, 0.999), 1e-8


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), in the arithmetic of ``torch.optim.AdamW``: float32.

    ``state`` holds values and moments, which are changed in place; ``rates`` the learning rate and the weight decay of each name.
    """

    def __init__(self, state: State, rates: Mapping[str, tuple[float, float]]):
        self.state, self.rates = state, rates

    def step(self, gradients: Mapping[str, np.ndarray], share: float) -> None:
        """One step against float32 ``gradients``, by name, each of its value's shape; ``share`` multiplies the learning rates."""
        state = self.state
        state.step += 1
        first, second = (1 - beta**state.step for beta in BETAS)
        for name, gradient in gradients.items():
            rate, decay = self.rates[name]
            value, mean, squares = state.values[name], state.exp_avg[name], state.exp_avg_sq[name]
            if decay:
                value *= np.float32(1 - rate * share * decay)
            mean += np.float32(1 - BETAS[0]) * (gradient - mean)
            squares *= np.float32(BETAS[1])
            squares += np.float32(1 - BETAS[1]) * gradient * gradient
            with np.errstate(over="ignore", invalid="ignore"):  # the next loss tells it
                size = np.sqrt(squares) / np.float32(math.sqrt(second)) + np.float32(EPSILON)
                value -= np.float32(rate * share / first) * (mean / size)


def clipped(gradients: Mapping[str, np.ndarray], most: float) -> dict[str, np.ndarray]:
    """``gradients`` scaled down where their norm, of all together, is above ``most``; 0 is no bound."""
    if not most:
        return dict(gradients)
    norm = math.sqrt(sum(float(np.sum(np.square(each, dtype=np.float64))) for each in gradients.values()))
    scale = np.float32(min(1.0, most / (norm + 1e-6)))
    return {name: gradient * scale for name, gradient in gradients.items()}


def share_of_rate(schedule: str, step: int, steps: int, warmup: float) -> float:
    """By what the learning rates are multiplied in a step, counted from 0, of ``steps``: one of transformers' schedules.

    ``warmup`` is the share of the steps in which they rise.

    >>> [round(share_of_rate("linear", step, 10, 0.2), 3) for step in range(10)]
    [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    """
    rising = math.ceil(steps * warmup)
    if schedule == "constant":
        return 1.0
    if step < rising:
        return step / rising
    if schedule == "constant_with_warmup":
        return 1.0
    if schedule == "inverse_sqrt":
        scale = rising or 10_000
        return 1 / math.sqrt((step + scale - rising) / scale)
    gone = (step - rising) / max(1, steps - rising)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * gone)) if schedule == "cosine" else 1 - gone)
