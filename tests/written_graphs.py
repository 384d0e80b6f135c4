"""Graphs written by hand, each with another use of a weight, and what they say by NumPy with an adapter merged into it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from export.graph.adapt import Weight, adapt
from export.graph.rebuild import pairs
from export.modes import PLAIN, Form
from unilora_spec import Adapter, LayerMap, Projection, Segment

# Float32 sums of some dozen products in other orders, as a part of the largest entry. What an adapter does is above 1e-2.
CLOSE = 5e-6
OFF = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
FORMS = {"plain": PLAIN, "inline": Form(inline=True), "required": Form(required=True)}


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def eighths(*shape):
    """Numbers that 8 bits hold."""
    return np.round(8 * random(*shape)) / np.float32(8)


def rounded(y):
    """As 8 bits hold a result, in quarters."""
    return np.round(4 * y).clip(-128, 127) / np.float32(4)


@dataclass
class Case:
    """A graph of ``nodes`` that uses a weight W of ``shape`` for y, and y by NumPy, of W and the input.

    ``beside``     whether A and B can act beside the uses
    ``quantized``  whether the graph holds W in eighths, as whole numbers
    """

    shape: tuple[int, ...]
    segments: list[Segment]
    nodes: list
    y: Callable[[np.ndarray, np.ndarray], np.ndarray]
    x: list
    beside: bool = True
    quantized: bool = False
    more: dict = field(default_factory=dict)

    @property
    def W(self):
        return eighths(*self.shape)

    def held(self):
        if self.quantized:
            return {"W": (8 * self.W).astype(np.int8), "step": np.float32(0.125), "zero": np.int8(0)} | self.more
        return {"W": self.W} | self.more

    def feed(self):
        dims = {"batch": 3, "sequence": 4}
        shape = [dims.get(axis, axis) for axis in self.x]
        return eighths(*shape) if 8 in shape else np.arange(12).reshape(shape) % 10

    def said(self, adapter):
        """y with an adapter in W by the specification's own merge, or without one."""
        weights = {"W": self.W}
        if adapter is not None:
            adapter.merge(weights)
        return self.y(weights["W"], self.feed())


def rows(*parts, features=8, **options):
    """Segments of (first row, rows), of rank 1, 2, …"""
    return [Segment("W", count, features, rank, row=row, **options) for rank, (row, count) in enumerate(parts, 1)]


def node(op, inputs, outputs, **options):
    return helper.make_node(op, inputs.split(), outputs.split(), **options)


FLAT, TEXT, IDS = ["batch", 8], ["batch", "sequence", 8], ["batch", "sequence"]
MIXED = rows((7, 4), (3, 2)) + [Segment("W", 2, 8, 0, row=0)]
FLOATS = node("DequantizeLinear", "W step zero", "w")
INTEGERS = [
    node("QuantizeLinear", "x step zero", "q"),
    node("QLinearMatMul", "q step zero W step zero quarter zero", "r"),
]
CASES = {
    "a product": Case((6, 8), [Segment("W", 6, 8, 2)], [node("Gemm", "x W", "y", transB=1)], lambda W, x: x @ W.T, FLAT),
    "a product of one of the others": Case(
        (8, 6), [Segment("W", 6, 8, 2, transposed=True)], [node("MatMul", "x W", "y")], lambda W, x: x @ W, TEXT
    ),
    "rows of a product": Case(
        (12, 8), rows((7, 4), (1, 3)), [node("Transpose", "W", "t", perm=[1, 0]), node("MatMul", "x t", "y")],
        lambda W, x: x @ W.T, TEXT,
    ),
    "rows side by side": Case(
        (8, 9), rows((6, 3), (3, 3), (0, 3), transposed=True), [node("MatMul", "x W", "y")], lambda W, x: x @ W, TEXT
    ),
    "the first row and the last": Case(
        (9, 8), [Segment("W", 2, 8, 2, row=1), *rows((0, 1), (7, 2))], [node("Gemm", "x W", "y", transB=1)], lambda W, x: x @ W.T, FLAT
    ),
    "rows of which some have rank 0": Case(
        (12, 8), MIXED, [node("Gemm", "x W", "y", transB=1)], lambda W, x: x @ W.T, FLAT
    ),
    "rank 0": Case((6, 8), [Segment("W", 6, 8, 0)], [node("Gemm", "x W", "y", transB=1)], lambda W, x: x @ W.T, FLAT),
    "a lookup": Case((10, 6), [Segment("W", 10, 6, 3)], [node("Gather", "W x", "y")], lambda W, x: W[x], IDS),
    "a lookup of rank 0": Case((10, 6), [Segment("W", 10, 6, 0)], [node("Gather", "W x", "y")], lambda W, x: W[x], IDS),
    "rows of a lookup": Case(
        (10, 6), rows((1, 4), (7, 2), features=6), [node("Gather", "W x", "y")], lambda W, x: W[x], IDS, beside=False
    ),
    "some rows of a lookup": Case(
        (10, 6), rows((2, 8), features=6), [node("Gather", "W x", "y")], lambda W, x: W[x], IDS, beside=False
    ),
    "all rows of a lookup": Case(
        (10, 6), rows((0, 10), features=6), [node("Gather", "W x", "y")], lambda W, x: W[x], IDS, beside=False
    ),
    "looked up and multiplied": Case(
        (10, 6), [Segment("W", 10, 6, 3)],
        [node("Gather", "W x", "h"), node("Transpose", "W", "t", perm=[1, 0]), node("MatMul", "h t", "y")],
        lambda W, x: W[x] @ W.T, IDS,
    ),
    "used by several": Case(
        (6, 8), [Segment("W", 6, 8, 2)],
        [node("Gemm", "x W", "h", transB=1), node("Abs", "h", "a"), node("Mul", "a h", "y")],
        lambda W, x: abs(x @ W.T) * (x @ W.T), FLAT,
    ),
    "a product that is scaled": Case(
        (6, 8), rows((4, 2), (0, 3)), [node("Gemm", "x W", "y", transB=1, alpha=2.0)], lambda W, x: 2 * x @ W.T, FLAT,
        beside=False,
    ),
    "a stack": Case(
        (5, 7, 8), [*rows((4, 2), (0, 3), index=3), *rows((3, 4), index=1)],
        [node("Einsum", "x W", "y", equation="bi,eoi->ebo")], lambda W, x: np.einsum("bi,eoi->ebo", x, W), FLAT,
        beside=False,
    ),
    "the ends of a stack, turned": Case(
        (4, 8, 5), [Segment("W", 5, 8, rank, transposed=True, index=index) for rank, index in ((1, 1), (0, 0), (2, 3))],
        [node("Einsum", "x W", "y", equation="bi,eio->ebo")], lambda W, x: np.einsum("bi,eio->ebo", x, W), FLAT,
        beside=False,
    ),
    "a convolution": Case(
        (6, 1, 8), rows((1, 2), (4, 2)), [node("Unsqueeze", "x axis", "u"), node("Conv", "u W", "y")],
        lambda W, x: (x @ W[:, 0].T)[..., None], FLAT, beside=False, more={"axis": np.array([1])},
    ),
    "quantized": Case(
        (8, 6), [Segment("W", 6, 8, 2, transposed=True)], [FLOATS, node("MatMul", "x w", "y")], lambda W, x: x @ W, TEXT,
        quantized=True,
    ),
    "quantized rows of which some have rank 0": Case(
        (12, 8), MIXED, [FLOATS, node("Gemm", "x w", "y", transB=1)], lambda W, x: x @ W.T, FLAT, quantized=True
    ),
    "a product of integers": Case(
        (8, 6), [Segment("W", 6, 8, 2, transposed=True)], [*INTEGERS, node("DequantizeLinear", "r quarter zero", "y")],
        lambda W, x: rounded(x @ eighths(8, 6)) + x @ (W - eighths(8, 6)), TEXT, quantized=True,
        more={"quarter": np.float32(0.25)},
    ),
    "integers that several take": Case(
        (8, 6), [Segment("W", 6, 8, 2, transposed=True)],
        [*INTEGERS, *(node("DequantizeLinear", "r quarter zero", name) for name in "ab"), node("Add", "a b", "y")],
        lambda W, x: 2 * rounded(rounded(x @ eighths(8, 6)) + x @ (W - eighths(8, 6))), TEXT, quantized=True,
        more={"quarter": np.float32(0.25)},
    ),
    "a quantized lookup": Case(
        (10, 6), [Segment("W", 10, 6, 3)], [FLOATS, node("Gather", "w x", "y")], lambda W, x: W[x], IDS, quantized=True
    ),
    "a quantized lookup of rank 0": Case(
        (10, 6), [Segment("W", 10, 6, 0)], [FLOATS, node("Gather", "w x", "y")], lambda W, x: W[x], IDS, quantized=True
    ),
}  # fmt: skip

IN_OTHER_FORMS = ("rows of a product", "a lookup", "a stack", "quantized")


def adapter_for(segments, seed=0, d=12, **options):
    layer_map = LayerMap(segments, **{"alpha": 4} | options)
    return Adapter(Projection(D=layer_map.D, d=d, seed=42), layer_map, random(d, seed=seed))


def graph_of(case, opset=18):
    kind = TensorProto.FLOAT if 8 in case.x else TensorProto.INT64
    shape = [f"y{axis}" for axis in range(case.said(None).ndim)]
    graph = helper.make_graph(
        case.nodes, "g",
        [helper.make_tensor_value_info("x", kind, case.x)], [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in case.held().items()],
    )  # fmt: skip
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))


def in_half_precision(model):
    """The same graph of float16."""
    graph = model.graph
    for value in (*graph.initializers.values(), *graph.inputs, *graph.outputs):
        if value.const_value is not None:
            value.const_value = ir.Tensor(value.const_value.numpy().astype(np.float16))
        value.dtype = ir.DataType.FLOAT16
    return model


def weights_of(model, adapter):
    return [Weight(model.graph.initializers["W"], list(adapter.layer_map.placed()))]


def adapted(case, adapters, mode, form=PLAIN, opset=18):
    model = graph_of(case, opset)
    adapt(model, adapters, weights_of(model, adapters[0]), [], mode, form)
    model = ir.to_proto(model)
    onnx.checker.check_model(model)
    return model


def fed(case, adapters, mode, form=PLAIN):
    """What a run brings, and what it has to answer."""
    more, answers = {}, [case.said(adapter) for adapter in adapters]
    if mode == "input" and form.required:
        more = {"theta": adapters[0].theta}
    if mode == "factored":
        more = pairs(adapters[0])
    if mode == "bank":
        more = {"adapter": np.array([1, 0, 1])}
        if form.required:
            more["theta"] = np.stack([each.theta for each in adapters])
    wanted = np.stack([answers[k][row] for row, k in enumerate(more["adapter"])]) if mode == "bank" else answers[0]
    return {"x": case.feed()} | more, wanted


def two(case):
    return [adapter_for(case.segments, seed) for seed in (1, 2)]


def check_what_is_said(model, base, feed, without=("Split", "Pad", "Scaled")):
    """That what is put into a graph has names that cannot be the base's, and what is said of a value, for tools that do not look into
    functions, is what it is: its type, and the shape of what depends on no input, but for the results of the operators ``without``."""
    before = {*base.graph.initializers, *(value.name for each in base.graph for value in each.outputs)}
    said = {value.name: value.type.tensor_type for value in model.graph.value_info}
    made = {output: each.op_type for each in model.graph.node for output in each.output}
    for name in {*made, *(each.name for each in model.graph.initializer)} - before - {"theta"}:
        first, *rest = name.split(".")
        assert rest and first in before | {"unilora", "base_model"}, name
        assert name in said or name not in made, name
        if first in ("unilora", "W") and made.get(name, without[0]) not in without:
            assert said[name].HasField("shape"), name
    names = [name for name in made if name in said]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = OFF
    values = onnxruntime.InferenceSession(model.SerializeToString(), options).run(names, feed)
    for name, value in zip(names, values, strict=True):
        assert value.size and value.dtype == helper.tensor_dtype_to_np_dtype(said[name].elem_type), name
        if said[name].HasField("shape"):
            dims = [(dim.dim_value, size) for dim, size in zip(said[name].shape.dim, value.shape, strict=True)]
            assert all(told in (0, size) for told, size in dims), name
