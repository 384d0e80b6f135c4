"""Trained models and their states."""

import pytest
import torch
from attached_models import bert
from torch import nn

from backends.torch import attach


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))


def adapted(model=None, **options):
    return attach(model or net(), **{"rank": 2, "d": 10, "targets": ["0"], "bound": 1.0} | options)


X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def base(tmp_path):
    """The folder of a base without a head."""
    bert().bert.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")
