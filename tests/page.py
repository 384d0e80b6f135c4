"""The page's JavaScript, asked in node."""

import numpy as np
import onnx

from unilora_spec import Adapter, Base, LayerMap, Projection, Segment


def adapter(d=4, seed=3, contents="0" * 32, saved=True, labels=None):
    layer_map = LayerMap([Segment("layer.weight", 2, 6, 1)], alpha=1)
    theta = np.linspace(-1, 1, d).astype(np.float32)
    base = Base("base", "1" * 32, contents, "Net", labels, "single_label_classification" if labels else None)
    head = {"head.weight": np.arange(6, dtype=np.float32).reshape(2, 3) / 7} if saved else {}
    return Adapter(Projection(D=layer_map.D, d=d, seed=seed), layer_map, theta, base, head)


def graph_of(metadata=None):
    """An ONNX file that says what a step graph says. Nothing runs it."""
    empty = onnx.helper.make_graph([], "step", [], [])
    model = onnx.helper.make_model(empty)
    one = adapter(saved=False)
    told = {
        "unilora.mode": "step",
        "unilora.task": "classification",
        "unilora.projection": "balanced",
        "unilora.seed": str(one.projection.seed),
        "unilora.d": "4",
        "unilora.D": "8",
        "unilora.base_contents": one.base.contents,
    }
    onnx.helper.set_model_props(model, told | (metadata or {}))
    return model.SerializeToString()
