"""Files as real tools write them: operators that onnx does not know, and other ways of quantizing."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")
from adapters import adapter_of
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
from torch import nn
from written_nodes import CLOSE, floats, normal, save

from export.kernels.nodes import nodes
from export.onnx import feeds_of
from export.onnx_base.feeds import feeds_for
from export.onnx_base.from_file import export_onnx_file, read
from export.parity import compare as parity
from export.parity import unrounded
from unilora_spec import (
    Adapter,
    BaseMismatch,
    LayerMap,
    Projection,
    Segment,
    UniLoraError,
    WorkFailed,
)


def linear(out=8, width=8):
    """An adapter of one layer ``0``, and its weight as (in, out)."""
    model = nn.Sequential(nn.Linear(width, out, bias=False))
    adapter = adapter_of(model, [Segment("0.weight", out, width, 2)], "linear", d=20)
    return adapter, model[0].weight.detach().numpy().T.copy()


# What onnx does not know, ONNX Runtime judges


def norm_and_product(path):
    """SimplifiedLayerNormalization in ONNX's own domain, where ONNX Runtime registers it and onnx does not."""
    adapter, W = linear()
    norm = helper.make_node("SimplifiedLayerNormalization", ["x", "g"], ["n"], axis=-1, epsilon=1e-6)
    made = [norm, helper.make_node("MatMul", ["n", "0.weight"], ["y"])]
    return save(
        path, made, {"x": floats("n", 8)}, {"y": floats("n", 8)}, {"g": np.ones(8, np.float32), "0.weight": W}
    ), adapter


def branches_of_equal_names(path):
    """An If both of whose branches name what they compute alike, at which onnx's propagation of values stumbles."""

    def branch(name, axis):
        made = [
            helper.make_node("Shape", ["x"], ["s"], name="/s"),
            helper.make_node("Gather", ["s", "k"], ["g"], axis=0),
            helper.make_node("Unsqueeze", ["g", "zero"], [name]),
        ]
        constant = numpy_helper.from_array(np.array(axis, np.int64), "k")
        return helper.make_graph(
            made, name, [], [helper.make_tensor_value_info(name, TensorProto.INT64, [1])], [constant]
        )

    adapter, W = linear()
    made = [
        helper.make_node("If", ["c"], ["size"], then_branch=branch("t", 0), else_branch=branch("e", 1)),
        helper.make_node("MatMul", ["x", "0.weight"], ["y"]),
    ]
    inputs = {"c": (TensorProto.BOOL, []), "x": floats("n", 8)}
    outputs = {"size": (TensorProto.INT64, [1]), "y": floats("n", 8)}
    return save(path, made, inputs, outputs, {"zero": np.array([0]), "0.weight": W}), adapter


@pytest.mark.parametrize("compare", [True, False])
@pytest.mark.parametrize("mode", ["merged", "reconstruct", "input", "factored"])
@pytest.mark.parametrize("build", [norm_and_product, branches_of_equal_names])
def test_what_onnx_refuses_of_the_base_is_left_to_onnx_runtime(tmp_path, build, mode, compare):
    base, adapter = build(tmp_path / "base.onnx")
    report = export_onnx_file(base, adapter, tmp_path / "out.onnx", mode, compare=compare)
    assert (report["comparison"] is not None) == compare
    parity.session(tmp_path / "out.onnx")


def test_what_onnx_accepts_of_the_base_it_has_to_accept_of_the_result(tmp_path):
    """The base fails one of the judges only; the result fails another."""
    base, _ = branches_of_equal_names(tmp_path / "base.onnx")
    model = onnx.load(base)
    model.graph.node.append(helper.make_node("Relu", ["nobody's"], ["z"]))
    onnx.save(model, tmp_path / "out.onnx")
    with pytest.raises(WorkFailed, match="onnx's checker refuses .*nobody's"):
        parity.check(tmp_path / "out.onnx", base)


def test_what_onnx_cannot_judge_onnx_runtime_has_to_load(tmp_path):
    base, _ = norm_and_product(tmp_path / "base.onnx")
    model = onnx.load(base)
    model.graph.node[0].attribute[0].i = 7  # of an input of two axes
    model.graph.node[1].input[0] = "nobody's"
    onnx.save(model, tmp_path / "out.onnx")
    with pytest.raises(WorkFailed, match="ONNX Runtime refuses"):
        parity.check(tmp_path / "out.onnx", base)


def test_nodes_of_operators_that_onnx_does_not_know(tmp_path):
    base, _ = norm_and_product(tmp_path / "base.onnx")
    assert {row["operator"] for row in nodes(base)["nodes"]} == {"SimplifiedLayerNormalization", "MatMul"}


# onnxruntime-genai's builder


def grouped(path, packed, lengths=False, **more):
    """One GroupQueryAttention as the builder writes it: 4 heads of 8, 2 of keys and values; the cache's last axis is open."""
    cache = {
        f"past_key_values.0.{n}": floats("batch_size", 2, "past_sequence_length", "kv_cache_dim")
        for n in ("key", "value")
    }
    present = {
        f"present.0.{n}": floats("batch_size", 2, "total_sequence_length", "kv_cache_dim") for n in ("key", "value")
    }
    inputs = {"x": floats("batch_size", "sequence_length", 32)} | cache
    arrays = {"W": normal(32, 64), "one": np.array(1), "axis": np.array([1]), "second": np.array(1)}
    made = [helper.make_node("MatMul", ["x", "W"], ["qkv"], name="/model/layers.0/attn/qkv_proj/MatMul")]
    attended = ["qkv", "", ""]
    if not packed:
        arrays["sizes"] = np.array([32, 16, 16])
        made += [helper.make_node("Split", ["qkv", "sizes"], ["q", "k", "v"], axis=-1)]
        attended = ["q", "k", "v"]
    if lengths:
        inputs |= {"seqlens_k": (TensorProto.INT32, ["batch_size"]), "total_sequence_length": (TensorProto.INT32, [])}
    else:
        inputs["attention_mask"] = TensorProto.INT64, ["batch_size", "total_sequence_length"]
        made += [
            helper.make_node("ReduceSum", ["attention_mask", "axis"], ["rows"], keepdims=0),
            helper.make_node("Sub", ["rows", "one"], ["less"]),
            helper.make_node("Cast", ["less"], ["seqlens_k"], to=TensorProto.INT32),
            helper.make_node("Shape", ["attention_mask"], ["shape"]),
            helper.make_node("Gather", ["shape", "second"], ["total"]),
            helper.make_node("Cast", ["total"], ["total_sequence_length"], to=TensorProto.INT32),
        ]
    taken = [*attended, *cache, "seqlens_k", "total_sequence_length"]
    options = {"domain": "com.microsoft", "num_heads": 4, "kv_num_heads": 2} | more
    made += [helper.make_node("GroupQueryAttention", taken, ["y", *present], **options)]
    save(path, made, inputs, {"y": floats("batch_size", "sequence_length", 32)} | present, arrays)
    model = onnx.load(path)
    widths = {"qkv": 64} if packed else {"q": 32, "k": 16, "v": 16}
    model.graph.value_info.extend(
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch_size", "sequence_length", width])
        for n, width in widths.items()
    )
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_made_up_fits_grouped_query_attention(tmp_path, packed, lengths):
    base = grouped(tmp_path / "base.onnx", packed, lengths)
    feeds = feeds_for(read(base))
    assert {feed["past_key_values.0.key"].shape[3] for feed in feeds} == {8}
    assert any(feed["past_key_values.0.key"].shape[2] and feed["x"].shape[1] > 1 for feed in feeds)
    assert any(feed["past_key_values.0.key"].shape[2] and len(feed["x"]) > 1 for feed in feeds)
    session = parity.session(base)
    for feed in feeds:
        answers = parity.run(session, feed, ["y", "present.0.key"])
        total = feed["past_key_values.0.key"].shape[2] + feed["x"].shape[1]
        assert answers["present.0.key"].shape[2] == total and np.isfinite(answers["y"]).all()


WINDOW = {"local_window_size": 16, "sliding_window_cache": 1}


@pytest.mark.parametrize("mode", ["merged", "reconstruct", "input", "factored"])
def test_a_cache_that_keeps_a_window(tmp_path, mode):
    """As the builder writes Gemma 3: caches of one length from the first token on. What lies behind the tokens there is not compared,
    as ONNX Runtime leaves there what was in memory; and data beside the base stay beside."""
    base = grouped(tmp_path / "base.onnx", False, **WINDOW)
    onnx.save(onnx.load(base), base, save_as_external_data=True, location="base.data", size_threshold=0)
    assert {feed["past_key_values.0.key"].shape[2] for feed in feeds_for(read(base))} == {16}
    layers = LayerMap([Segment("W", 64, 32, 4)], alpha=4)
    adapter = Adapter(
        Projection(D=layers.D, d=20, seed=1), layers, np.random.default_rng(0).normal(size=20).astype(np.float32)
    )
    report = export_onnx_file(base, adapter, tmp_path / "out.onnx", mode)
    assert list(report["comparison"]["outputs"]) == ["y"] and report["adapter_moves_outputs_by"] > 0.01
    (data,) = (file for file in report["files"] if file.endswith(".data"))
    assert report["files"][data] >= 4 * 32 * 64
    (tmp_path / "base.data").unlink()
    parity.session(tmp_path / "out.onnx")


def test_both_branches_of_a_merged_decoder_are_run(tmp_path):
    inputs = {
        "use_cache_branch": (TensorProto.BOOL, [1]),
        "past_key_values.0.decoder.key": floats("batch", 2, "past", 4),
    }
    made = [helper.make_node("Identity", [name], [f"{name}.given"]) for name in inputs]
    base = save(tmp_path / "base.onnx", made, inputs, {f"{name}.given": form for name, form in inputs.items()})
    feeds = feeds_for(read(base))
    assert {bool(feed["use_cache_branch"][0]) for feed in feeds} == {False, True}
    assert all(feed["use_cache_branch"][0] == (feed["past_key_values.0.decoder.key"].shape[2] > 0) for feed in feeds)


def gated(path, bits=None, scales=False):
    """gate_up_proj of a model as the builder splits it, in floats or in 4 bits; its adapter, and the whole weight."""
    model = nn.Module()
    model.mlp = nn.Module()
    model.mlp.gate_up_proj = nn.Linear(32, 48, bias=False)
    adapter = adapter_of(model, [Segment("mlp.gate_up_proj.weight", 48, 32, 3)], "gated", d=40)
    W = model.mlp.gate_up_proj.weight.detach().numpy()
    made = [
        helper.make_node("MatMul", ["x", f"mlp.{part}_proj.MatMul.weight"], [part], name=f"/mlp/{part}_proj/MatMul")
        for part in ("gate", "up")
    ]
    made += [helper.make_node("Sigmoid", ["gate"], ["g"]), helper.make_node("Mul", ["g", "up"], ["y"])]
    arrays = {"mlp.gate_proj.MatMul.weight": W[:24].T.copy(), "mlp.up_proj.MatMul.weight": W[24:].T.copy()}
    save(path, made, {"x": floats("n", 32)}, {"y": floats("n", 24)}, arrays)
    if bits:
        options = DefaultWeightOnlyQuantConfig(block_size=16, is_symmetric=not scales)
        quantizer = MatMulNBitsQuantizer(onnx.load(path), algo_config=options)
        quantizer.process()
        quantizer.model.save_model_to_file(str(path))
    return path, adapter, W


@pytest.mark.parametrize("mode", ["merged", "reconstruct", "input", "factored"])
def test_a_weight_that_a_tool_has_split(tmp_path, mode):
    base, adapter, W = gated(tmp_path / "base.onnx")
    report = export_onnx_file(base, adapter, tmp_path / "out.onnx", mode)
    assert report["same_contents"] is True
    ((segment, offset),) = adapter.layer_map.placed()
    adapter.add_deltas([(segment, offset)], W := W.copy())
    x = normal(5, 32)
    gate, up = x @ W[:24].T, x @ W[24:].T
    feed = {"x": x} | (feeds_of(adapter) if mode == "factored" else {})
    (y,) = parity.run(parity.session(tmp_path / "out.onnx"), feed, ["y"]).values()
    assert np.abs(y - up / (1 + np.exp(-gate))).max() < CLOSE
    names = {tensor.name for tensor in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert not any("gate_proj" in name or "up_proj" in name.replace("gate_up_proj", "") for name in names)


@pytest.mark.parametrize("zeros", [False, True])
def test_a_quantized_weight_that_a_tool_has_split(tmp_path, zeros):
    base, adapter, _ = gated(tmp_path / "base.onnx", 4, zeros)
    x = normal(5, 32)
    plain = parity.run(parity.session(base), {"x": x}, ["y"])["y"]
    report = export_onnx_file(base, adapter, tmp_path / "out.onnx", "factored")
    assert report["comparison"]["within"] and report["adapter_moves_outputs_by"] > 0.01
    unfed = parity.run(parity.session(tmp_path / "out.onnx"), {"x": x}, ["y"])["y"]
    assert np.abs(unfed - plain).max() < CLOSE


def test_an_error_speaks_of_quantized_weights_only_where_some_are(tmp_path):
    adapter, _ = linear(8, 16)
    made = [helper.make_node("MatMul", ["x", "other"], ["y"])]
    save(tmp_path / "base.onnx", made, {"x": floats("n", 4)}, {"y": floats("n", 4)}, {"other": normal(4, 4)})
    with pytest.raises(BaseMismatch) as refused:
        export_onnx_file(tmp_path / "base.onnx", adapter, tmp_path / "out.onnx")
    assert "quantized" not in str(refused.value) and "none that is free has its shape" in str(refused.value)


# Quantized in other ways


@pytest.mark.parametrize("mode", ["reconstruct", "input", "factored"])
def test_weights_of_bitsandbytes(tmp_path, mode):
    adapter, W = linear(32, 64)
    made = [helper.make_node("MatMul", ["x", "0.weight"], ["y"], name="product")]
    base = save(tmp_path / "base.onnx", made, {"x": floats("n", 64)}, {"y": floats("n", 32)}, {"0.weight": W})
    quantizer = MatMulBnb4Quantizer(onnx.load(base), quant_type=MatMulBnb4Quantizer.NF4, block_size=16)
    quantizer.process()
    quantizer.model.save_model_to_file(str(base))
    assert "MatMulBnb4" in {node.op_type for node in onnx.load(base).graph.node}
    report = export_onnx_file(base, adapter, tmp_path / "out.onnx", mode)
    assert report["comparison"]["within"] and report["adapter_moves_outputs_by"] > 0.01
    with pytest.raises(UniLoraError, match="is quantized"):
        export_onnx_file(base, adapter, tmp_path / "merged.onnx", "merged")


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("kind", ["DynamicQuantizeMatMul", "MatMulIntegerToFloat"])
def test_dynamic_quantization_that_onnx_runtime_has_fused(tmp_path, kind, columns):
    """What its optimizer makes of MatMulInteger and what stands around it, with a scale for the matrix or for each column."""
    adapter, W = linear(16, 8)
    scale = np.abs(W).max(0 if columns else None) / np.float32(127)
    integers, zero = np.rint(W / scale).astype(np.int8), np.zeros_like(scale, dtype=np.int8)
    arrays = {"W": integers, "scale": scale, "zero": zero, "b": normal(16)}
    if kind == "DynamicQuantizeMatMul":
        made = [helper.make_node(kind, ["x", "W", "scale", "zero", "b"], ["y"], domain="com.microsoft")]
    else:
        taken = ["q", "W", "x.scale", "scale", "x.zero", "zero", "b"]
        made = [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "x.scale", "x.zero"])]
        made += [helper.make_node(kind, taken, ["y"], domain="com.microsoft", name="/0/MatMul_quant")]
    base = save(tmp_path / "base.onnx", made, {"x": floats("n", 8)}, {"y": floats("n", 16)}, arrays)
    x = normal(3, 8)
    (got,) = unrounded.session(ir.load(base)).run(None, {"x": x})
    assert np.abs(got - (x @ (integers * scale) + arrays["b"])).max() < CLOSE
    given = {"0.weight": "W"}
    for mode in ("reconstruct", "factored"):
        report = export_onnx_file(base, adapter, tmp_path / "out.onnx", mode, given=given)
        assert report["comparison"]["within"] and report["adapter_moves_outputs_by"] > 0.01
        assert report["weights"][0]["uses"][0].startswith(kind)
