"""export.graph.sites: which uses of a weight are products and lookups, of what, and where their results are."""

import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper
from written_graphs import node

from export.graph.sites import uses

FLOAT, HALF, INT8, UINT8, INT4, UINT4 = (
    getattr(TensorProto, name) for name in ("FLOAT", "FLOAT16", "INT8", "UINT8", "INT4", "UINT4")
)


def seen(nodes, shape=(8, 6), dtype=FLOAT, outputs="y"):
    """The uses of W as words: form, x and result, shape as (out, in), whether W holds (in, out), dtype."""
    held = {"W": (dtype, shape), "s": (FLOAT, ()), "half": (HALF, ()), "z": (INT8, ())}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(name, FLOAT, None) for name in ("x", "a", "az", "ids")],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs.split()],
        [helper.make_tensor(name, kind, dims, np.zeros(dims).ravel().tolist()) for name, (kind, dims) in held.items()],
    )  # fmt: skip
    W = ir.from_proto(helper.make_model(graph)).graph.initializers["W"]
    return " and ".join(map(words, uses(W)))


def words(use):
    if use.form == "other":
        assert (use.x, use.result, use.shape, use.transposed) == ((), (), (), False)
        return f"other: {use.node.op_type}, {use.dtype.name}" + ", quantized" * use.quantized
    x, result = (" ".join(value.name for value in values) for values in (use.x, use.result))
    turned = " turned" if use.transposed else ""
    return f"{use.form}: {x} -> {result}, {use.shape}{turned}, {use.dtype.name}" + ", quantized" * use.quantized


def ms(op, inputs, outputs, **options):
    return node(op, inputs, outputs, domain="com.microsoft", **options)


def behind(first, *more):
    """A node that gives r, and what quantizes it and gives it back."""
    return [first, node("QuantizeLinear", "r s z", "q"), node("DequantizeLinear", "q s z", "y"), *more]


TURNED = node("Transpose", "W", "t", perm=[1, 0])
PRODUCTS = {
    "MatMul": ([node("MatMul", "x W", "y")], "product: x -> y, (6, 8) turned, FLOAT"),
    "MatMul from the left": ([node("MatMul", "W x", "y")], "other: MatMul, FLOAT"),
    "Gemm": ([node("Gemm", "x W", "y")], "product: x -> y, (6, 8) turned, FLOAT"),
    "Gemm, its own alpha": ([node("Gemm", "x W", "y", alpha=1.0)], "product: x -> y, (6, 8) turned, FLOAT"),
    "Gemm, transB": ([node("Gemm", "x W", "y", transB=1)], "product: x -> y, (8, 6), FLOAT"),
    "Gemm, transA": ([node("Gemm", "x W", "y", transA=1)], "other: Gemm, FLOAT"),
    "Gemm, alpha": ([node("Gemm", "x W", "y", alpha=2.0)], "other: Gemm, FLOAT"),
    "Gemm, the sum": ([node("Gemm", "x a W", "y")], "other: Gemm, FLOAT"),
    "FusedMatMul": ([ms("FusedMatMul", "x W", "y")], "product: x -> y, (6, 8) turned, FLOAT"),
    "FusedMatMul, transB": ([ms("FusedMatMul", "x W", "y", transB=1)], "product: x -> y, (8, 6), FLOAT"),
    "FusedMatMul, left": ([ms("FusedMatMul", "W x", "y")], "other: FusedMatMul, FLOAT"),
    "FusedMatMul, alpha": ([ms("FusedMatMul", "x W", "y", alpha=0.5)], "other: FusedMatMul, FLOAT"),
    **{
        f"FusedMatMul, {flag}": ([ms("FusedMatMul", "x W", "y", **{flag: 1})], "other: FusedMatMul, FLOAT")
        for flag in ("transA", "transBatchA", "transBatchB")
    },
    "of another domain": ([node("MatMul", "x W", "y", domain="other")], "other: MatMul, FLOAT"),
    "of another kind": ([node("Sin", "W", "y")], "other: Sin, FLOAT"),
    "several": (
        [node("Sin", "W", "b"), node("Gather", "W ids", "h"), TURNED, node("MatMul", "h t", "y")],
        "other: Sin, FLOAT and lookup: ids -> h, (8, 6), FLOAT and product: h -> y, (8, 6), FLOAT",
    ),
    "turned": ([TURNED, node("MatMul", "x t", "y")], "product: x -> y, (8, 6), FLOAT"),
    "turned twice": (
        [TURNED, node("Transpose", "t", "u", perm=[1, 0]), node("MatMul", "x u", "y")],
        "product: x -> y, (6, 8) turned, FLOAT",
    ),
    "a lookup turned": ([TURNED, node("Gather", "t ids", "y")], "lookup: ids -> y, (6, 8) turned, FLOAT"),
    "as it is": ([node("Identity", "W", "w"), node("MatMul", "x w", "y")], "product: x -> y, (6, 8) turned, FLOAT"),
    "of another dtype": (
        [node("Cast", "W", "w", to=HALF), node("MatMul", "x w", "y")],
        "product: x -> y, (6, 8) turned, FLOAT16",
    ),
    "Gather": ([node("Gather", "W ids", "y", axis=0)], "lookup: ids -> y, (8, 6), FLOAT"),
    "Gather, columns": ([node("Gather", "W ids", "y", axis=1)], "other: Gather, FLOAT"),
    "Gather, the ids": ([node("Gather", "x W", "y")], "other: Gather, FLOAT"),
    "a result that is quantized": (behind(node("MatMul", "x W", "r")), "product: x -> y, (6, 8) turned, FLOAT"),
    "a row that is quantized": (behind(node("Gather", "W ids", "r")), "lookup: ids -> y, (8, 6), FLOAT"),
    "a result that is quantized for several": (
        behind(node("MatMul", "x W", "r"), node("Identity", "r", "b")),
        "product: x -> r, (6, 8) turned, FLOAT",
    ),
    "a result that stays quantized": (
        [node("MatMul", "x W", "r"), node("QuantizeLinear", "r s z", "y")],
        "product: x -> r, (6, 8) turned, FLOAT",
    ),
}


@pytest.mark.parametrize(("nodes", "expected"), PRODUCTS.values(), ids=PRODUCTS)
def test_a_use_of_floats(nodes, expected):
    assert seen(nodes) == expected


def test_a_result_that_the_graph_gives_is_not_left_behind():
    nodes = behind(node("MatMul", "x W", "r"))
    assert seen(nodes, outputs="y r") == seen(nodes, outputs="y q") == "product: x -> r, (6, 8) turned, FLOAT"


@pytest.mark.parametrize(
    "made",
    [
        node("MatMul", "x W", "y"), ms("FusedMatMul", "x W", "y"), node("Gather", "W ids", "y"),
        node("Transpose", "W", "y", perm=[2, 1, 0]), ms("GatherBlockQuantized", "W ids s", "y"),
    ],
    ids=lambda made: made.op_type,
)  # fmt: skip
def test_a_stack_is_no_matrix(made):
    assert seen([made], (4, 8, 6)) == f"other: {made.op_type}, FLOAT"
    assert seen([made], (4, 8, 6), INT4) == f"other: {made.op_type}, INT4, quantized"


DYNAMIC = node("DynamicQuantizeLinear", "x", "q qs qz")
INTEGER = node("MatMulInteger", "q W qz z", "i")
CAST, SCALES, SCALED = node("Cast", "i", "f", to=FLOAT), node("Mul", "qs s", "m"), node("Mul", "f m", "y")
GIVEN = node("MatMulInteger", "a W az z", "i")
OF_INTEGERS = "product: x -> y, (6, 8) turned, FLOAT, quantized"
IN_EIGHT_BITS = {
    "DequantizeLinear": (
        [node("DequantizeLinear", "W s z", "w"), node("MatMul", "x w", "y")],
        OF_INTEGERS,
    ),
    "DequantizeLinear, half": (
        [node("DequantizeLinear", "W half", "w"), node("Sin", "w", "y")],
        "other: Sin, FLOAT16, quantized",
    ),
    "a zero point": ([node("DequantizeLinear", "x s W", "y")], "other: DequantizeLinear, INT8, quantized"),
    "Cast": ([node("Cast", "W", "w", to=FLOAT), node("MatMul", "x w", "y")], "other: Cast, INT8, quantized"),
    "MatMulInteger": ([DYNAMIC, INTEGER, CAST, SCALES, SCALED], OF_INTEGERS),
    "MatMulInteger, scales first": ([DYNAMIC, INTEGER, CAST, SCALES, node("Mul", "m f", "y")], OF_INTEGERS),
    "MatMulInteger, one scale": (
        [DYNAMIC, INTEGER, CAST, node("Mul", "f s", "y")],
        OF_INTEGERS,
    ),
    "MatMulInteger of what was quantized": (
        [GIVEN, CAST, node("Mul", "half s", "m"), SCALED],
        "product: a half az -> y, (6, 8) turned, FLOAT, quantized",
    ),
    "MatMulInteger, one zero point": (
        [node("MatMulInteger", "a W az", "i"), CAST, node("Mul", "half s", "m"), SCALED],
        "product: a half az -> y, (6, 8) turned, FLOAT, quantized",
    ),
    "MatMulInteger of what another has made": (
        [node("Abs", "a", "q"), node("MatMulInteger", "q W az z", "i"), CAST, node("Mul", "half s", "m"), SCALED],
        "product: q half az -> y, (6, 8) turned, FLOAT, quantized",
    ),
    "MatMulInteger without a zero point": (
        [node("MatMulInteger", "a W", "i"), CAST, node("Mul", "half s", "m"), SCALED],
        "other: MatMulInteger, INT8, quantized",
    ),
    "MatMulInteger, a scale of one": ([GIVEN, CAST, node("Mul", "f s", "y")], "other: MatMulInteger, INT8, quantized"),
    "MatMulInteger, scales added": (
        [GIVEN, CAST, node("Add", "half s", "m"), SCALED],
        "other: MatMulInteger, INT8, quantized",
    ),
    "MatMulInteger, left": (
        [node("MatMulInteger", "W q z qz", "i"), DYNAMIC, CAST, SCALES, SCALED],
        "other: MatMulInteger, INT8, quantized",
    ),
    "MatMulInteger, not scaled": ([DYNAMIC, INTEGER, CAST], "other: MatMulInteger, INT8, quantized"),
    "MatMulInteger, not cast": (
        [DYNAMIC, INTEGER, SCALES, node("Mul", "i m", "y")],
        "other: MatMulInteger, INT8, quantized",
    ),
    "MatMulIntegerToFloat": ([DYNAMIC, ms("MatMulIntegerToFloat", "q W qs s qz z", "y")], OF_INTEGERS),
    "MatMulIntegerToFloat of what was quantized": (
        [ms("MatMulIntegerToFloat", "a W half s az z", "y")],
        "product: a half az -> y, (6, 8) turned, FLOAT16, quantized",
    ),
    "MatMulIntegerToFloat of what another has made": (
        [node("Abs", "a", "q"), ms("MatMulIntegerToFloat", "q W s s", "y")],
        "product: q s -> y, (6, 8) turned, FLOAT, quantized",
    ),
    "MatMulIntegerToFloat, no zero point": (
        [helper.make_node("MatMulIntegerToFloat", ["a", "W", "s", "s", "", "z"], ["y"], domain="com.microsoft")],
        "product: a s -> y, (6, 8) turned, FLOAT, quantized",
    ),
    "MatMulIntegerToFloat, left": (
        [ms("MatMulIntegerToFloat", "W a s s", "y")],
        "other: MatMulIntegerToFloat, INT8, quantized",
    ),
    "DynamicQuantizeMatMul": (
        [ms("DynamicQuantizeMatMul", "x W half", "y")],
        "product: x -> y, (6, 8) turned, FLOAT16, quantized",
    ),
    "DynamicQuantizeMatMul, a scale of no dtype": (
        [node("Abs", "s", "made"), ms("DynamicQuantizeMatMul", "x W made", "y")],
        OF_INTEGERS,
    ),
    "DynamicQuantizeMatMul, left": (
        [ms("DynamicQuantizeMatMul", "W x s", "y")],
        "other: DynamicQuantizeMatMul, INT8, quantized",
    ),
    "QLinearMatMul": (
        [node("QLinearMatMul", "a half az W s z qs qz", "y")],
        "product: a half az -> y qs qz, (6, 8) turned, FLOAT16, quantized",
    ),
    "QLinearMatMul, floats again": (
        [node("QLinearMatMul", "a s az W s z qs qz", "r"), node("DequantizeLinear", "r s z", "y")],
        "product: a s az -> y, (6, 8) turned, FLOAT, quantized",
    ),
    "QLinearMatMul, left": (
        [node("QLinearMatMul", "W s z a s az qs qz", "y")],
        "other: QLinearMatMul, INT8, quantized",
    ),
    "QGemm": (
        [ms("QGemm", "a half az W s z", "y")],
        "product: a half az -> y, (6, 8) turned, FLOAT16, quantized",
    ),
    "QGemm, transB": (
        [ms("QGemm", "a s az W s z", "y", transB=1)],
        "product: a s az -> y, (8, 6), FLOAT, quantized",
    ),
    "QGemm, quantized": (
        [ms("QGemm", "a s az W s z x qs qz", "y", alpha=1.0)],
        "product: a s az -> y qs qz, (6, 8) turned, FLOAT, quantized",
    ),
    "QGemm, not quantized": (
        [helper.make_node("QGemm", ["a", "s", "az", "W", "s", "z", "x", "", "z"], ["y"], domain="com.microsoft")],
        "product: a s az -> y, (6, 8) turned, FLOAT, quantized",
    ),
    "QGemm, floats again": (
        [ms("QGemm", "a s az W s z x qs qz", "r"), node("DequantizeLinear", "r s z", "y")],
        "product: a s az -> y, (6, 8) turned, FLOAT, quantized",
    ),
    "QGemm, left": ([ms("QGemm", "W s z a s az", "y")], "other: QGemm, INT8, quantized"),
    "QGemm, transA": ([ms("QGemm", "a s az W s z", "y", transA=1)], "other: QGemm, INT8, quantized"),
    "QGemm, alpha": ([ms("QGemm", "a s az W s z", "y", alpha=2.0)], "other: QGemm, INT8, quantized"),
    "Gather": (
        [node("Gather", "W ids", "r"), node("DequantizeLinear", "r half z", "y")],
        "lookup: ids -> y, (8, 6), FLOAT16, quantized",
    ),
    "Gather, quantized again": (
        [node("Gather", "W ids", "g"), node("DequantizeLinear", "g s z", "r"), *behind(node("Abs", "a", "b"))[1:]],
        "lookup: ids -> y, (8, 6), FLOAT, quantized",
    ),
    "Gather, rows that stay": ([node("Gather", "W ids", "y")], "other: Gather, INT8, quantized"),
}


@pytest.mark.parametrize(("nodes", "expected"), IN_EIGHT_BITS.values(), ids=IN_EIGHT_BITS)
def test_a_use_of_eight_bits(nodes, expected):
    assert seen(nodes, dtype=INT8) == expected


@pytest.mark.parametrize("op", ["MatMulNBits", "MatMulBnb4"])
def test_a_use_of_packed_bits(op):
    """The node says the shape, as bytes hold several numbers."""
    made = ms(op, "x W half", "y", N=16, K=32)
    assert seen([made], (24,), UINT8) == "product: x -> y, (16, 32), FLOAT16, quantized"
    assert seen([ms(op, "x a W", "y", N=16, K=32)], (24,), UINT8) == f"other: {op}, UINT8, quantized"


def test_a_lookup_of_four_bits():
    op, made = "GatherBlockQuantized", ms("GatherBlockQuantized", "W ids half", "y", gather_axis=0)
    for dtype, name in ((INT4, "INT4"), (UINT4, "UINT4")):
        assert seen([made], dtype=dtype) == "lookup: ids -> y, (8, 6), FLOAT16, quantized"
        turned = ms(op, "W ids s", "y", gather_axis=1)
        assert seen([turned], dtype=dtype) == f"other: {op}, {name}, quantized"
        assert seen([ms(op, "x ids W", "y")], dtype=dtype) == f"other: {op}, {name}, quantized"
    assert seen([ms(op, "W ids s", "y")], dtype=INT4) == "lookup: ids -> y, (8, 6), FLOAT, quantized"
    assert seen([made], dtype=UINT8) == f"other: {op}, UINT8, quantized", "a byte may hold two"
