"""ONNX files written node by node."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")
from adapters import adapter_of
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from unilora_spec import (
    Segment,
)


def save(path, made, inputs, outputs, arrays=None, opset=18):
    """A file of nodes, with inputs and outputs {name: (type, shape)}."""
    values = [[helper.make_tensor_value_info(n, *form) for n, form in each.items()] for each in (inputs, outputs)]
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in (arrays or {}).items()]
    graph = helper.make_graph(made, "graph", *values, constants)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def floats(*shape):
    return TensorProto.FLOAT, shape


def normal(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


CLOSE = 1e-5  # of entries up to 10: sums of up to 64 float32 products; rounding to 8 bits moves them by 1e-2


def fused(path, half=False):
    """Two layers of fused attention and their output projections, which alone keep their modules' names; its adapter of q and v."""
    model, made, arrays, last = nn.Module(), [], {}, "x"
    model.layer = nn.ModuleList(nn.Module() for _ in range(2))
    segments = []
    for number in range(2):
        attention = model.layer[number].attention = nn.Module()
        attention.self = nn.Module()
        for name in ("query", "key", "value"):
            attention.self.add_module(name, nn.Linear(8, 8, bias=False))
        segments += [Segment(f"layer.{number}.attention.self.{name}.weight", 8, 8, 2) for name in ("query", "value")]
        W = np.concatenate([each.weight.detach().numpy().T for each in attention.self.children()], 1)
        # In the file the layers come the other way round than their numbers say: order tells nothing.
        stored, scope = f"Attention_{1 - number}_qkv_weight", f"/layer.{number}/attention/output/dense/MatMul"
        arrays |= {stored: W, f"b{number}": normal(24), f"dense{number}": normal(8, 8)}
        options = {"domain": "com.microsoft", "num_heads": 2, "name": f"Attention_{1 - number}"}
        made.append(helper.make_node("Attention", [last, stored, f"b{number}"], [f"a{number}"], **options))
        made.append(helper.make_node("MatMul", [f"a{number}", f"dense{number}"], [f"d{number}"], name=scope))
        last = f"d{number}"
    made[-1].output[0] = "y"
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    if half:
        arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
    save(path, made, {"x": (kind, (1, "n", 8))}, {"y": (kind, (1, "n", 8))}, arrays)
    return path, adapter_of(model, segments, "fused", d=40)


MASKS = {
    "none": None, "length": np.array([5, 3], np.int32), "keys": np.array([[1] * 5, [1, 1, 1, 0, 0]], np.int32),
    "pairs": np.tril(np.ones((2, 5, 5), np.int32)),
}  # fmt: skip


def attention(path, mask, past, **options):
    """One Attention over (2, 5, 8) with two heads, a mask and a cache of three tokens; a file, its adapter of v, and a feed."""
    model = nn.Module()
    model.attn = nn.Module()
    for name in ("q", "k", "v"):
        model.attn.add_module(name, nn.Linear(8, 8, bias=False))
    adapter = adapter_of(model, [Segment("attn.v.weight", 8, 8, 2)], "attention", d=20)
    arrays = {
        "W": np.concatenate([each.weight.detach().numpy().T for each in model.attn.children()], 1),
        "b": normal(24),
    }
    feed, taken, gives, outputs = {"x": normal(2, 5, 8)}, ["x", "W", "b", ""], ["y"], {"y": floats(2, 5, 8)}
    if MASKS[mask] is not None:
        feed["m"], taken[3] = MASKS[mask], "m"
    if past:
        feed["past"], outputs["present"] = normal(2, 2, 2, 3, 4), floats(2, 2, 2, 8, 4)
        taken, gives = [*taken, "past"], [*gives, "present"]
        if mask == "length":
            feed["m"] = feed["m"] + 3
        elif mask != "none":
            feed["m"] = np.concatenate([np.ones((*feed["m"].shape[:-1], 3), np.int32), feed["m"]], -1)
    inputs = {
        name: (TensorProto.INT32 if name == "m" else TensorProto.FLOAT, value.shape) for name, value in feed.items()
    }
    made = helper.make_node("Attention", taken, gives, name="fused", domain="com.microsoft", num_heads=2, **options)
    return save(path, [made], inputs, outputs, arrays), adapter, feed
