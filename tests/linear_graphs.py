"""Graphs of one linear layer, and answers beside PyTorch's."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from unilora_spec import (
    Segment,
)

ir = pytest.importorskip("onnx_ir")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")
from adapters import adapter_of
from onnx import TensorProto, helper
from onnx_bases import LARGEST, adapter_for, pytorch, relative, write

from export.onnx import cases
from export.onnx_base.feeds import feeds_for
from export.onnx_base.from_file import export_onnx_file, read
from export.parity import compare as parity


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """bases(build, exporter, opset): a base's file, each written once."""

    @functools.cache
    def get(build, exporter="torchscript", opset=17):
        return write(build()[0], tmp_path_factory.mktemp("base") / f"{build.__name__}.onnx", exporter, opset)

    return get


def answers(path, feeds, name="logits"):
    session = parity.session(path)
    return [parity.run(session, feed, [name])[name] for feed in feeds]


def against_pytorch(base, build, mode, path, tolerance=LARGEST, adapters=None, **options):
    """The report of an export whose answers are PyTorch's, with an adapter for each row of a bank."""
    adapters = adapters or [adapter_for(build, seed) for seed in range(2 if mode == "bank" else 1)]
    report = export_onnx_file(base, adapters, path, mode, **options)
    feeds = feeds_for(read(base))
    expected = [[{"logits": each} for each in pytorch(build, adapter, feeds)] for adapter in adapters]
    fed = cases(mode, adapters, feeds, expected)
    got = answers(path, [feed for feed, _ in fed])
    assert relative(got, [wanted["logits"] for _, wanted in fed]) <= tolerance
    return report


class Linear(nn.Module):
    def __init__(self, features=8, out=6, name="linear"):
        super().__init__()
        torch.manual_seed(0)
        setattr(self, name, nn.Linear(features, out))


def one_layer(saved=(), d=20):
    model = Linear()
    return model, adapter_of(model, [Segment("linear.weight", 6, 8, 2)], "base", d=d, saved=saved)


def graph_of(nodes, arrays, inputs=None, outputs=None, opset=17, folder=None, imports=()):
    inputs = inputs or {"x": (TensorProto.FLOAT, ["batch", 8])}
    outputs = outputs or {"y": (TensorProto.FLOAT, ["batch", 6])}
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, *what) for name, what in inputs.items()],
        [helper.make_tensor_value_info(name, *what) for name, what in outputs.items()],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), *imports], ir_version=8)
    path = folder / "base.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def weight(model, name="linear.weight"):
    return model.get_parameter(name).detach().numpy()


def linear(folder, opset=17, **options):
    """x · Wᵀ with W as (in, out) under its own name."""
    model, adapter = one_layer()
    path = graph_of([helper.make_node("MatMul", ["x", "linear.weight"], ["y"])], {"linear.weight": weight(model).T},
                    opset=opset, folder=folder, **options)  # fmt: skip
    return adapter, path


def delta_of(adapter):
    ((_, delta),) = adapter.delta_weights()
    return delta


X = np.random.default_rng(5).normal(size=(3, 8)).astype(np.float32)
