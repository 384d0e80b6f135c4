"""Adapters on ONNX files that ONNX Runtime's own tools quantized: the quantized bytes stay, and the answers are right."""

import functools
from collections import Counter

import numpy as np
import pytest
from torch import nn

from unilora_spec import Segment, UniLoraError

ir = pytest.importorskip("onnx_ir")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")

from adapters import adapter_of
from onnx import TensorProto, helper
from onnx_bases import LARGEST, MODES, adapter_for, bert, gpt2, llama, pytorch, relative, write
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

from export.onnx import cases, feeds_of
from export.onnx_base.feeds import feeds_for
from export.onnx_base.from_file import export_onnx_file, read
from export.parity import compare as parity
from export.parity import unrounded

PRODUCTS = ["MatMul", "Gemm"]
WAYS = ("dynamic", "dynamic-channel", "dynamic-table", "QDQ", "QDQ-channel", "QOperator", "QOperator-table", "int4",
        "int4-zero", "int4-QDQ", "int4-QDQ-zero", "int4-table")  # fmt: skip
FACTOR = 3
"""How far from the merged float model a quantized one with the adapter may be, in errors of the quantized base: the adapter
moves what is rounded, so that other roundings happen; seen is up to 2.0. A wrong sign or size is off by all that the adapter
moves, which is 10 to 100 errors."""


class Feeds(CalibrationDataReader):
    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


def quantize(base, way, feeds):
    """The file of a base quantized by ONNX Runtime's tool for ``way``."""
    target = base.with_name(f"{base.stem}-{way}.onnx")
    kind, channel, table, zero = way.split("-")[0], "channel" in way, "table" in way, "zero" in way
    operators = [*PRODUCTS, "Gather"] if table else PRODUCTS
    if kind == "dynamic":
        quantize_dynamic(base, target, per_channel=channel, op_types_to_quantize=operators)
    elif kind == "int4":
        config = DefaultWeightOnlyQuantConfig(
            block_size=16, is_symmetric=not zero, quant_format=QuantFormat["QDQ" if "QDQ" in way else "QOperator"],
            op_types_to_quantize=("MatMul", "Gather") if table else ("MatMul",),
        )  # fmt: skip
        quantizer = MatMulNBitsQuantizer(onnx.load(base), algo_config=config)
        quantizer.process()
        quantizer.model.save_model_to_file(str(target))
    else:
        quantize_static(
            base, target, Feeds(feeds), quant_format=QuantFormat[kind], per_channel=channel, op_types_to_quantize=operators
        )  # fmt: skip
    return target


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """bases(build, way): a quantized base's file, the feeds, and its error against the float base."""
    folder = tmp_path_factory.mktemp("quantized")
    plain = functools.cache(lambda build: write(build()[0], folder / f"{build.__name__}.onnx"))

    @functools.cache
    def get(build, way):
        feeds = feeds_for(read(plain(build)))
        path = quantize(plain(build), way, feeds)
        return path, feeds, relative(answers(path, feeds), answers(plain(build), feeds))

    return get


def answers(path, feeds, name="logits"):
    session = parity.session(path)
    return [parity.run(session, feed, [name])[name] for feed in feeds]


def stored(path):
    return {name: value.const_value.tobytes() for name, value in ir.load(path).graph.initializers.items()}


def integers(path):
    kinds = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4)
    return {name for name, value in ir.load(path).graph.initializers.items() if value.dtype in kinds}


def fused(path, folder):
    """How many quantized products of each kind ONNX Runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    parity.session(path, options=options)
    counts = Counter(node.op_type for node in ir.load(folder / "optimized.onnx").graph)
    names = ("MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "QLinearMatMul", "QGemm")
    return {name: counts[name] for name in names if counts[name]}


# Each of what these others have, channels, a table, zero points and operators in their two forms, one of the rest has too.
OTHERS = ("dynamic-channel", "QOperator-table", "int4-QDQ-zero")


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.thorough) if way in OTHERS else way for way in WAYS]
)
def test_bert(bases, tmp_path, way):
    check(bases, bert, way, tmp_path)


@pytest.mark.parametrize("build, way", [(gpt2, "dynamic"), (gpt2, "QOperator"), (llama, "QDQ"), (llama, "int4")])
def test_decoders(bases, tmp_path, build, way):
    check(bases, build, way, tmp_path)


def check(bases, build, way, tmp_path):
    base, feeds, error = bases(build, way)
    static = way[0] == "Q"
    # What static quantization cuts off was measured without an adapter: there it has to be a small one. QGemm takes the
    # head's bias as int32, so that no head can be put in there.
    adapters = [adapter_for(build, seed, size=0.1 if static else 0.5, saved=not static) for seed in range(2)]
    before, quantized = stored(base), integers(base)
    assert quantized
    for mode in MODES[1:] if build is bert and way in ("dynamic", "QDQ", "int4") else ("reconstruct", "bank"):
        used = adapters if mode == "bank" else adapters[:1]
        report = export_onnx_file(base, used, tmp_path / "out.onnx", mode)
        assert report["comparison"]["outputs"]["logits"]["tolerance"] == LARGEST
        assert bool(report["warnings"]) == static
        after = stored(tmp_path / "out.onnx")
        # A head in floats takes the place of a quantized one, with its scale and zero point; all else is what it was.
        heads = {
            row["initializer"].removesuffix("_quantized").removesuffix("_Q4")
            for row in report["weights"]
            if row["name"] in used[0].saved
        }
        assert all(name.startswith(tuple(heads)) for name in quantized - set(after))
        assert quantized & set(after)
        assert all(after[name] == before[name] for name in quantized & set(after))
        expected = [[{"logits": each} for each in pytorch(build, adapter, feeds)] for adapter in used]
        fed = cases(mode, used, feeds, expected)
        got = answers(tmp_path / "out.onnx", [feed for feed, _ in fed])
        assert relative(got, [wanted["logits"] for _, wanted in fed]) <= FACTOR * error, (mode, error)
    with pytest.raises(
        UniLoraError, match="is quantized .* merge into the float model and quantize that, or take --mode rec"
    ):
        export_onnx_file(base, adapters[0], tmp_path / "none.onnx", "merged")
    assert stored(base) == before and not (tmp_path / "none.onnx").exists()


@pytest.mark.parametrize("way", ["dynamic", "dynamic-channel", "QDQ", "QOperator", "int4", "int4-QDQ"])
def test_the_fusions_of_onnx_runtime_apply_as_before(bases, tmp_path, way):
    base, *_ = bases(bert, way)
    adapter = adapter_for(bert, saved=False)
    wanted = fused(base, tmp_path)
    assert sum(wanted.values()) >= 6  # a layer has six products
    for mode in ("reconstruct", "input"):
        export_onnx_file(base, adapter, tmp_path / "out.onnx", mode)
        assert fused(tmp_path / "out.onnx", tmp_path) == wanted, mode


# At one product


def one_layer(folder, op="MatMul"):
    model = nn.Sequential(nn.Linear(32, 16))
    W = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)
    adapter = adapter_of(model, [Segment("0.weight", 16, 32, 4)], "base", d=50)
    adapter.theta *= 10
    node = helper.make_node(op, ["x", "0.weight"], ["y"], name="/0/MatMul")
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])], [onnx.numpy_helper.from_array(W.T.copy(), "0.weight")],
    )  # fmt: skip
    path = folder / "base.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    ((_, delta),) = adapter.delta_weights()
    assert np.abs(delta).max() > 20 * np.abs(W).max()
    return path, adapter, delta


X = np.random.default_rng(1).normal(size=(5, 32)).astype(np.float32)


@pytest.mark.parametrize("way", ["dynamic", "dynamic-channel", "QDQ", "QOperator", "int4", "int4-zero", "int4-QDQ"])
def test_what_is_added_to_a_quantized_product_is_exact(tmp_path, way):
    """ΔW is 20 times W and more, and what the adapter adds is x·ΔWᵀ to the last bits, for x as the product has it."""
    base, adapter, delta = one_layer(tmp_path)
    path = quantize(base, way, [{"x": X}])
    x = rounded(path) if way[0] == "Q" else X
    (plain,) = answers(path, [{"x": X}], "y")
    for mode in MODES[1:]:
        export_onnx_file(path, adapter, tmp_path / "out.onnx", mode)
        feed = {"x": X, "adapter": np.zeros(5, np.int64)} | (feeds_of(adapter) if mode == "factored" else {})
        (got,) = answers(tmp_path / "out.onnx", [feed], "y")
        assert relative([got - plain], [x @ delta.T]) < LARGEST, mode


def rounded(path):
    """X as a product has it behind static quantization, in the range that X has."""
    scale, zero = (stored_array(path, f"x_{name}") for name in ("scale", "zero_point"))
    bounds = np.iinfo(zero.dtype)
    return ((np.clip(np.rint(X / scale) + zero, bounds.min, bounds.max) - zero) * scale).astype(np.float32)


def stored_array(path, name):
    return ir.load(path).graph.initializers[name].const_value.numpy()


@pytest.mark.parametrize("way", ["dynamic", "dynamic-channel", "QDQ", "QOperator", "int4", "int4-QDQ"])
def test_what_is_compared_does_not_round(tmp_path, way):
    """Then a product is linear: what it makes of rows, it makes of them by what it makes of the identity."""
    path = quantize(one_layer(tmp_path)[0], way, [{"x": X}])
    session = unrounded.session(read(path))
    x = 100 * X  # outside of what static quantization has seen
    W, got = (session.run(None, {"x": each})[0] for each in (np.eye(32, dtype=np.float32), x))
    assert relative([got], [x @ W]) < LARGEST
    (plain,) = answers(path, [{"x": x}], "y")
    assert way[:4] == "int4" or relative([plain], [x @ W]) > 1e-3


def test_an_int8_result(tmp_path):
    """Where nothing dequantizes the result, what is added goes in before the rounding, and is cut off by its range."""
    base, adapter, delta = one_layer(tmp_path)
    path = quantize(base, "QOperator", [{"x": X}])
    model = onnx.load(path)
    (last,) = [node for node in model.graph.node if node.output[0] == "y"]
    model.graph.node.remove(last)
    scale, zero = (stored_array(path, name) for name in last.input[1:])
    integer = onnx.helper.np_dtype_to_tensor_dtype(zero.dtype)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(last.input[0], integer, ["batch", 16]))
    onnx.save(model, tmp_path / "integer.onnx")
    (plain,) = answers(tmp_path / "integer.onnx", [{"x": X}], last.input[0])
    export_onnx_file(tmp_path / "integer.onnx", adapter, tmp_path / "out.onnx", "input")
    bounds = np.iinfo(zero.dtype)
    for size in (0.03, 1):  # of θ; A and B both have it
        (got,) = answers(tmp_path / "out.onnx", [{"x": X, "theta": adapter.theta * np.float32(size)}], last.input[0])
        wanted = np.clip(plain + size**2 * rounded(path) @ delta.T / scale, bounds.min, bounds.max)
        assert np.abs(got - wanted).max() <= 1 and got.dtype == zero.dtype
    assert {bounds.min, bounds.max} <= set(got.ravel().tolist())


def test_products_without_another_form_are_refused_by_name(bases, tmp_path):
    """A table whose rows go on as int8."""
    model = onnx.load(bases(bert, "dynamic-table")[0])
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and "word_embeddings" in node.input[0]:
            node.op_type, node.name = "Cast", "cast"
            del node.input[1:]
            node.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    onnx.save(model, tmp_path / "table.onnx")
    with pytest.raises(
        UniLoraError, match="word_embeddings.weight is used by Gather .*, which A and B cannot act beside"
    ):
        export_onnx_file(tmp_path / "table.onnx", adapter_for(bert), tmp_path / "out.onnx", "input", compare=False)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("way", ["dynamic", "QDQ"])
def test_a_head_that_was_trained_is_not_rounded(bases, tmp_path, way):
    """The base holds its head in 8 bits, and may round its result in a range that was measured on it. The adapter's takes its
    place in floats, and nothing of the old one is left."""
    base, feeds, _ = bases(bert, way)
    adapter = adapter_for(bert, size=0.0)
    adapter.saved["classifier.weight"] = np.random.default_rng(3).normal(size=(3, 32)).astype(np.float32) * 100
    export_onnx_file(base, adapter, tmp_path / "out.onnx", "reconstruct")
    graph = ir.load(tmp_path / "out.onnx").graph
    assert not [name for name in graph.initializers if "classifier.weight" in name and "quantized" in name]
    got, wanted = answers(tmp_path / "out.onnx", feeds), pytorch(bert, adapter, feeds)
    assert relative(got, wanted) < 0.1


def test_a_head_in_an_operator_with_its_bias_is_refused(bases, tmp_path):
    with pytest.raises(
        UniLoraError, match="classifier.weight was trained in full, and .* holds it quantized, for QGemm"
    ):
        export_onnx_file(bases(bert, "QOperator")[0], adapter_for(bert), tmp_path / "out.onnx", "input", compare=False)
