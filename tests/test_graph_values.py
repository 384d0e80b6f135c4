"""export.graph: the inputs of a graph, the names, types and shapes of what is in it, and θ_D with its gradient."""

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx_ir as ir
from adapters import projection_for
from exports import session_of
from written_graphs import CASES, CLOSE, FORMS, OFF, adapted, check_what_is_said, fed, graph_of, random, two

from export.graph.functions import FUNCTIONS, add_functions
from export.graph.gradients import GRADIENTS
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
    two_scales,
)
from export.modes import ANSWERING, PLAIN
from unilora_spec import Adapter, LayerMap, Projection, Segment
from unilora_spec.program import Program
from unilora_spec.projection import KINDS


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
    assert "theta" in {tensor.name for tensor in adapted(case, two(case), "reconstruct").graph.initializer}
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


def test_rows_of_a_batch_are_made_of_an_input_that_has_other_axes_alone():
    for name, axes in (("a product of one of the others", 3), ("a product", 2)):
        case = CASES[name]
        assert len(case.x) == axes
        calls = {function.name for function in adapted(case, two(case), "bank").functions}
        assert {"Rows", "Unrows"} & calls == ({"Rows", "Unrows"} if axes == 2 else set())


def test_a_balanced_scale_is_two_numbers():
    """Where one column, some, all but one or none have a row more than the others."""
    for d in (7, 10, 13, 8):
        p = of_kind("balanced", 64, d).projection
        two = two_scales(p)
        found = np.where(np.arange(d) < two["longer"], two["scale_longer"], two["scale"])
        assert found.astype(np.float32).tobytes() == p.scale().tobytes()


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
    def stored(reason):
        return f"stored, 4 bytes an entry: {reason}"

    def of_file(kind):
        p = projection_for(kind)
        return Adapter(p, LayerMap([Segment("W", 1, p.D - 1, 1)]), random(p.d))

    assert index_words(of_kind("identity"), COMPUTING_OPSET) == "none needed: theta is theta_D"
    for kind in COMPUTED:
        assert index_words(of_kind(kind), COMPUTING_OPSET) == "computed in the graph"
        assert index_words(of_kind(kind, LARGEST_COMPUTED), COMPUTING_OPSET) == "computed in the graph"
        assert index_words(of_kind(kind, LARGEST_COMPUTED + 4), COMPUTING_OPSET) == stored(
            "D = 262,148 is above 262,144, from where computing it would slow down loading"
        )
        assert index_words(of_kind(kind), COMPUTING_OPSET - 1) == stored(
            "computing it needs operators of opset 18, the base has 17"
        )
        assert index_words(of_kind(kind), COMPUTING_OPSET, inline=True) == stored(
            "computing it needs integers of 64 bits, which not every runtime has"
        )
    assert index_words(of_file("table"), COMPUTING_OPSET) == stored("the kind table has no other")
    assert index_words(of_file("vb"), COMPUTING_OPSET) == (
        "none: theta_D of kind vb is a program of theta and of frozen numbers, which are stored"
    )


def expanded(kind, inline):
    """How θ_D of 228 entries is made: P, the shapes of the steps by their names, and what is held for them."""
    adapter = of_kind(kind, 228)
    tape = GraphTape(opset=COMPUTING_OPSET, inline=inline)
    theta = ir.Value(name="theta", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([8]))
    expansion(tape, adapter, theta, fed=False)
    held = {value.name: value.const_value.numpy() for value in tape.initializers}
    return adapter.projection, {value.name: value.shape for node in tape.nodes for value in node.outputs}, held


def test_what_a_file_holds_of_an_index():
    """The numbers that it is computed from, by SPEC.md's names, and the 64 entries that are known; or the index, 4 bytes an entry."""
    p, steps, held = expanded("balanced", inline=False)
    # So many entries are not yet below 228 after each pass.
    walks = {"unilora.outside1": [21], "unilora.outside2": [5], "unilora.outside3": [1]}
    numbers = {"unilora.D": 228, "unilora.d": 8, "unilora.known": p.index(0, 64)}
    np.testing.assert_equal(held, numbers | walks | {"unilora.a": 16, "unilora.keys": p.permutation.keys})
    assert {"unilora.pass", *(f"unilora.walk{i}" for i in (1, 2, 3)), "unilora.scale"} <= set(steps)
    p, of_uniform, held = expanded("uniform", inline=False)
    numbers["unilora.known"] = p.index(0, 64)
    np.testing.assert_equal(held, numbers | {"unilora.keys": p.keys[6:8], "unilora.scale": p.scale()})
    for name in ("unilora.i", "unilora.index", "unilora.theta_D"):
        assert steps[name] == of_uniform[name] == [228]
    for kind in COMPUTED:
        p, steps, held = expanded(kind, inline=True)
        np.testing.assert_equal(held["unilora.index"], p.index())
        assert held["unilora.index"].dtype == np.int32 and "unilora.index" not in steps
    assert GraphTape().integers("of 4 bytes", np.int32(1)).dtype == ir.DataType.INT64


@pytest.mark.parametrize("mode", [mode for mode in ANSWERING if mode != "merged"])
@pytest.mark.parametrize("name", CASES)
def test_what_a_graph_says_of_its_values_is_what_they_are(name, mode):
    """By name, type and shape."""
    case, adapters = CASES[name], two(CASES[name])
    if (mode == "bank" and not case.beside) or (mode == "factored" and not all(s.rank for s in case.segments)):
        return  # refused
    model = adapted(case, adapters, mode)
    if mode != "factored":
        made = {output for node in model.graph.node for output in node.output}
        assert {factor_name(s, each) for s in case.segments for each in ("AB" if s.rank else "M")} <= made
    check_what_is_said(model, graph_of(case), fed(case, adapters, mode)[0])


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
    assert found.theta_D.name == ("theta" if kind == "identity" else "unilora.theta_D")
    outputs = [tape.add("Identity", found.theta_D, name="theta_D", shape=[rows, p.D] if rows else [p.D])]
    if not rows:
        gradient = found.adjoint(tape, g)
        assert gradient.shape == [p.d]
        outputs.append(tape.add("Identity", gradient, name="gradient", shape=[p.d]))
    graph = ir.Graph([theta, g], outputs, nodes=tape.nodes, initializers=tape.initializers, opset_imports={"": 18})
    model = ir.Model(graph, ir_version=10)
    add_functions(model, GRADIENTS | FUNCTIONS)
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
