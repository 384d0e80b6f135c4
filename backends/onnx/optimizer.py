"""AdamW in NumPy, the schedules of its learning rate, and the clipping of gradients, as PyTorch and transformers have
them."""

import math
from collections.abc import Mapping

import numpy as np

from ..runs.state import State

BETAS, EPSILON = (0.9, 0.999), 1e-8


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), in the arithmetic of ``torch.optim.AdamW``: float32.

    ``state`` holds values and moments, which are changed in place; ``rates`` has (learning rate, weight decay) by name.
    """

    def __init__(self, state: State, rates: Mapping[str, tuple[float, float]]):
        self.state, self.rates = state, rates

    def step(self, gradients: Mapping[str, np.ndarray], share: float) -> None:
        """Takes one step with float32 ``gradients``, by name, each of its value's shape; ``share`` multiplies the
        learning rates."""
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
            with np.errstate(over="ignore", invalid="ignore"):  # the next loss is then no number, which ends the run
                size = np.sqrt(squares) / np.float32(math.sqrt(second)) + np.float32(EPSILON)
                value -= np.float32(rate * share / first) * (mean / size)


def clipped(gradients: Mapping[str, np.ndarray], most: float) -> dict[str, np.ndarray]:
    """``gradients``, scaled down where the norm of all together is above ``most``; 0 sets no bound."""
    if not most:
        return dict(gradients)
    norm = math.sqrt(sum(float(np.sum(np.square(each, dtype=np.float64))) for each in gradients.values()))
    scale = np.float32(min(1.0, most / (norm + 1e-6)))
    return {name: gradient * scale for name, gradient in gradients.items()}


def share_of_rate(schedule: str, step: int, steps: int, warmup: float) -> float:
    """The factor of the learning rates in ``step``, counted from 0, of ``steps``, by one of transformers' schedules.

    ``warmup`` is the share of the steps in which the learning rates rise.

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
