"""Flat-LoRA's noise (arXiv 2409.14396): in training, the adapted weights are W' + ε, W' = W + ΔW, with ε drawn anew at each step.

    ε_ij ~ N(0, σ_t²/n · ‖W'_i‖²)      row i of W' (out, n), its equation 7; σ_t = σ · ½(1 − cos(π t / T)) at step t of T

So training minimizes the expected loss around W', in all directions of the weight, not in those of A and B alone. ε is
computed where it is used and again in the backward pass, from a seed and the norms of the rows: no matrix of it is
kept. The gradient takes ε and the norms as constants.
"""

import hashlib
import math
from typing import NamedTuple

import torch
from torch import Tensor


class Draw(NamedTuple):
    """ε of one segment at one step: from ``seed``, with the standard deviation ``strength`` · ‖W'_i‖ / √n."""

    seed: int
    strength: float

    def __call__(self, norms: Tensor, columns: int) -> Tensor:
        """ε, (out, columns), for rows with these ``norms`` (out), in their dtype and on their device: the same at each
        call."""
        generator = torch.Generator(norms.device).manual_seed(self.seed)
        normal = torch.empty(len(norms), columns, dtype=norms.dtype, device=norms.device).normal_(generator=generator)
        return normal.mul_(norms[:, None] * (self.strength / math.sqrt(columns)))


class Noise:
    """The noise of one training run; σ is ``sigma``, which the paper sets to 0.05 for language models and 0.15 for CLIP.

        model.unilora.noise = Noise(sigma=0.05, seed=0)
        for step in range(steps):
            model.unilora.noise.at(step, steps)  # before the forward

    There is no noise before ``at`` is called, nor while the model is not ``training``. ε follows from seed, step and
    segment, so that a resumed run and every process of a distributed run see the same ε. A CPU and a GPU draw different
    numbers.
    """

    def __init__(self, sigma: float, seed: int):
        self.sigma, self.seed, self.step, self.strength = sigma, seed, 0, 0.0

    def at(self, step: int, steps: int) -> None:
        """Sets the step t = ``step`` of T = ``steps``: ``strength`` becomes σ_t, which is 0 at first."""
        self.step, self.strength = step, self.sigma * (1 - math.cos(math.pi * step / steps)) / 2

    def draw(self, number: int) -> Draw:
        """The ``Draw`` of the segment with this number at the current step."""
        text = f"{self.seed} {self.step} {number}"
        return Draw(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"), self.strength)
