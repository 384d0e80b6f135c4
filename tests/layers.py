"""A base of a few nn.Linear layers, and tokens for it."""

import torch
from torch import nn


def layers(width=24, depth=3):
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(width, width) for _ in range(depth)])


def batch(tokens=50, width=24):
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(1))
