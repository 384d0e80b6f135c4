"""Heads, other floats and feeds of ONNX files that others have exported."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from unilora_spec import (
    BaseMismatch,
    LayerMap,
    Segment,
    UniLoraError,
)

ir = pytest.importorskip("onnx_ir")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")
from adapters import adapter_of, merged
from linear_graphs import X, against_pytorch, answers, bases, delta_of, graph_of, linear, one_layer, weight  # noqa: F401  fixtures
from onnx import TensorProto, helper
from onnx_bases import LARGEST, MODES, adapter_for, bert, llama, relative

import export.onnx
from export.onnx import cases
from export.onnx_base.feeds import feeds_for
from export.onnx_base.from_file import export_onnx_file, read
from export.parity import compare as parity

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
