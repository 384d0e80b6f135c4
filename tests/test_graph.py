"""export.graph: an adapter in graphs written by hand, each way to use a weight in every mode, against NumPy's own merge."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

import onnx_ir as ir
from adapters import projection_for
from exports import session_of
from onnx import TensorProto, helper, numpy_helper

from export.graph.adapt import Weight, adapt
from export.graph.functions import FUNCTIONS, add_functions
from export.graph.gradients import GRADIENTS
from export.graph.heads import Saved
from export.graph.marks import marks
from export.graph.rebuild import (
    COMPUTED,
    COMPUTING_OPSET,
    LARGEST_COMPUTED,
    GraphTape,
    expansion,
    factor_name,
    index_words,
    lora_name,
    pairs,
)
from export.modes import ANSWERING, PLAIN, Form
from unilora_spec import Adapter, LayerMap, Projection, Segment, UniLoraError
from unilora_spec.program import Program
from unilora_spec.projection import KINDS

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
        (9, 8), rows((0, 1), (7, 2)), [node("Gemm", "x W", "y", transB=1)], lambda W, x: x @ W.T, FLAT
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
        (3, 8, 5), [Segment("W", 5, 8, rank, transposed=True, index=index) for rank, index in ((2, 2), (0, 0))],
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


def adapted(case, adapters, mode, form=PLAIN, opset=18):
    model = graph_of(case, opset)
    adapt(
        model, adapters, [Weight(model.graph.initializers["W"], list(adapters[0].layer_map.placed()))], [], mode, form
    )
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


@pytest.mark.parametrize("mode", ANSWERING)
@pytest.mark.parametrize(
    ("name", "form"), [(name, form) for form in FORMS for name in (CASES if form == "plain" else IN_OTHER_FORMS)]
)
def test_every_use_in_every_mode(name, mode, form):
    case, form, adapters = CASES[name], FORMS[form], two(CASES[name])
    words = None
    if mode == "merged" and case.quantized:
        words = r"W is quantized \(.*would be rounded away"
    if mode == "bank" and not case.beside:
        words = "W is used by .* as each row of the batch has an adapter of its own"
    if mode == "factored" and not all(segment.rank for segment in case.segments):
        return  # there is no A and B to feed, which the call is refused for
    if words:
        with pytest.raises(UniLoraError, match=words):
            adapted(case, adapters, mode, form)
        return
    model = adapted(case, adapters, mode, form)
    assert not (form.inline and model.functions)
    feed, wanted = fed(case, adapters, mode, form)
    for level in (
        (OFF, None) if form == PLAIN and not case.quantized else (OFF,)
    ):  # else products of integers round x as well
        answers = session_of(model.SerializeToString(), level).run(["y"], feed)[0]
        np.testing.assert_allclose(answers, wanted, rtol=0, atol=CLOSE * abs(wanted).max())
    # An adapter that does nothing, or a part of it that does not, is far from close.
    assert abs(case.said(None) - case.said(adapters[0])).max() > 1e-2 * abs(wanted).max()


def test_an_adapter_in_half_precision_is_rounded_once():
    """A and B act in the dtype of the product; W + ΔW is added in float32, and rounded to what W is."""
    case = CASES["a product"]
    adapter = two(case)[0]
    base = graph_of(case)
    W = base.graph.initializers["W"]
    W.const_value = ir.Tensor(case.W.astype(np.float16), name="W")
    for value in (W, base.graph.inputs[0], base.graph.outputs[0]):
        value.dtype = ir.DataType.FLOAT16
    base = ir.to_proto(base)
    wanted = case.said(adapter)
    for mode in ("merged", "reconstruct", "input", "factored"):
        model = ir.from_proto(base)
        weights = [Weight(model.graph.initializers["W"], list(adapter.layer_map.placed()))]
        adapt(model, [adapter], weights, [], mode)
        made = {output for each in model.graph for output in (value.name for value in each.outputs)}
        assert ("W.adapted" in made) == (mode == "reconstruct")
        feed = {"x": case.feed().astype(np.float16)} | (pairs(adapter) if mode == "factored" else {})
        answers = session_of(ir.to_proto(model).SerializeToString(), OFF).run(["y"], feed)[0]
        assert answers.dtype == np.float16
        # Of float16 every number, and so each of a dozen terms, is 2⁻¹¹ off.
        np.testing.assert_allclose(answers.astype(np.float32), wanted, rtol=0, atol=12 * 2**-11 * abs(wanted).max())


HEADS = {
    "Gemm": ((5, 6), [node("Gemm", "h H b", "y", transB=1)]),
    "MatMul and Add": (
        (5, 6),
        [node("Transpose", "H", "t", perm=[1, 0]), node("MatMul", "h t", "k"), node("Add", "k b", "y")],
    ),
    "as transformers' Conv1D holds it": ((6, 5), [node("MatMul", "h H", "k"), node("Add", "b k", "y")]),
}


def heads(form="Gemm"):
    """x·Wᵀ, then a head with H and b, and adapters that were trained with the head."""
    shape, nodes = HEADS[form]
    nodes = [node("Gemm", "x W", "h", transB=1), *nodes]
    case = Case((6, 8), [Segment("W", 6, 8, 2)], nodes, None, FLAT, more={"H": random(*shape), "b": random(5)})
    case.y = lambda W, x: x @ W.T @ (case.more["H"] if shape == (6, 5) else case.more["H"].T) + case.more["b"]
    adapters = two(case)
    for seed, each in enumerate(adapters, 1):
        each.saved = {"H": random(*shape, seed=seed), "b": random(5, seed=seed)}
    return case, adapters


def with_heads(case, adapters, mode, form=PLAIN):
    model = graph_of(case)
    saved = [Saved(model.graph.initializers[name], name) for name in adapters[0].saved]
    weights = [Weight(model.graph.initializers["W"], list(adapters[0].layer_map.placed()))]
    adapt(model, adapters, weights, saved, mode, form)
    return ir.to_proto(model)


@pytest.mark.parametrize("form", HEADS)
@pytest.mark.parametrize("same", ["nothing", "the weight", "the bias"])
def test_rows_of_a_bank_have_heads_where_adapters_differ(same, form):
    case, adapters = heads(form)
    alike = {"the weight": "H", "the bias": "b"}.get(same)
    if alike:
        adapters[1].saved[alike] = adapters[0].saved[alike]
    model = with_heads(case, adapters, "bank")
    own = {value.name for value in model.graph.input} & {"H.bank", "b.bank"}
    assert own == {"H.bank", "b.bank"} - {f"{alike}.bank"}
    numbers = np.array([1, 0, 1])
    answers = []
    for each in adapters:
        case.more |= each.saved
        answers.append(case.said(replace(each, saved={})))
    wanted = np.stack([answers[number][row] for row, number in enumerate(numbers)])
    answers = session_of(model.SerializeToString(), OFF).run(["y"], {"x": case.feed(), "adapter": numbers})[0]
    np.testing.assert_allclose(answers, wanted, rtol=0, atol=CLOSE * abs(wanted).max())


SHARED = {"one text": [4], "one row": [1, 4], "of the text's length": ["sequence"], "a row for each": ["sequence", 4]}
OWN = {"the batch": ["batch", 4], "what is computed": ["batch * 2", 4], "not known": None}


@pytest.mark.parametrize("mode", ["merged", "reconstruct", "input", "factored"])
def test_a_head_is_the_adapters_and_fed_where_the_adapter_is(mode):
    case, (adapter, other) = heads()
    fed = mode in ("input", "factored")
    for form in (PLAIN, FORMS["required"]) if fed else (PLAIN,):
        model = with_heads(case, [adapter], mode, form)
        assert ({"H", "b"} <= {value.name for value in model.graph.input}) == fed
        assert ({"H", "b"} <= {value.name for value in model.graph.initializer}) == (form == PLAIN)
        session = session_of(model.SerializeToString(), OFF)
        for given in (other, adapter) if fed else (adapter,):
            feed = {"x": case.feed()} | (given.saved if fed else {})
            feed |= {"input": {"theta": given.theta}, "factored": pairs(given) if fed else {}}.get(mode, {})
            case.more |= given.saved
            wanted = case.said(replace(given, saved={}))
            np.testing.assert_allclose(session.run(["y"], feed)[0], wanted, rtol=0, atol=CLOSE * abs(wanted).max())


def test_a_quantized_weight_that_is_used_in_another_way_is_refused():
    case = replace(CASES["quantized"], nodes=[FLOATS, node("Sin", "w", "s"), node("MatMul", "x s", "y")])
    for mode in ("reconstruct", "input", "factored"):
        with pytest.raises(
            UniLoraError, match="W is used by Sin s, .* cannot take W's place as W is quantized; give a base"
        ):
            adapted(case, two(case), mode)


def test_a_vector_of_other_floats_is_held_in_float32():
    case = CASES["a product"]
    exact = [replace(each, theta=each.theta.astype(np.float64)) for each in two(case)]
    for mode in ("reconstruct", "input", "bank"):
        assert adapted(case, exact, mode) == adapted(case, two(case), mode)


@pytest.mark.parametrize("shape", [*SHARED, *OWN])
def test_an_input_that_the_rows_of_a_batch_share_is_refused(shape):
    """As positions are, whose first axis is a number, or one of another input; an axis that is computed may be the batch."""
    case = replace(CASES["a lookup"], nodes=[node("Abs", "x", "p"), node("Gather", "W p", "y")])
    model, adapters = graph_of(case), two(case)
    p = model.graph.node(0).outputs[0]
    p.shape = None if shape == "not known" else ir.Shape((SHARED | OWN)[shape])
    weights = [Weight(model.graph.initializers["W"], list(adapters[0].layer_map.placed()))]
    if shape in OWN:
        adapt(model, adapters, weights, [], "bank")
    else:
        with pytest.raises(UniLoraError, match="W is used by Gather y, where the rows of the batch share one input"):
            adapt(model, adapters, weights, [], "bank")


def test_a_head_that_the_rows_of_a_batch_cannot_differ_in_is_refused():
    case, adapters = heads()
    case.nodes[-1] = node("Gemm", "h H b", "y", transB=1, alpha=2.0)
    with pytest.raises(UniLoraError, match="the adapters differ in H, which is used by Gemm y; in the mode bank"):
        with_heads(case, adapters, "bank")
    case.nodes[-1:] = [node("Mul", "b b", "c"), node("Gemm", "h H c", "y", transB=1)]
    with pytest.raises(UniLoraError, match="the adapters differ in b, which is used by Mul c; in the mode bank"):
        with_heads(case, adapters, "bank")


@pytest.mark.parametrize("mode", ANSWERING)
def test_a_name_that_the_mode_needs_is_taken(mode):
    """By an input or by a constant of the base."""
    needs = {
        "reconstruct": "theta",
        "input": "theta",
        "factored": lora_name(Segment("W", 6, 8, 2), "A"),
        "bank": "adapter",
    }
    for place in ("input", "initializer"):
        case = replace(CASES["a product"], more={needs[mode]: np.zeros(1, np.float32)} if mode in needs else {})
        model = graph_of(case)
        if place == "input" and mode in needs:
            model.graph.inputs.append(model.graph.initializers.pop(needs[mode]))
        weights = [Weight(model.graph.initializers["W"], list(adapter_for(case.segments).layer_map.placed()))]
        if mode == "merged":
            adapt(model, two(case), weights, [], mode)
            continue
        with pytest.raises(
            UniLoraError, match=f"the base has a tensor named {needs[mode]} itself, which the mode {mode} needs"
        ):
            adapt(model, two(case), weights, [], mode)


def test_the_inputs_of_a_graph():
    """Their shapes, and which of them have a default."""
    case = CASES["rows of a product"]

    def inputs(mode, form):
        graph = adapted(case, two(case), mode, form).graph
        defaults = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
        shapes = {
            each.name: [d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim] for each in graph.input[1:]
        }
        return shapes, {name: defaults[name] for name in shapes if name in defaults}

    marked = {name: [0] for name in marks(two(case)[0])}
    of_theta = {name: [0] for name in marked if "expands" in name}
    assert inputs("reconstruct", PLAIN) == ({}, {})
    assert inputs("input", PLAIN) == ({"theta": [12]} | of_theta,) * 2
    assert inputs("input", FORMS["required"]) == ({"theta": [12]} | of_theta, of_theta)
    shapes, defaults = inputs("bank", PLAIN)
    assert shapes == {"adapter": ["batch"], "theta": ["adapters", 12]} and defaults == {"theta": [2, 12]}
    assert inputs("bank", FORMS["required"]) == (shapes, {})
    shapes, defaults = inputs("factored", PLAIN)
    names = [lora_name(segment, factor) for segment in case.segments for factor in "AB"]
    assert list(shapes) == [*names, *marked]
    assert [len(shapes[name]) for name in names] == [2] * 4 and len({*shapes[names[0]], *shapes[names[2]]}) == 3
    assert shapes[names[0]][1] == shapes[names[1]][0] == f"rank of {names[0].removesuffix('.lora_A.weight')}"
    assert [defaults[name] for name in names] == [[8, 0], [0, 4], [8, 0], [0, 3]]
    assert inputs("factored", FORMS["required"]) == (shapes, marked)


def test_theta_is_expanded_by_what_is_fastest_for_the_mode():
    """Gather where it is folded, GatherElements where each run brings a vector; docs/onnx.md has the times."""
    case = CASES["a product"]
    calls = {
        mode: {function.name for function in adapted(case, two(case), mode).functions if "Expand" in function.name}
        for mode in ANSWERING
    }
    assert calls == {
        "merged": set(), "reconstruct": {"Expand"}, "input": {"ExpandInput"}, "factored": set(), "bank": {"ExpandRows"}
    }  # fmt: skip
    inline = {
        mode: {each.op_type for each in adapted(case, two(case), mode, FORMS["inline"]).graph.node}
        for mode in ("reconstruct", "input", "bank")
    }
    assert all("GatherElements" not in each and "Gather" in each for each in inline.values())
    assert not any("BitwiseXor" in each or "Mod" in each for each in inline.values()), "the index is stored"


def test_names_of_factors_in_a_graph_and_as_they_are_fed():
    whole, row, expert = (
        Segment("model.q.weight", 4, 8, 2, **place) for place in ({}, {"row": 0}, {"index": 3, "row": 4})
    )
    assert [factor_name(s, "A") for s in (whole, row, expert)] == [
        "model.q.weight.A", "model.q.weight.A.row0", "model.q.weight.A.index3.row4",
    ]  # fmt: skip
    assert [lora_name(s, "B") for s in (whole, row)] == ["model.q.lora_B.weight", "model.q.row0.lora_B.weight"]
    assert lora_name(Segment("h.0.weight", 4, 8, 2), "A") == "base_model.model.h.0.lora_A.weight"


def of_kind(kind, D=64, d=8):
    layer_map = LayerMap([Segment("W", D // 4 - 8, 8, 4)])
    assert layer_map.D == D
    return Adapter(
        Projection(kind, D=D, d=D if kind == "identity" else d, seed=1),
        layer_map,
        random(D if kind == "identity" else d),
    )


def test_where_the_index_comes_from_is_said_with_its_reason():
    assert index_words(of_kind("identity"), COMPUTING_OPSET) == "none needed: theta is theta_D"
    for kind in ("balanced", "uniform"):
        assert index_words(of_kind(kind), COMPUTING_OPSET) == "computed in the graph"
        assert index_words(of_kind(kind, LARGEST_COMPUTED), COMPUTING_OPSET) == "computed in the graph"
        assert "D = 262,148 is above 262,144" in index_words(of_kind(kind, LARGEST_COMPUTED + 4), COMPUTING_OPSET)
        assert "opset 18, the base has 17" in index_words(of_kind(kind), COMPUTING_OPSET - 1)
        assert "integers of 64 bits" in index_words(of_kind(kind), COMPUTING_OPSET, inline=True)


@pytest.mark.parametrize("mode", [mode for mode in ANSWERING if mode != "merged"])
@pytest.mark.parametrize("name", CASES)
def test_what_a_graph_says_of_its_values_is_what_they_are(name, mode):
    """By name, type and shape, for tools that do not look into functions; what depends on no input has a shape."""
    case, adapters = CASES[name], two(CASES[name])
    if (mode == "bank" and not case.beside) or (mode == "factored" and not all(s.rank for s in case.segments)):
        return  # refused
    model = adapted(case, adapters, mode)
    said = {value.name: value.type.tensor_type for value in model.graph.value_info}
    made = [(node.op_type, output) for node in model.graph.node for output in node.output]
    for op_type, output in made:
        if op_type not in ("Split", "Pad", "Scaled") and output.startswith(("unilora.", "W.")):
            assert said[output].HasField("shape"), output
    names = [output for _, output in made if output in said]
    if mode != "factored":
        assert {factor_name(s, each) for s in case.segments for each in ("AB" if s.rank else "M")} <= set(names)
    model.graph.output.extend(onnx.ValueInfoProto(name=output) for output in names)
    values = session_of(model.SerializeToString(), OFF).run(names, fed(case, adapters, mode)[0])
    for output, value in zip(names, values, strict=True):
        assert value.size and value.dtype == helper.tensor_dtype_to_np_dtype(said[output].elem_type), output
        if said[output].HasField("shape"):
            dims = [(dim.dim_value, size) for dim, size in zip(said[output].shape.dim, value.shape, strict=True)]
            assert all(told in (0, size) for told, size in dims), output


@pytest.mark.parametrize("mode", ["reconstruct", "input", "bank"])
@pytest.mark.parametrize("kind", KINDS)
def test_theta_goes_through_a_graph_and_its_gradient_comes_back(kind, mode):
    """To the specification's bits for a gather; a program adds up in an order of its own."""
    p = projection_for(kind)
    adapter = Adapter(p, LayerMap([Segment("W", 1, p.D - 1, 1)]), random(p.d))
    if mode == "bank" and isinstance(p, Program):
        return  # has one vector alone
    rows = "rows" if mode == "bank" else None
    shape = [rows, p.d] if rows else [p.d]
    theta, g = (
        ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(dims))
        for name, dims in (("theta", shape), ("g", [p.D]))
    )
    tape = GraphTape(opset=COMPUTING_OPSET)
    found = expansion(tape, adapter, theta, rows, fed=mode == "input")
    outputs = [tape.add("Identity", found.theta_D, name="theta_D", shape=[rows, p.D] if rows else [p.D])]
    outputs += [] if rows else [tape.add("Identity", found.adjoint(tape, g), name="gradient", shape=[p.d])]
    graph = ir.Graph([theta, g], outputs, nodes=tape.nodes, initializers=tape.initializers, opset_imports={"": 18})
    model = ir.Model(graph, ir_version=10)
    add_functions(model, GRADIENTS | FUNCTIONS)
    if kind in COMPUTED:
        assert {"unilora.index", "unilora.theta_D"} <= {value.name for each in tape.nodes for value in each.outputs}
    held = {value.name for value in tape.initializers}
    assert not {"unilora.index", "unilora.scale"} & held or kind != "balanced", "two numbers are all of its scale"
    vectors, of_theta_D = random(2, p.d), random(p.D)
    fed = {"theta": vectors if rows else vectors[0], "g": of_theta_D}
    got = session_of(ir.to_proto(model).SerializeToString(), OFF).run(None, fed)
    wanted = np.stack([p.expand(vector) for vector in vectors])
    wanted = wanted if rows else wanted[0]
    if not isinstance(p, Program):
        assert got[0].tobytes() == wanted.tobytes()
    np.testing.assert_allclose(got[0], wanted, rtol=0, atol=CLOSE * abs(wanted).max())
    if not rows:
        gradient = p.adjoint(of_theta_D, 0, vectors[0])
        np.testing.assert_allclose(got[1], gradient, rtol=0, atol=4 * CLOSE * abs(gradient).max())
