"""export.graph: the tensors that were trained in full, in graphs written by hand, against NumPy."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx_ir as ir
from exports import session_of
from written_graphs import (
    CLOSE,
    FLAT,
    FORMS,
    OFF,
    Case,
    check_what_is_said,
    graph_of,
    in_half_precision,
    node,
    random,
    two,
    weights_of,
)

from export.graph.adapt import adapt
from export.graph.heads import Saved
from export.graph.rebuild import pairs
from export.modes import ANSWERING, PLAIN
from unilora_spec import Segment, UniLoraError

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


def with_heads(case, adapters, mode, form=PLAIN, change=lambda model: model):
    model = change(graph_of(case))
    saved = [Saved(model.graph.initializers[name], name) for name in adapters[0].saved]
    adapt(model, adapters, weights_of(model, adapters[0]), saved, mode, form)
    return ir.to_proto(model)


def of_bank(case, adapters, numbers):
    """What rows answer, each with the adapter of its number and the head of this."""
    answers = []
    for each in adapters:
        case.more |= each.saved
        answers.append(case.said(replace(each, saved={})))
    return np.stack([answers[number][row] for row, number in enumerate(numbers)])


@pytest.mark.parametrize("form", HEADS)
@pytest.mark.parametrize("same", ["nothing", "the weight", "the bias"])
def test_rows_of_a_bank_have_heads_where_adapters_differ(same, form):
    case, adapters = heads(form)
    alike = {"the weight": "H", "the bias": "b"}.get(same)
    if alike:
        adapters[1].saved[alike] = adapters[0].saved[alike]
    model = with_heads(case, adapters, "bank")
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    own = {f"{name}.bank": ["adapters", *value.shape] for name, value in adapters[0].saved.items() if name != alike}
    assert {name: shape for name, shape in shapes.items() if name not in ("x", "adapter", "theta")} == own
    feed = {"x": case.feed(), "adapter": np.array([1, 0, 1])}
    wanted = of_bank(case, adapters, feed["adapter"])
    answers = session_of(model.SerializeToString(), OFF).run(["y"], feed)[0]
    np.testing.assert_allclose(answers, wanted, rtol=0, atol=CLOSE * abs(wanted).max())
    check_what_is_said(model, graph_of(case), feed, ("Split", "Transpose"))


def test_rows_of_a_bank_have_heads_in_half_precision():
    case, adapters = heads()
    model = with_heads(case, adapters, "bank", change=in_half_precision)
    feed = {"x": case.feed().astype(np.float16), "adapter": np.array([1, 0, 1])}
    wanted = of_bank(case, adapters, feed["adapter"])
    answers = session_of(model.SerializeToString(), OFF).run(["y"], feed)[0]
    # Of float16 every number, and so each of a dozen terms, is 2⁻¹¹ off, in each of two layers.
    np.testing.assert_allclose(answers.astype(np.float32), wanted, rtol=0, atol=24 * 2**-11 * abs(wanted).max())
    check_what_is_said(model, in_half_precision(graph_of(case)), feed, ("Split", "Transpose"))


def test_a_bank_of_one_has_its_head_and_numbers_of_other_floats_are_held_in_float32():
    """A head that all adapters of a bank have is a constant, with one of them too."""
    case, adapters = heads()
    exact = [replace(each, saved={n: v.astype(np.float64) for n, v in each.saved.items()}) for each in adapters]
    assert with_heads(case, exact, "bank") == with_heads(case, adapters, "bank")
    model = with_heads(case, adapters[:1], "bank")
    assert [value.name for value in model.graph.input] == ["x", "adapter", "theta"]
    feed = {"x": case.feed(), "adapter": np.zeros(3, np.int64)}
    wanted = of_bank(case, adapters[:1], feed["adapter"])
    answers = session_of(model.SerializeToString(), OFF).run(["y"], feed)[0]
    np.testing.assert_allclose(answers, wanted, rtol=0, atol=CLOSE * abs(wanted).max())


@pytest.mark.parametrize("mode", ANSWERING)
def test_a_head_that_the_base_holds_quantized_is_the_adapters_in_floats(mode):
    case, adapters = heads()
    case.nodes[-1:] = [node("DequantizeLinear", "H step zero", "t"), node("Gemm", "h t b", "y", transB=1)]
    case.more |= {"H": np.ones((5, 6), np.int8), "step": np.float32(0.125), "zero": np.int8(0)}
    model = with_heads(case, adapters[:1], mode)
    assert not any(each.op_type == "DequantizeLinear" for each in model.graph.node)
    case.more |= adapters[0].saved
    wanted = case.said(replace(adapters[0], saved={}))
    feed = {"bank": {"adapter": np.zeros(3, np.int64)}, "factored": pairs(adapters[0])}.get(mode, {})
    answers = session_of(model.SerializeToString(), OFF).run(["y"], {"x": case.feed()} | feed)[0]
    np.testing.assert_allclose(answers, wanted, rtol=0, atol=CLOSE * abs(wanted).max())


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


def test_a_head_that_the_rows_of_a_batch_cannot_differ_in_is_refused():
    case, adapters = heads()
    case.nodes[-1] = node("Gemm", "h H b", "y", transB=1, alpha=2.0)
    with pytest.raises(UniLoraError, match="the adapters differ in H, which is used by Gemm y; in the mode bank"):
        with_heads(case, adapters, "bank")
    case.nodes[-1:] = [node("Mul", "b b", "c"), node("Gemm", "h H c", "y", transB=1)]
    with pytest.raises(UniLoraError, match="the adapters differ in b, which is used by Mul c; in the mode bank"):
        with_heads(case, adapters, "bank")
