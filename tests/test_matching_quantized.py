"""export/matching in files whose weights are rounded to float16, int8 or int4: there names alone tell."""

import numpy as np
import pytest
import torch
from torch import nn

from unilora_spec import BaseMismatch, Segment

ir = pytest.importorskip("onnx_ir")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")

from matching_files import (  # noqa: F401  one is a fixture
    GPT2,
    bert,
    chain,
    export,
    exported,
    folders,
    gpt2,
    half,
    hows,
    make_adapter,
    new_bert,
    opened,
    parameters,
)
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

from export.onnx_base.matching import match, not_comparable, table, values


class Sentences(CalibrationDataReader):
    def __init__(self):
        ids = np.arange(12).reshape(2, 6)
        self.batches = iter([{"input_ids": ids, "attention_mask": np.ones_like(ids)}] * 2)

    def get_next(self):
        return next(self.batches, None)


def quantized(path, way):
    target = path.with_name(f"{path.stem}-{way}.onnx")
    if way == "dynamic":
        quantize_dynamic(path, target)
    elif way in ("QDQ", "QOperator"):
        quantize_static(path, target, Sentences(), quant_format=QuantFormat[way])
    else:
        options = {"block_size": 16, "is_symmetric": way != "int4-zero", "op_types_to_quantize": ("MatMul",)}
        options["quant_format"] = QuantFormat.QDQ if way == "int4-QDQ" else QuantFormat.QOperator
        quantizer = MatMulNBitsQuantizer(onnx.load(path), algo_config=DefaultWeightOnlyQuantConfig(**options))
        quantizer.process()
        quantizer.model.save_model_to_file(str(target))
    return target


def dequantized(graph, value):
    """The values, by the names that the quantizers give to scales and zero points."""
    stored = {name: other.const_value.numpy() for name, other in graph.graph.initializers.items()}
    q, name = stored[value.name], value.name
    if name.endswith("_quantized"):
        name = name.removesuffix("_quantized")
        return (q.astype(np.float32) - stored[f"{name}_zero_point"].astype(np.float32)) * stored[f"{name}_scale"]
    if name.endswith("_DQ_Q4"):
        return q.astype(np.float32) * np.repeat(stored[f"{name.removesuffix('_Q4')}_scales"], 16, axis=0)
    if name.endswith("_Q4"):
        name = name.removesuffix("_Q4")
        q = np.stack([q & 15, q >> 4], -1).reshape(*q.shape[:2], -1).astype(np.float32)
        zero = stored.get(f"{name}_zero_points", np.full((len(q), q.shape[1] // 2), 0x88, np.uint8))
        zero = np.stack([zero & 15, zero >> 4], -1).reshape(len(q), -1)[:, : q.shape[1]]
        return ((q - zero[..., None]) * stored[f"{name}_scales"][..., None]).reshape(len(q), -1)
    return q


def check_quantized(model, graph, found):
    for each in found:
        stored = dequantized(graph, each.value)
        W = parameters(model)[each.name]
        turned = W.ndim == 2 and W.shape == (32, 32) and "c_proj" in each.name  # Conv1D's: the model has (in, out)
        stored = stored.T if each.transposed else stored
        assert np.abs((stored.T if turned else stored) - W).max() < np.abs(W).max() / 6, each


def test_float16():
    model, segments = bert()
    adapter = make_adapter(model, segments)
    found, same = match(half(opened(exported(bert, False))), adapter)
    assert same is None and not_comparable(found, adapter) == f"{found[0].value.name} is rounded to float16"
    assert table(found)[0]["stored"] == "in × out, float16"
    for each in found:
        stored = values(each, adapter.layer_map.by_weight()[each.name][0])
        assert np.allclose(stored, parameters(model)[each.name], atol=1e-3)


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("way", ["dynamic", "QDQ", "QOperator", "int4", "int4-zero", "int4-QDQ"])
def test_quantized(way, dynamo):
    model, segments = bert()
    adapter = make_adapter(model, segments, ["classifier.weight", "bert.pooler.dense.weight"])
    graph = opened(quantized(exported(bert, dynamo), way))
    found, same = match(graph, adapter)
    assert [each.name for each in found] == [*dict.fromkeys(s.name for s in segments), *adapter.saved]
    assert same is None and "is quantized, " in not_comparable(found, adapter)
    assert {row["stored"] for row in table(found)[:-2]} == {
        "int4" if way == "int4-QDQ" else "uint8" if "4" in way else "int8"
    }
    check_quantized(model, graph, found)


@pytest.mark.parametrize("way", ["dynamic", "int4", "int4-zero", "int4-QDQ"])
def test_quantized_copies_of_tied_embeddings(way):
    model, _ = gpt2()
    segments = [Segment("transformer.wte.weight", 50, 32, 2)]
    segments += [Segment(f"{GPT2}.{i}.attn.c_proj.weight", 32, 32, 2, transposed=True) for i in (0, 1)]
    adapter = make_adapter(model, segments)
    graph = opened(quantized(exported(gpt2, True), way))
    found, same = match(graph, adapter)
    assert [each.how for each in found][1] == "copy" and len(found) == 4
    if way != "dynamic":  # it has quantized the copy alone
        assert same is True and not_comparable(found, adapter) is None
    check_quantized(model, graph, found)


def test_a_bias_that_was_kept_once_tells_where_products_are_quantized():
    """The Add behind a product still has the module that torch's exporter gave it, and so its bias its name."""
    model, segments = new_bert()
    graph = opened(quantized(exported(new_bert, True), "dynamic"))
    found, _ = match(graph, make_adapter(model, segments))
    assert set(hows(found).values()) == {"bias name"}
    check_quantized(model, graph, found)


def test_square_parameters_trained_in_full_are_not_turned():
    """Of a square one only the names tell: quantize_dynamic turns an nn.Linear's and leaves a Conv1D's."""
    for build, name, segments in (
        (bert, "bert.pooler.dense.weight", bert()[1]),
        (gpt2, f"{GPT2}.0.attn.c_proj.weight", [Segment("transformer.wte.weight", 50, 32, 2)]),
    ):
        model, _ = build()
        adapter = make_adapter(model, segments, [name])
        graph = opened(quantized(exported(build, False), "dynamic"))
        (found,) = (each for each in match(graph, adapter)[0] if each.name == name)
        stored = dequantized(graph, found.value)
        assert np.allclose(stored.T if found.transposed else stored, parameters(model)[name], atol=0.02)


def test_quantized_without_names_is_refused(tmp_path):
    """Without a bias, torch's newer exporter leaves a product no name of its module's that the quantizer would keep."""
    model = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Tanh(), nn.Linear(16, 16, bias=False)).eval()
    path = export(model, tmp_path / "m.onnx", True, {"input": torch.zeros(2, 3, 16)})
    adapter = make_adapter(model, [Segment("2.weight", 16, 16, 2)])
    with pytest.raises(BaseMismatch, match=r"2\.weight .* what is quantized; of its shape are val_\d+_quantized, "):
        match(opened(quantized(path, "dynamic")), adapter)


def test_equal_quantized_weights_are_not_copies(tmp_path):
    """Only one that is looked up and one that is multiplied by can be."""
    W = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    ir.save(chain([W, W.copy()], "/part{}/MatMul"), tmp_path / "m.onnx")
    model = nn.Sequential(nn.Linear(16, 16))
    adapter = make_adapter(model, [Segment("0.weight", 16, 16, 2)], recorded=False)
    found, _ = match(
        opened(quantized(tmp_path / "m.onnx", "dynamic")), adapter, {"0.weight": "onnx::MatMul_0_quantized"}
    )
    assert len(found) == 1
