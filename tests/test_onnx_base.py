"""An adapter on an ONNX file that exists already: what it answers, what is refused, and what is left behind."""

import copy
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

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

ir = pytest.importorskip("onnx_ir")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")

from adapters import adapter_of, merged
from onnx import TensorProto, helper
from onnx_bases import LARGEST, MODES, adapter_for, bert, gpt2, llama, pytorch, relative, write

import export.onnx
from export.onnx import cases
from export.onnx_base import from_file
from export.onnx_base.feeds import feeds_for
from export.onnx_base.from_file import export_onnx_file, read
from export.parity import compare as parity

ROOT = Path(__file__).parents[1]


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


FILES = [
    *((bert, "torchscript", opset) for opset in (13, 14, 17)),
    *((build, "torchscript", 14) for build in (gpt2, llama)),
    (bert, "dynamo", 18),
    *(pytest.param(build, "dynamo", 18, marks=pytest.mark.thorough) for build in (gpt2, llama)),
]


@pytest.mark.parametrize("build, exporter, opset", FILES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_every_mode_answers_as_pytorch(bases, build, exporter, opset, tmp_path):
    base = bases(build, exporter, opset)
    before = base.read_bytes()
    for mode in MODES:
        report = against_pytorch(base, build, mode, tmp_path / "out.onnx", compare=opset in (13, 18))
        assert report["opset"] == opset and report["same_contents"] is True
        assert report["weights"] and {row["how"] for row in report["weights"]} <= {"name", "node name", "copy"}
        if mode == "merged":
            assert report["index"] is None
        elif opset < 18:
            assert report["index"] == (
                f"stored, 4 bytes an entry: computing it needs operators of opset 18, the base has {opset}"
            )
        else:
            assert report["index"] == "computed in the graph"
    assert base.read_bytes() == before


def test_the_comparison_finds_a_wrong_adapter(bases, tmp_path, monkeypatch):
    """The file's own comparison is no formality: a factor of 1.01 in one scale is found, and nothing is kept."""
    real = from_file.reference

    def other(base, adapter, *rest):
        changed = adapter_for(bert)
        changed.theta = adapter.theta * np.float32(1.01)
        return real(base, changed, *rest)

    monkeypatch.setattr(from_file, "reference", other)
    with pytest.raises(WorkFailed, match="logits disagree .* the file was not kept"):
        export_onnx_file(bases(bert), adapter_for(bert), tmp_path / "out.onnx", "input")
    assert list(tmp_path.iterdir()) == []


def test_opsets_that_are_too_old(bases, tmp_path):
    base = bases(bert, "torchscript", 13)
    old = onnx.load(base)
    old.opset_import[0].version = 12
    onnx.save(old, tmp_path / "old.onnx")
    for mode in MODES[1:]:
        with pytest.raises(
            UniLoraError, match=f"of opset 12, and the mode {mode} needs 13; convert it with onnx.version"
        ):
            export_onnx_file(tmp_path / "old.onnx", adapter_for(bert), tmp_path / "out.onnx", mode)


def test_merging_needs_no_opset(tmp_path):
    """A MatMul is the same in opset 7."""
    adapter, base = linear(tmp_path, opset=7)
    export_onnx_file(base, adapter, tmp_path / "out.onnx", "merged")
    assert onnx.load(tmp_path / "out.onnx").opset_import[0].version == 7


# A graph of one linear layer, made by hand


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


def test_branches_of_an_if(tmp_path):
    """The same W in both branches, in one as the branch's result; and the names in them stay apart from the graph's."""
    model, adapter = one_layer()

    def branch(name, nodes, output):
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])

    then = branch("then", [helper.make_node("MatMul", ["x", "linear.weight"], ["a"])], "a")
    other = branch(
        "else", [helper.make_node("MatMul", ["x", "linear.weight"], ["b"]), helper.make_node("Neg", ["b"], ["c"])], "c"
    )
    node = helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other)
    base = graph_of([node], {"linear.weight": weight(model).T}, folder=tmp_path,
                    inputs={"x": (TensorProto.FLOAT, ["batch", 8]), "flag": (TensorProto.BOOL, [])})  # fmt: skip
    wanted = X @ (weight(model) + delta_of(adapter)).T
    for mode in MODES:
        export_onnx_file(base, adapter, tmp_path / "out.onnx", mode)
        for flag, sign in ((True, 1), (False, -1)):
            feed = {"x": X, "flag": np.array(flag), "adapter": np.zeros(3, np.int64)}
            if mode == "factored":
                feed |= cases(mode, [adapter], [feed], [[{}]])[0][0]
            assert relative(answers(tmp_path / "out.onnx", [feed], "y"), [sign * wanted]) < LARGEST, mode


def test_a_weight_that_is_used_twice(tmp_path):
    """Once on the left, where A and B cannot act beside: W + ΔW takes its place, and a bank is refused."""
    model, adapter = one_layer()
    W = weight(model)
    nodes = [
        helper.make_node("MatMul", ["x", "linear.weight"], ["h"]),
        helper.make_node("MatMul", ["linear.weight", "z"], ["k"]),
        helper.make_node("Add", ["h", "k"], ["y"]),
    ]
    inputs = {"x": (TensorProto.FLOAT, [8, 8]), "z": (TensorProto.FLOAT, [6, 6])}
    base = graph_of(nodes, {"linear.weight": W.T}, inputs, {"y": (TensorProto.FLOAT, [8, 6])}, folder=tmp_path)
    random = np.random.default_rng(0)
    x, z = random.normal(size=(8, 8)).astype(np.float32), random.normal(size=(6, 6)).astype(np.float32)
    new = (W + delta_of(adapter)).T
    for mode in ("merged", "reconstruct", "input"):
        export_onnx_file(base, adapter, tmp_path / "out.onnx", mode)
        assert relative(answers(tmp_path / "out.onnx", [{"x": x, "z": z}], "y"), [x @ new + new @ z]) < LARGEST
    with pytest.raises(UniLoraError, match="linear.weight is used by MatMul k, which A and B cannot act beside"):
        export_onnx_file(base, adapter, tmp_path / "out.onnx", "bank")


@pytest.mark.parametrize("quantized", [False, True])
def test_segments_of_rank_0(tmp_path, quantized):
    """A table that is looked up, rows of a product beside others that have a pair, and a whole product: ΔW in W's place, or, for
    each row of a batch and over quantized weights, beside it."""
    segments = [
        Segment("a.weight", 5, 8, 0), Segment("b.weight", 2, 8, 0, row=4), Segment("b.weight", 3, 8, 2, row=0),
        Segment("c.weight", 4, 6, 0),
    ]  # fmt: skip
    layer_map = LayerMap(segments, alpha=0.5)
    random = np.random.default_rng(0)
    projection = Projection(D=layer_map.D, d=20, seed=1)
    adapters = [Adapter(projection, layer_map, random.normal(size=20).astype(np.float32)) for _ in range(2)]
    whole, arrays, nodes = {}, {}, []
    for name, shape in (("a", (5, 8)), ("b", (6, 8)), ("c", (4, 6))):
        codes, step = random.integers(-9, 9, shape).astype(np.int8), np.float32(0.125)
        whole[f"{name}.weight"] = codes * step
        if quantized:
            arrays |= {f"{name}.weight_quantized": codes, f"{name}.step": step}
            nodes += [helper.make_node("DequantizeLinear", [f"{name}.weight_quantized", f"{name}.step"], [name])]
        else:
            arrays |= {f"{name}.weight": codes * step}
            nodes += [helper.make_node("Identity", [f"{name}.weight"], [name])]
    nodes += [
        helper.make_node("Gather", ["a", "ids"], ["x"]),
        helper.make_node("Transpose", ["b"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["h"]),
        helper.make_node("Transpose", ["c"], ["last"], perm=[1, 0]),
        helper.make_node("MatMul", ["h", "last"], ["y"]),
    ]
    inputs = {"ids": (TensorProto.INT64, ["batch", "sequence"])}
    outputs = {"y": (TensorProto.FLOAT, ["batch", "sequence", 4])}
    base = graph_of(nodes, arrays, inputs, outputs, folder=tmp_path)
    ids, said = random.integers(0, 5, (3, 7)), []
    for adapter in adapters:
        weights = {name: value.copy() for name, value in whole.items()}
        adapter.merge(weights)
        said.append(weights["a.weight"][ids] @ weights["b.weight"].T @ weights["c.weight"].T)
    for mode in ("reconstruct", "input", "bank") if quantized else ("merged", "reconstruct", "input", "bank"):
        export_onnx_file(base, adapters if mode == "bank" else adapters[0], tmp_path / "out.onnx", mode)
        beside = {f.name for f in onnx.load(tmp_path / "out.onnx").functions} & {"Product", "Lookup", "LowRank"}
        assert len(beside) == (3 if quantized and mode != "bank" else 0), "W + ΔW costs less, where it can be had"
        numbers = np.array([1, 0, 1])
        wanted = np.stack([said[k][row] for row, k in enumerate(numbers)]) if mode == "bank" else said[0]
        assert relative(answers(tmp_path / "out.onnx", [{"ids": ids, "adapter": numbers}], "y"), [wanted]) < LARGEST
        if mode == "input":
            fed = {"ids": ids, "theta": adapters[1].theta}
            assert relative(answers(tmp_path / "out.onnx", [fed], "y"), [said[1]]) < LARGEST
    with pytest.raises(UniLoraError, match="a.weight is adapted with rank 0, without an A and B to feed; --mode input"):
        export_onnx_file(base, adapters[0], tmp_path / "out.onnx", "factored")


def test_outputs_that_are_no_floats(tmp_path):
    model, adapter = one_layer()
    nodes = [
        helper.make_node("MatMul", ["x", "linear.weight"], ["h"]),
        helper.make_node("ArgMax", ["h"], ["y"], axis=-1, keepdims=0),
        helper.make_node("Greater", ["h", "zero"], ["z"]),
    ]
    arrays = {"linear.weight": weight(model).T, "zero": np.float32(0)}
    outputs = {"y": (TensorProto.INT64, ["batch"]), "z": (TensorProto.BOOL, ["batch", 6])}
    base = graph_of(nodes, arrays, outputs=outputs, folder=tmp_path)
    report = export_onnx_file(base, adapter, tmp_path / "out.onnx", "reconstruct")
    assert report["comparison"]["within"] and report["comparison"]["outputs"]["y"]["tolerance"] == 0


# Heads


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("turned", [False, True])
def test_a_head_however_it_is_stored(tmp_path, turned, mode):
    """Under another name, as (in, out) or (out, in), and square, so that its shape tells nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    adapters = [adapter_of(model, [Segment("0.weight", 8, 8, 2)], "base", saved=("1.weight",), d=20) for _ in range(2)]
    for scale, each in enumerate(adapters, 1):
        each.saved["1.weight"] = scale * np.random.default_rng(scale).normal(size=(8, 8)).astype(np.float32)
    W, head = weight(model, "0.weight"), weight(model, "1.weight")
    nodes = [helper.make_node("MatMul", ["x", "0.weight"], ["h"])]
    if turned:
        nodes += [helper.make_node("MatMul", ["h", "other"], ["y"], name="/1/MatMul")]
    else:
        nodes += [helper.make_node("Gemm", ["h", "other"], ["y"], name="/1/Gemm", transB=1)]
    arrays = {"0.weight": W.T, "other": head.T if turned else head}
    base = graph_of(nodes, arrays, outputs={"y": (TensorProto.FLOAT, ["batch", 8])}, folder=tmp_path)
    used = adapters if mode == "bank" else adapters[:1]
    export_onnx_file(base, used, tmp_path / "out.onnx", mode)
    wanted = [X @ (W + delta_of(a)).T @ a.saved["1.weight"].T for a in used]
    feed = cases(mode, used, [{"x": X}], [[{"y": y}] for y in wanted])
    assert relative(answers(tmp_path / "out.onnx", [feed[0][0]], "y"), [feed[0][1]["y"]]) < LARGEST
    if mode == "factored":  # the adapter's file has all of it, by name
        lora = onnxruntime.LoraAdapter()
        lora.Load(str(tmp_path / "out.onnx_adapter"))
        options = onnxruntime.RunOptions()
        options.add_active_adapter(lora)
        session = parity.session(tmp_path / "out.onnx")
        assert {"1.weight", "base_model.model.0.lora_A.weight"} <= {
            i.name for i in session.get_overridable_initializers()
        }
        assert relative(session.run(["y"], {"x": X}, options), wanted) < LARGEST


def test_a_base_without_the_adapters_head(tmp_path):
    adapter, base = linear(tmp_path)
    adapter.saved["score.weight"] = np.ones((2, 6), np.float32)
    with pytest.raises(BaseMismatch, match="no initializer of the file is known to be score.weight .*--map") as caught:
        export_onnx_file(base, adapter, tmp_path / "out.onnx", "merged")
    assert "\n" not in str(caught.value)


# Other floats


@pytest.mark.parametrize("mode", MODES)
def test_float16(bases, tmp_path, mode):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = tmp_path / "half.onnx"
    onnx.save(convert_float_to_float16(onnx.load(bases(bert)), keep_io_types=True), half)
    against_pytorch(half, bert, mode, tmp_path / "out.onnx", parity.TOLERANCES["float16"])


def test_bfloat16(tmp_path):
    """Compared in float32, as ONNX Runtime has no kernels for it on the CPU; W + ΔW is rounded once."""
    model, adapter = one_layer()
    W = weight(model).T
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], to=TensorProto.BFLOAT16),
        helper.make_node("MatMul", ["c", "linear.weight"], ["h"]),
        helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
    ]
    base = graph_of(nodes, {"linear.weight": W}, folder=tmp_path)
    proto = onnx.load(base)
    narrow = ir.tensor(W.astype(ir.DataType.BFLOAT16.numpy()), name="linear.weight")
    proto.graph.initializer[0].CopyFrom(ir.to_proto(narrow))
    base.write_bytes(proto.SerializeToString())
    for mode in MODES:
        report = export_onnx_file(base, adapter, tmp_path / "out.onnx", mode)
        assert report["comparison"]["within"] and "bfloat16" in report["comparison"]["note"]
    export_onnx_file(base, adapter, tmp_path / "out.onnx", "merged")
    got = ir.load(tmp_path / "out.onnx").graph.initializers["linear.weight"].const_value.numpy()
    exact = narrow.numpy().astype(np.float32) + delta_of(adapter).T
    assert np.array_equal(got, exact.astype(got.dtype))


# Feeds


def inputs_of(axes, nodes=()):
    values = [ir.Value(name=n, shape=ir.Shape(s), type=ir.TensorType(t)) for n, (t, s) in axes.items()]
    return ir.Model(ir.Graph(values, [], nodes=list(nodes), opset_imports={"": 17}), ir_version=8)


INT, FLOAT = ir.DataType.INT64, ir.DataType.FLOAT


@pytest.mark.parametrize("mask", ["total_sequence_length", "past_sequence_length + sequence_length", "sequence", None])
def test_feeds_of_a_decoder_with_its_cache(mask):
    cache = {
        f"past_key_values.{i}.{n}": (FLOAT, ["batch_size", 2, "past_sequence_length", 8]) for i in (0, 1) for n in ("key", "value")
    }  # fmt: skip
    tokens = (INT, ["batch_size", "sequence_length"])
    inputs = {"input_ids": tokens, "attention_mask": (INT, ["batch_size", mask]), "position_ids": tokens, **cache}
    pasts = set()
    for feed in feeds_for(inputs_of(inputs)):
        rows, length = feed["input_ids"].shape
        past = feed["past_key_values.1.value"].shape[2]
        assert feed["past_key_values.0.key"].shape == (rows, 2, past, 8)
        assert feed["attention_mask"].shape == (rows, past + length) and feed["attention_mask"][0].all()
        assert np.array_equal(feed["position_ids"], np.broadcast_to(np.arange(past, past + length), (rows, length)))
        pasts.add(past)
    assert 0 in pasts and len(pasts) > 1


def test_feeds_of_a_step_of_one_token():
    inputs = {"input_ids": (INT, ["batch", 1]), "attention_mask": (INT, ["batch", "past_sequence_length + 1"])}
    inputs["past_key_values.0.key"] = (FLOAT, ["batch", 2, "past_sequence_length", 8])
    for feed in feeds_for(inputs_of(inputs)):
        assert feed["attention_mask"].shape[1] == feed["past_key_values.0.key"].shape[2] + 1


def test_feeds_of_images_encoders_and_positions():
    image = (FLOAT, ["batch_size", "num_channels", "height", "width"])
    model = inputs_of({
        "pixel_values": image, "cache_position": (INT, ["sequence_length"]),
        "encoder_hidden_states": (FLOAT, ["batch", "encoder_sequence_length", 8]),
        "encoder_attention_mask": (INT, ["batch", "encoder_sequence_length"]),
        "decoder_past.0.key": (FLOAT, ["batch", 2, "past", 8]), "pixel_mask": (FLOAT, ["batch_size", "height", "width"]),
    })  # fmt: skip
    kernel = ir.Value(name="k", shape=ir.Shape([4, 3, 2, 2]), type=ir.TensorType(FLOAT))
    model.graph.append(ir.node("Conv", [model.graph.inputs[0], kernel]))
    for feed in feeds_for(model):
        assert feed["pixel_values"].shape[1:] == (3, 64, 64) and (feed["pixel_mask"] == 1).all()
        assert feed["encoder_attention_mask"].shape == feed["encoder_hidden_states"].shape[:2]
        assert feed["cache_position"].shape != feed["encoder_hidden_states"].shape[:1]


def test_a_base_that_what_is_made_up_does_not_fit(tmp_path):
    adapter, base = linear(tmp_path)
    proto = onnx.load(base)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "features"
    base.write_bytes(proto.SerializeToString())
    with pytest.raises(
        UniLoraError,
        match="does not run without the adapter either: .* made up for its inputs may not fit them: give --inputs",
    ):
        export_onnx_file(base, adapter, tmp_path / "out.onnx")
    export_onnx_file(base, adapter, tmp_path / "out.onnx", feeds=[{"x": X}])
    export_onnx_file(base, adapter, tmp_path / "out.onnx", compare=False)


class Cached(nn.Module):
    """A Llama with its cache as Optimum lays it out."""

    def __init__(self, model):
        super().__init__()
        self.base = model

    def forward(self, input_ids, attention_mask, position_ids, key, value):
        from transformers import DynamicCache

        cache = DynamicCache(config=self.base.config)
        cache.update(key, value, 0)
        answer = self.base(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        layer = answer.past_key_values.layers[0]
        return answer.logits, layer.keys, layer.values


def test_a_decoder_with_its_cache(tmp_path):
    model = Cached(llama()[0]).eval()
    example = (torch.ones(2, 3, dtype=torch.long), torch.ones(2, 7, dtype=torch.long),
               torch.arange(4, 7).expand(2, 3), *torch.randn(2, 2, 2, 4, 8))  # fmt: skip
    past = {0: "batch_size", 2: "past_sequence_length"}
    axes = {
        "input_ids": {0: "batch_size", 1: "sequence_length"},
        "attention_mask": {0: "batch_size", 1: "past_sequence_length + sequence_length"},
        "position_ids": {0: "batch_size", 1: "sequence_length"},
        "past_key_values.0.key": past, "past_key_values.0.value": past,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, example, tmp_path / "base.onnx", dynamo=False, opset_version=17, dynamic_axes=axes, input_names=list(axes),
            output_names=["logits", "present.0.key", "present.0.value"],
        )  # fmt: skip
    adapter = adapter_for(llama)
    feeds = feeds_for(read(tmp_path / "base.onnx"))
    whole = Cached(merged(copy.deepcopy(llama()[0]), adapter)).eval()
    with torch.no_grad():
        wanted = [whole(*(torch.from_numpy(np.array(a)) for a in feed.values()))[0].numpy() for feed in feeds]
    for mode in ("merged", "reconstruct", "input"):
        report = export_onnx_file(tmp_path / "base.onnx", adapter, tmp_path / "out.onnx", mode)
        assert set(report["comparison"]["outputs"]) == {"logits", "present.0.key", "present.0.value"}
        assert relative(answers(tmp_path / "out.onnx", feeds), wanted) < LARGEST


def test_a_mode_that_gathers_much_is_warned_of(tmp_path, monkeypatch):
    adapter, base = linear(tmp_path)
    for mode in MODES:
        assert export_onnx_file(base, adapter, tmp_path / "out.onnx", mode)["warnings"] == []
    monkeypatch.setattr(export.onnx, "GATHERED", {"input": 27, "bank": 28})
    report = export_onnx_file(base, adapter, tmp_path / "out.onnx", "input")
    assert report["warnings"] == [
        "each run gathers 28 entries of theta_D, some 0 ms on one core; --mode factored does it once for an adapter, by its expander"
    ]
    assert export_onnx_file(base, adapter, tmp_path / "out.onnx", "bank")["warnings"] == []
    large = LayerMap([Segment("w", 2**11, 2**11, 0)])
    assert export.onnx.advice("bank", large)[0].startswith("each run gathers 4,194,304 entries of theta_D for each row")
    assert export.onnx.advice("input", large)[0].endswith("; a file for each adapter does not"), "of rank 0, no factors"


# Files, and the command


def test_nothing_is_written_over(tmp_path):
    adapter, base = linear(tmp_path)
    with pytest.raises(UniLoraError, match="is the base itself; give another output"):
        export_onnx_file(base, adapter, tmp_path / "." / "base.onnx")
    beside = shutil.copy(base, tmp_path / "out.expander.onnx")
    with pytest.raises(UniLoraError, match="is the base itself; give another output"):
        export_onnx_file(beside, adapter, tmp_path / "out.onnx", "factored")


@pytest.mark.parametrize("mode", MODES)
def test_data_beside_a_small_base_is_taken_in(tmp_path, mode):
    """The output does not lean on the base's files, in another folder nor in the same one."""
    adapter, base = linear(tmp_path)
    beside = tmp_path / "beside"
    beside.mkdir()
    onnx.save(onnx.load(base), beside / "base.onnx", save_as_external_data=True, location="base.data", size_threshold=0)
    assert (beside / "base.data").stat().st_size == 4 * 48
    report = export_onnx_file(beside / "base.onnx", adapter, beside / "out.onnx", mode)
    assert report["comparison"]["within"]
    (beside / "base.data").unlink()
    parity.session(beside / "out.onnx")


def test_data_of_other_tools_is_left(tmp_path):
    """An output that was there, of another tool, may share its data with other graphs."""
    adapter, base = linear(tmp_path)
    other = tmp_path / "out.onnx"
    onnx.save(onnx.load(base), other, save_as_external_data=True, location="out.onnx.data", size_threshold=0)
    (tmp_path / "out.onnx.data").rename(tmp_path / "out.onnx.weights.data")
    proto = onnx.load(other, load_external_data=False)
    proto.graph.initializer[0].external_data[0].value = "out.onnx.weights.data"
    other.write_bytes(proto.SerializeToString())
    export_onnx_file(base, adapter, other, "input")
    assert (tmp_path / "out.onnx.weights.data").stat().st_size == 4 * 48


def test_files_that_are_no_base(tmp_path):
    adapter, _ = linear(tmp_path)
    (tmp_path / "text.onnx").write_text("hello")
    for name, message in (("away.onnx", "there is no such file"), ("text.onnx", "is no ONNX file")):
        with pytest.raises(UniLoraError, match=message):
            export_onnx_file(tmp_path / name, adapter, tmp_path / "out.onnx")


def start(*arguments, blocked=("torch", "transformers")):
    code = (
        f"import sys, signal; sys.modules.update(dict.fromkeys({blocked!r}));"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from runpy import run_module as run; run('export', run_name='__main__')"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def call(*arguments):
    process = start(*arguments)
    return (process.returncode, *process.communicate()) if process.wait() else (0, *process.communicate())


def test_the_command_needs_no_torch_and_gives_the_same_bytes(bases, tmp_path):
    save_adapter(adapter_for(bert), tmp_path / "vec.safetensors")
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        output = tmp_path / name / "out.onnx"
        arguments = (
            "onnx",
            "--adapter",
            tmp_path / "vec.safetensors",
            "--base",
            bases(bert),
            "--mode",
            "input",
            "-o",
            output,
        )
        code, out, err = call(*arguments)
        assert (code, err) == (0, "")
        files.append(output.read_bytes())
    assert files[0] == files[1]
    for words in (
        "mode input, opset 17", "weights     6 found; values are those on record", "by node name, in × out",
        "from the ONNX base and ΔW", "ran on      generated, 3 × 9, 1 × 5, 5 × 12", "the adapter moves the outputs by",
    ):  # fmt: skip
        assert words in out, out
    code, out, err = call(*arguments, "--json")
    assert code == 0 and json.loads(out)["comparison"]["within"]


def test_the_command_takes_a_map(bases, tmp_path):
    adapter = adapter_for(bert)
    save_adapter(adapter, tmp_path / "vec.safetensors")
    name = "bert.encoder.layer.0.attention.self.query.weight"
    proto = onnx.load(bases(bert))
    node = next(node for node in proto.graph.node if node.name.endswith("layer.0/attention/self/query/MatMul"))
    initializer = node.input[1]
    arguments = (
        "onnx",
        "--adapter",
        tmp_path / "vec.safetensors",
        "--base",
        bases(bert),
        "-o",
        tmp_path / "out.onnx",
        "--json",
    )
    code, out, _ = call(*arguments, "--map", f"{name}={initializer}")
    rows = {row["name"]: row for row in json.loads(out)["weights"]}
    assert code == 0 and rows[name]["how"] == "given" and rows[name]["initializer"] == initializer
    code, out, err = call(*arguments, "--map", f"{name}=nowhere")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "the file has no initializer nowhere" in err


def there(folder, pattern):
    """What matches now; a folder may go while it is looked into."""
    try:
        return [*folder.glob(pattern)]
    except FileNotFoundError:
        return []


@pytest.mark.parametrize("how", [pytest.param(signal.SIGINT, marks=pytest.mark.thorough), signal.SIGKILL])
def test_what_was_stopped_leaves_nothing(tmp_path, how):
    """At several moments, and an output that was there stays what it was."""
    adapter, base = linear(tmp_path)
    save_adapter(adapter, tmp_path / "vec.safetensors")
    arguments = "onnx", "--adapter", tmp_path / "vec.safetensors", "--base", base, "--mode", "input"
    old = tmp_path / "old.onnx"
    old.write_bytes(b"old")
    for output in (tmp_path / "new.onnx", old):
        # While it starts (what Ctrl-C does to Python itself is not ours), when the folder beside is there, and when the
        # graph is in it.
        for moment in ("", "/", "/*.onnx")[how == signal.SIGINT :]:
            process = start(*arguments, "-o", output)
            while moment and not there(tmp_path, f".{output.name}.*.partial{moment}"):
                assert process.poll() is None
                time.sleep(0.002)
            process.send_signal(how)
            _, err = process.communicate()
            assert process.returncode != 0
            if output is old:
                assert old.read_bytes() == b"old"
            else:
                assert not output.exists()
            if how == signal.SIGINT and moment:
                assert err == "error: stopped; nothing was written\n"
                assert not [*tmp_path.glob(".*.partial")]
    if how == signal.SIGKILL:
        assert [*tmp_path.glob(".*.partial")]
        for output in (tmp_path / "new.onnx", old):
            export_onnx_file(base, adapter, output, "input")
        assert not [*tmp_path.glob(".*.partial")]
