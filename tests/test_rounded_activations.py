"""Activations that are rounded on either side of a product."""

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")
from adapters import adapter_of
from onnx import helper
from onnxruntime.quantization import quantize_dynamic
from torch import nn
from written_nodes import CLOSE, floats, normal, save

from export.onnx_base.from_file import export_onnx_file
from export.parity import compare as parity
from export.parity import unrounded
from unilora_spec import (
    Segment,
)


def without_rounding(base, feed):
    """The answers of a file quantized dynamically, its activations not rounded; and those of the file itself."""
    target = base.with_name("quantized.onnx")
    quantize_dynamic(
        base, target, extra_options={"MatMulConstBOnly": False}, op_types_to_quantize=["MatMul", "Conv", "Attention"]
    )
    kinds = {node.op_type for node in onnx.load(target).graph.node}
    (got,) = unrounded.session(ir.load(target)).run(None, feed)
    (want,) = parity.session(base).run(None, feed)
    return got, want, kinds


def test_a_product_of_two_activations_is_compared_without_rounding(tmp_path):
    made = [helper.make_node("MatMul", ["x", "z"], ["y"], name="product")]
    base = save(tmp_path / "base.onnx", made, {"x": floats(4, 8), "z": floats(8, 4)}, {"y": floats(4, 4)})
    got, want, kinds = without_rounding(base, {"x": normal(4, 8), "z": normal(8, 4)})
    assert "MatMulInteger" in kinds and np.abs(got - want).max() < CLOSE


def whole(*shape):
    """Numbers that 8 bits hold."""
    array = np.random.default_rng(0).integers(-127, 128, shape)
    array.flat[0] = 127
    return (array / 127).astype(np.float32)


def test_convolutions_and_fused_attention_are_compared_without_rounding(tmp_path):
    made = [helper.make_node("Conv", ["x", "W"], ["y"], name="conv", pads=[1, 1], kernel_shape=[3])]
    base = save(tmp_path / "conv.onnx", made, {"x": floats(1, 2, 9)}, {"y": floats(1, 3, 9)}, {"W": whole(3, 2, 3)})
    got, want, kinds = without_rounding(base, {"x": normal(1, 2, 9)})
    assert "ConvInteger" in kinds and np.abs(got - want).max() < CLOSE

    made = [helper.make_node("Attention", ["x", "W", "b"], ["y"], name="fused", domain="com.microsoft", num_heads=2)]
    arrays = {"W": whole(8, 24), "b": normal(24)}
    base = save(tmp_path / "attention.onnx", made, {"x": floats(1, 5, 8)}, {"y": floats(1, 5, 8)}, arrays)
    got, want, kinds = without_rounding(base, {"x": normal(1, 5, 8)})
    assert "QAttention" in kinds and np.abs(got - want).max() < CLOSE


@pytest.mark.parametrize("mode", ["reconstruct", "factored"])
def test_many_weights_over_a_quantized_base(tmp_path, mode):
    """The sizes of 40 factors are read while ONNX Runtime infers shapes, so they have to be in the graph that is compared."""
    names = {f"{number}.weight": normal(8, 8) for number in range(20)}
    model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in names))
    with torch.no_grad():
        for each, W in zip(model, names.values()):
            each.weight.copy_(torch.from_numpy(W / 4))
    adapter = adapter_of(model, [Segment(name, 8, 8, 2) for name in names], "many", d=40)
    made = [
        helper.make_node("MatMul", [f"v{i}", name], [f"v{i + 1}"], name=f"/{i}/MatMul") for i, name in enumerate(names)
    ]
    arrays = {name: each.weight.detach().numpy().T.copy() for name, each in zip(names, model)}
    base = save(tmp_path / "base.onnx", made, {"v0": floats("n", 8)}, {"v20": floats("n", 8)}, arrays)
    quantize_dynamic(base, base)
    report = export_onnx_file(base, adapter, tmp_path / "out.onnx", mode)
    assert report["comparison"]["within"] and len(report["weights"]) == 20
