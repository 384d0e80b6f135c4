"""Adapters of a small model, as files."""

import copy

import pytest
import torch
from attached_models import bert
from torch import nn

from backends.torch import attach

pytest.importorskip("transformers")

QV = ("query", "value")


@torch.no_grad()
def random(model, seed):
    """Other values for all that is trained."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def tuned():
    """A base with a head, and the same with an adapter whose vector and head have been trained."""
    base = bert()
    return base, random(attach(copy.deepcopy(base), d=40, targets=QV, train_in_full=["classifier"]), 1)


def files(model, folder, seeds, **arguments):
    """Adapters of a copy of a model as files, by name, with what they give."""
    found = {}
    for name, seed in seeds.items():
        tuned = attach(copy.deepcopy(model), **({"d": 40, "targets": QV} | arguments))
        found[name] = folder / f"{name}.unilora"
        random(tuned, seed).save_adapter(found[name])
    return found


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 5)).eval()
