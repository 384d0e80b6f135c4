"""Files as real tools write them: what onnx does not know of, and what they do to weights and inputs."""

import dataclasses

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")

from adapters import adapter_of
from onnx import TensorProto, helper, numpy_helper
from onnx_bases import adapter_for, bert, pytorch, write
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
from onnxruntime.transformers import optimizer
from torch import nn
from typer.testing import CliRunner

from export.__main__ import app
from export.graph.expander import write_adapter
from export.graph.rebuild import pairs
from export.kernels.nodes import nodes
from export.onnx import cases, feeds_of
from export.onnx_base.exporter_names import in_attention
from export.onnx_base.feeds import feeds_for
from export.onnx_base.folder import export_onnx_folder
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
    save_adapter,
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


# Rounding of activations, on whichever side of a product

CLOSE = 1e-5  # of entries up to 10: sums of up to 64 float32 products; rounding to 8 bits moves them by 1e-2


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


# A model in several files, as Optimum writes encoder-decoders

WEIGHTS = ("model.encoder.layers.0.fc", "model.decoder.layers.0.fc", "model.decoder.layers.0.encoder_attn.v")


def products(path, names, suffix="", inner=lambda name: name):
    """A chain of products with weights of 8 × 8 whose nodes bear the names of their modules."""
    made, arrays, last = [], {}, "x"
    for number, (name, W) in enumerate(names.items()):
        scope = f"/{inner(name).replace('.', '/').replace('/0', '.0')}/MatMul"
        stored, result = f"onnx::MatMul_{number}{suffix}", "y" if number == len(names) - 1 else f"v{number}"
        made.append(helper.make_node("MatMul", [last, stored], [result], name=scope))
        arrays[stored], last = W.T.copy(), result
    return save(path, made, {"x": floats("n", 8)}, {"y": floats("n", 8)}, arrays)


@pytest.fixture
def in_parts(tmp_path):
    """(folder, adapter, weights by name): encoder and decoder in files, the encoder's without its prefix as Optimum writes it."""
    model = nn.Module()
    for name in WEIGHTS:
        place = model
        for part in name.split("."):
            if part not in dict(place.named_children()):
                place.add_module(part, nn.Linear(8, 8, bias=False) if part == name.split(".")[-1] else nn.Module())
            place = getattr(place, part)
    segments = [Segment(f"{name}.weight", 8, 8, 2) for name in WEIGHTS]
    adapter = adapter_of(model, segments, "parts", d=20)
    W = {name: model.get_submodule(name).weight.detach().numpy() for name in WEIGHTS}
    folder = tmp_path / "base"
    folder.mkdir()
    encoder, decoder = {WEIGHTS[0]: W[WEIGHTS[0]]}, {name: W[name] for name in WEIGHTS[1:]}
    products(folder / "encoder_model.onnx", encoder, inner=lambda name: name.removeprefix("model.encoder."))
    products(folder / "decoder_model_merged.onnx", decoder, "_merged_0")
    products(
        folder / "decoder_with_past_model.onnx", {WEIGHTS[1]: W[WEIGHTS[1]]}
    )  # its cache holds the encoder's values
    (folder / "config.json").write_text("{}")
    return folder, adapter, W


def chain(adapter, weights, names, x):
    for name in names:
        W = weights[name].copy()
        adapter.add_deltas(adapter.layer_map.placed_by_weight()[f"{name}.weight"], W)
        x = x @ W.T
    return x


@pytest.mark.parametrize("mode", ["merged", "reconstruct", "input", "factored"])
def test_a_folder_of_parts_in_one_call(in_parts, tmp_path, mode):
    folder, adapter, W = in_parts
    report = export_onnx_folder(folder, adapter, tmp_path / "out", mode)
    assert report["same_contents"] is True  # of the weights of all files together
    assert (tmp_path / "out" / "config.json").exists()
    x = normal(3, 8)
    feed = {"x": x} | (feeds_of(adapter) if mode == "factored" else {})
    files = {"encoder_model": WEIGHTS[:1], "decoder_model_merged": WEIGHTS[1:], "decoder_with_past_model": WEIGHTS[1:2]}
    for name, held in files.items():
        (y,) = parity.run(parity.session(tmp_path / "out" / f"{name}.onnx"), feed, ["y"]).values()
        assert np.abs(y - chain(adapter, W, held, x)).max() < CLOSE


def run_with(path, feed, adapter=None):
    options = onnxruntime.RunOptions()
    if adapter:
        file = onnxruntime.LoraAdapter()
        file.Load(str(adapter))
        options.add_active_adapter(file)
    return parity.session(path).run(None, feed, options)[0]


@pytest.mark.parametrize("mode", ["input", "factored"])
def test_all_parts_take_one_adapters_file(in_parts, tmp_path, mode):
    """With A and B of every part, and a head that one of them has."""
    folder, adapter, W = in_parts
    adapter.saved = {f"{WEIGHTS[2]}.weight": normal(8, 8)}
    adapter.layer_map = LayerMap(
        [segment for segment in adapter.layer_map.segments if segment.name not in adapter.saved]
    )
    adapter.projection = Projection(D=adapter.layer_map.D, d=20, seed=1)
    adapter.base = None
    (folder / "model.onnx_adapter").write_bytes(b"of another model")
    report = export_onnx_folder(folder, adapter, tmp_path / "out", mode)
    assert report["left_out"] == ["model.onnx_adapter"]
    written = {file.name for file in (tmp_path / "out").iterdir() if ".onnx_" in file.name or ".expander" in file.name}
    assert written == {"model.onnx_adapter"} | ({"model.expander.onnx"} if mode == "factored" else set())
    new = dataclasses.replace(
        adapter, theta=adapter.theta + 1, saved={name: normal(8, 9)[:, 1:] for name in adapter.saved}
    )
    write_adapter(new, mode, tmp_path / "new.onnx_adapter")
    x = normal(3, 8)
    for name, held in {"encoder_model": WEIGHTS[:1], "decoder_model_merged": WEIGHTS[1:]}.items():
        for each, file in ((adapter, tmp_path / "out" / "model.onnx_adapter"), (new, tmp_path / "new.onnx_adapter")):
            wanted = chain(each, W, held[:1], x)
            wanted = wanted @ each.saved[f"{WEIGHTS[2]}.weight"].T if len(held) > 1 else wanted
            assert np.abs(run_with(tmp_path / "out" / f"{name}.onnx", {"x": x}, file) - wanted).max() < CLOSE * 10
    if mode == "factored":
        expander = parity.session(tmp_path / "out" / "model.expander.onnx")
        names = [output.name for output in expander.get_outputs()]
        feed = dict(zip(names, expander.run(None, {"theta": new.theta}))) | {"x": x}
        assert (
            np.abs(run_with(tmp_path / "out" / "encoder_model.onnx", feed) - chain(new, W, WEIGHTS[:1], x)).max()
            < CLOSE
        )


@pytest.mark.parametrize("mode", ["input", "factored"])
def test_all_parts_require_the_same_inputs(in_parts, tmp_path, mode):
    """One feed serves them all, in runtimes without optional inputs or functions too; by the command."""
    folder, adapter, W = in_parts
    adapter.saved = {f"{WEIGHTS[2]}.weight": normal(8, 8)}
    adapter.layer_map = LayerMap(
        [segment for segment in adapter.layer_map.segments if segment.name not in adapter.saved]
    )
    adapter.projection, adapter.base = Projection(D=adapter.layer_map.D, d=20, seed=1), None
    save_adapter(adapter, tmp_path / "vec.safetensors")
    call = [
        "onnx-folder",
        "--adapter",
        tmp_path / "vec.safetensors",
        "--base",
        folder,
        "-o",
        tmp_path / "out",
        "--mode",
        mode,
    ]
    said = CliRunner().invoke(app, [*map(str, call), "--required-inputs", "--inline"])
    assert said.exit_code == 0, said.output
    x = normal(3, 8)
    feed = {"x": x} | adapter.saved | (pairs(adapter) if mode == "factored" else {"theta": adapter.theta})
    for name, held in {"encoder_model": WEIGHTS[:1], "decoder_model_merged": WEIGHTS[1:2]}.items():
        path = tmp_path / "out" / f"{name}.onnx"
        graph, session = onnx.load(path), parity.session(path)
        assert not graph.functions and {each.name for each in session.get_inputs()} == set(feed)
        wanted = chain(adapter, W, held, x)
        wanted = wanted if name == "encoder_model" else wanted @ adapter.saved[f"{WEIGHTS[2]}.weight"].T
        assert np.abs(run_with(path, feed) - wanted).max() < CLOSE * 10


def test_one_part_by_itself(in_parts, tmp_path):
    folder, adapter, _ = in_parts
    base = folder / "encoder_model.onnx"
    with pytest.raises(BaseMismatch, match="no initializer of the file is known to be model.decoder"):
        export_onnx_file(base, adapter, tmp_path / "out.onnx")
    report = export_onnx_file(base, adapter, tmp_path / "out.onnx", part="encoder")
    assert report["elsewhere"] == [f"{name}.weight" for name in WEIGHTS[1:]] and report["same_contents"] is None
    assert "in other files" in report["not_comparable"]
    other = products(folder / "other.onnx", {"vision.fc": normal(8, 8)})
    with pytest.raises(BaseMismatch, match="holds none of the adapter's weights as the part 'encoder'"):
        export_onnx_file(other, adapter, tmp_path / "other.onnx", part="encoder")


def test_a_part_of_which_a_weight_may_be_nameless_is_refused(in_parts, tmp_path):
    """What is not found by its name is elsewhere only where nothing in the file could be it."""
    folder, adapter, _ = in_parts
    base = folder / "decoder_model_merged.onnx"
    model = onnx.load(base)
    model.graph.node[1].name = "MatMul_1"
    onnx.save(model, base)
    with pytest.raises(BaseMismatch, match="no initializer .*encoder_attn.v.weight .* --map"):
        export_onnx_file(base, adapter, tmp_path / "out.onnx", part="decoder")
    given = {f"{WEIGHTS[2]}.weight": "onnx::MatMul_1_merged_0"}
    assert len(export_onnx_file(base, adapter, tmp_path / "out.onnx", part="decoder", given=given)["weights"]) == 2


def test_a_folder_that_lacks_a_weight_is_refused(in_parts, tmp_path):
    folder, adapter, _ = in_parts
    (folder / "decoder_model_merged.onnx").unlink()
    with pytest.raises(
        BaseMismatch, match="encoder_attn.v.weight is in none of decoder_with_past_model.onnx, encoder_model.onnx"
    ):
        export_onnx_folder(folder, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["merged", "factored"])
def test_a_merged_decoder_whose_names_alone_tell(tmp_path, mode):
    """Optimum gives what both branches of its If share to the graph around it, and appends `_merged_0` to the names; no node has a name."""
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    adapter = adapter_of(model, [Segment(f"{number}.weight", 8, 8, 2) for number in (0, 1)], "merged", d=20)
    stored = {"0.weight_merged_0": model[0], "1.weight_merged_1": model[1]}

    def branch(name, sign):
        made = [helper.make_node("MatMul", ["x", "0.weight_merged_0"], [f"{name}h"])]
        made += [
            helper.make_node("MatMul", [f"{name}h", "1.weight_merged_1"], [f"{name}k"]),
            helper.make_node(sign, [f"{name}k"], [name]),
        ]
        return helper.make_graph(made, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    adapter.base = None  # so that no fingerprint tells them
    arrays = {name: each.weight.detach().numpy().T.copy() for name, each in stored.items()}
    made = [
        helper.make_node(
            "If", ["use_cache_branch"], ["y"], then_branch=branch("t", "Neg"), else_branch=branch("e", "Identity")
        )
    ]
    inputs = {"use_cache_branch": (TensorProto.BOOL, []), "x": floats("n", 8)}
    base = save(tmp_path / "decoder_model_merged.onnx", made, inputs, {"y": floats("n", 8)}, arrays)
    report = export_onnx_file(base, adapter, tmp_path / "out.onnx", mode)
    assert {row["name"]: (row["initializer"], row["how"]) for row in report["weights"]} == {
        "0.weight": ("0.weight_merged_0", "name"), "1.weight": ("1.weight_merged_1", "name"),
    }  # fmt: skip
    assert report["comparison"]["within"] and report["adapter_moves_outputs_by"] > 0.01


# Fused attention, whose weights have lost their names


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


@pytest.mark.parametrize("half", [False, True])
def test_fused_attention_is_found_by_the_names_behind_it(tmp_path, half):
    base, adapter = fused(tmp_path / "base.onnx", half=half)
    report = export_onnx_file(base, adapter, tmp_path / "out.onnx", "input")
    assert report["same_contents"] is (None if half else True)  # the fingerprint confirms it where the values are exact
    where = {row["name"]: (row["initializer"], row["how"]) for row in report["weights"]}
    for number in (0, 1):
        for name, row in (("query", 0), ("value", 16)):
            place = f"Attention_{1 - number}_qkv_weight, rows from {row}"
            assert where[f"layer.{number}.attention.self.{name}.weight"] == (place, "node name")


@pytest.fixture(scope="module", params=[None, {"per_channel": False}, {"per_channel": True}])
def fused_bert(request, tmp_path_factory):
    """BERT as ONNX Runtime's optimizer fuses it, and its quantizer makes QAttention of that, and how it was quantized; two adapters without
    the table of words."""
    quantized, path = request.param, tmp_path_factory.mktemp("fused") / "base.onnx"
    model, segments, names = bert()
    made = optimizer.optimize_model(str(write(model, path)), "bert", num_heads=4, hidden_size=32, opt_level=0)
    made.save_model_to_file(str(path))
    if quantized is not None:  # the inference of shapes and types ends at operators of ONNX Runtime's
        quantize_dynamic(
            path, path, reduce_range=True, extra_options={"DefaultTensorType": TensorProto.FLOAT}, **quantized
        )
    segments = [segment for segment in segments if "embeddings" not in segment.name]
    return path, quantized, [adapter_for(lambda: (model, segments, names), seed) for seed in (0, 1)]


@pytest.mark.parametrize("mode", ["reconstruct", "input", "factored", "bank"])
def test_a_bert_that_onnx_runtime_has_fused(tmp_path, mode, fused_bert):
    """What A and B cannot act beside is taken apart: quantized attention, and for a bank any."""
    base, quantized, adapters = fused_bert
    report = export_onnx_file(base, adapters if mode == "bank" else adapters[:1], tmp_path / "out.onnx", mode)
    assert report["comparison"]["within"] and report["adapter_moves_outputs_by"] > 1
    kinds = {node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node}
    apart = mode == "bank" or quantized is not None
    assert ("MultiHeadAttention" in kinds, bool(kinds & {"Attention", "QAttention"})) == (apart, not apart)
    if quantized is None and mode == "bank":
        feeds = feeds_for(read(base))
        answers = [[{"logits": each} for each in pytorch(bert, adapter, feeds)] for adapter in adapters]
        session = parity.session(tmp_path / "out.onnx")
        for feed, wanted in cases(mode, adapters, feeds, answers):
            got = parity.run(session, feed, ["logits"])["logits"]
            assert np.abs(got - wanted["logits"]).max() < CLOSE * 10  # logits up to 20


def test_nothing_is_merged_into_quantized_fused_attention(tmp_path):
    base, adapter = fused(tmp_path / "base.onnx")
    quantize_dynamic(base, tmp_path / "quantized.onnx", op_types_to_quantize=["Attention"])
    with pytest.raises(
        UniLoraError, match="Attention_1_qkv_weight_quantized is quantized .QAttention Attention_1_quant"
    ):
        export_onnx_file(tmp_path / "quantized.onnx", adapter, tmp_path / "out.onnx", "merged")


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


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_attention_that_is_taken_apart_attends_as_before(tmp_path, mask, past, causal, quantized):
    base, adapter, feed = attention(tmp_path / "base.onnx", mask, past, unidirectional=causal)
    if quantized:
        quantize_dynamic(base, base, op_types_to_quantize=["Attention"])
    given = {"attn.v.weight": f"W{'_quantized' * quantized}@16"}
    mode = "factored" if quantized else "bank"
    report = export_onnx_file(base, adapter, tmp_path / "out.onnx", mode, given=given, feeds=[feed])
    differences = [row["absolute"] for row in report["comparison"]["outputs"].values()]
    assert len(differences) == 1 + past and max(differences) < CLOSE and report["adapter_moves_outputs_by"] > 0.01
    assert "MultiHeadAttention" in {node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node}


def test_attention_over_a_weight_that_is_dequantized(tmp_path):
    """As static quantization leaves it."""
    base, adapter, feed = attention(tmp_path / "base.onnx", "keys", False)
    model = onnx.load(base)
    W = next(each for each in model.graph.initializer if each.name == "W")
    codes = np.rint(numpy_helper.to_array(W) * 256).astype(np.int8)
    W.CopyFrom(numpy_helper.from_array(codes, "W"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1 / 256), "scale"))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["W", "scale"], ["floats"]))
    model.graph.node[1].input[1] = "floats"
    onnx.save(model, base)
    for mode in ("reconstruct", "input", "factored"):
        report = export_onnx_file(
            base, adapter, tmp_path / "out.onnx", mode, given={"attn.v.weight": "W@16"}, feeds=[feed]
        )
        assert report["comparison"]["within"] and report["adapter_moves_outputs_by"] > 0.01


def test_attention_that_cannot_be_taken_apart_is_refused_by_name(tmp_path):
    base, adapter, feed = attention(tmp_path / "base.onnx", "none", False, do_rotary=1)
    with pytest.raises(
        UniLoraError, match="Attention fused has W inside, .* cannot be taken apart as it has do_rotary; give a base"
    ):
        export_onnx_file(base, adapter, tmp_path / "out.onnx", "bank", given={"attn.v.weight": "W@16"}, feeds=[feed])


@pytest.mark.parametrize(
    "name, projection, place",
    [
        ("bert.encoder.layer.0.attention.self.query.weight", "encoder.layer.0.attention.output.dense", 0),
        ("encoder.layer.0.attention.self.value.weight", "bert.encoder.layer.0.attention.output.dense", 2),
        ("transformer.layer.3.attention.k_lin.weight", "transformer.layer.3.attention.out_lin", 1),
        ("model.encoder.layers.0.self_attn.k_proj.weight", "layers.0.self_attn.out_proj", 1),
        ("encoder.layer.1.attention.self.query.weight", "encoder.layer.0.attention.output.dense", None),
        ("decoder.layers.0.encoder_attn.q_proj.weight", "decoder.layers.0.self_attn.out_proj", None),
        ("a.0.layer.1.attn.q.weight", "a.1.layer.1.attn.o", None),
        ("encoder.layer.0.attention.output.dense.weight", "encoder.layer.0.attention.output.dense", None),
    ],
)
def test_which_attention_a_weight_is_in(name, projection, place):
    assert in_attention(name, projection) == place


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
