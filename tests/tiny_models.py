"""Tiny models with an adapter, and how they are exported."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from unilora_spec import (
    Adapter,
    Base,
    LayerMap,
    Projection,
    Segment,
    contents_fingerprint,
    structure_fingerprint,
)

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
transformers = pytest.importorskip("transformers")
from export import export_onnx
from export.torch_base.inputs import real_inputs

ROOT = Path(__file__).parents[1]


def make_adapter(segments, d=20, kind="balanced", seed=42, model=None, labels=None, saved=(), name="base"):
    """An adapter of random θ, large enough to be seen; for ``model``, with a record of it and of ``saved`` parameters."""
    layer_map = LayerMap(segments, alpha=8)
    projection = Projection(kind=kind, D=layer_map.D, d=layer_map.D if kind == "identity" else d, seed=seed)
    random = np.random.default_rng(0)
    theta = random.normal(size=projection.d).astype(np.float32)
    base = None
    if model is not None:
        parameters = {n: p.detach().numpy() for n, p in model.named_parameters() if n in layer_map.by_weight()}
        base = Base(
            name=str(name),
            structure=structure_fingerprint({n: p.shape for n, p in parameters.items()}),
            contents=contents_fingerprint(parameters, parameters.get),
            architecture=type(model).__name__,
            labels=labels,
        )
        shapes = {n: p.shape for n, p in model.named_parameters()}
        saved = {n: random.normal(size=shapes[n]).astype(np.float32) for n in saved}
    return Adapter(projection, layer_map, theta, base, saved or {})


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.second = nn.Conv2d(8, 6, 3)

    def forward(self, image):
        return self.second(torch.relu(self.first(image)))


class Tiny(nn.Module):
    """One linear layer, for what needs no more: it exports in half a second."""

    def __init__(self, features=8, out=6):
        super().__init__()
        self.linear = nn.Linear(features, out)

    def forward(self, x):
        return self.linear(x)


def tiny(features=8, out=6, rank=2, **options):
    torch.manual_seed(0)
    return Tiny(features, out), make_adapter([Segment("linear.weight", out, features, rank)], **options)


def example(model):
    if isinstance(model, Convolutions):
        return [{"image": torch.randn(rows, 4, 7, 7)} for rows in (2, 3)]
    if isinstance(model, Tiny):
        return [{"x": torch.randn(rows, model.linear.in_features)} for rows in (2, 3)]
    return real_inputs(model)


def export_to(path, model, adapter, mode="reconstruct", **options):
    first, *more = example(model)
    return export_onnx(model, adapter, first, path, mode, more_inputs=more, **options)
