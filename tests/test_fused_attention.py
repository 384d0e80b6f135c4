"""Fused attention, whose weights have lost their names."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")
from onnx import TensorProto, helper, numpy_helper
from onnx_bases import adapter_for, bert, pytorch, write
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.transformers import optimizer
from written_nodes import CLOSE, MASKS, attention, fused

from export.onnx import cases
from export.onnx_base.exporter_names import in_attention
from export.onnx_base.feeds import feeds_for
from export.onnx_base.from_file import export_onnx_file, read
from export.parity import compare as parity
from unilora_spec import (
    UniLoraError,
)


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
