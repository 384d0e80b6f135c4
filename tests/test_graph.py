"""export.graph: an adapter in graphs written by hand, each way to use a weight in every mode, against NumPy's own merge."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import ml_dtypes
import onnx_ir as ir
from exports import session_of
from written_graphs import (
    CASES,
    CLOSE,
    FLOATS,
    FORMS,
    IN_OTHER_FORMS,
    OFF,
    adapted,
    adapter_for,
    check_what_is_said,
    fed,
    graph_of,
    in_half_precision,
    node,
    two,
    weights_of,
)

from export.graph.adapt import adapt, check_mode
from export.graph.rebuild import lora_name
from export.modes import ANSWERING, PLAIN
from unilora_spec import Segment, UniLoraError


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
    made = {output for each in model.graph.node for output in each.output}
    assert ("W.adapted" in made) == (not case.quantized) or mode != "reconstruct"
    feed, wanted = fed(case, adapters, mode, form)
    for level in (
        (OFF, None) if form == PLAIN and not case.quantized else (OFF,)
    ):  # else products of integers round x as well
        answers = session_of(model.SerializeToString(), level).run(["y"], feed)[0]
        np.testing.assert_allclose(answers, wanted, rtol=0, atol=CLOSE * abs(wanted).max())
    # An adapter that does nothing, or a part of it that does not, is far from close.
    assert abs(case.said(None) - case.said(adapters[0])).max() > 1e-2 * abs(wanted).max()


@pytest.mark.parametrize(
    ("name", "without"),
    [("a product", ("Split",)), ("the first row and the last", ("Split", "Pad", "Cast"))],  # there a Cast follows a Pad
)
def test_an_adapter_in_half_precision_is_rounded_once(name, without):
    """A and B act in the dtype of the product; W + ΔW is added in float32, and rounded to what W is."""
    case = CASES[name]
    adapters, base = two(case), ir.to_proto(in_half_precision(graph_of(case)))
    for mode in ANSWERING:
        model = ir.from_proto(base)
        adapt(model, adapters, weights_of(model, adapters[0]), [], mode)
        made = {output for each in model.graph for output in (value.name for value in each.outputs)}
        assert ("W.adapted" in made) == (mode == "reconstruct")
        feed, wanted = fed(case, adapters, mode)
        feed["x"] = feed["x"].astype(np.float16)
        model = ir.to_proto(model)
        answers = session_of(model.SerializeToString(), OFF).run(["y"], feed)[0]
        assert answers.dtype == np.float16
        # Of float16 every number, and so each of a dozen terms, is 2⁻¹¹ off.
        np.testing.assert_allclose(answers.astype(np.float32), wanted, rtol=0, atol=12 * 2**-11 * abs(wanted).max())
        if mode != "merged":  # in which nothing is made
            check_what_is_said(model, ir.from_proto(base), feed, without)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_merge_in_half_precision_is_the_specifications_and_lets_go_of_the_file(dtype, tmp_path):
    """To the bit: W + ΔW in float32, rounded once. What is mapped of each weight's file would else stay so until the end."""
    case = CASES["a product"]
    adapter, model, W = two(case)[0], graph_of(case), case.W.astype(dtype)
    (tmp_path / "data").write_bytes(W.tobytes())
    dtype = ir.DataType.from_numpy(W.dtype)
    stored = ir.ExternalTensor("data", 0, W.nbytes, dtype, shape=ir.Shape(W.shape), name="W", base_dir=tmp_path)
    value = model.graph.initializers["W"]
    value.const_value, value.dtype = stored, dtype
    adapt(model, [adapter], weights_of(model, adapter), [], "merged")
    weights = {"W": case.W}
    adapter.merge(weights)
    assert value.const_value.numpy().tobytes() == weights["W"].astype(W.dtype).tobytes()
    assert stored.raw is None


def test_a_mode_that_a_use_does_not_allow_is_refused_before_an_adapter_is_at_hand():
    case = CASES["a stack"]
    with pytest.raises(
        UniLoraError, match="W is used by Einsum y, .* as each row of the batch has an adapter of its own"
    ):
        check_mode(weights_of(graph_of(case), adapter_for(case.segments)), "bank")


def test_a_quantized_weight_that_is_used_in_another_way_is_refused():
    case = replace(CASES["quantized"], nodes=[FLOATS, node("Sin", "w", "s"), node("MatMul", "x s", "y")])
    for mode in ("reconstruct", "input", "factored"):
        with pytest.raises(
            UniLoraError, match="W is used by Sin s, .* cannot take W's place as W is quantized; give a base"
        ):
            adapted(case, two(case), mode)


def test_of_several_outputs_the_adapted_one_alone_is_changed():
    case = replace(CASES["a product"], nodes=[node("Gemm", "x W", "y", transB=1), node("Abs", "x", "other")])
    model, adapter = graph_of(case), two(case)[0]
    model.graph.outputs.append(model.graph.node(1).outputs[0])
    model.graph.outputs[1].type = model.graph.outputs[0].type
    adapt(model, [adapter], weights_of(model, adapter), [], "factored")
    feed, wanted = fed(case, [adapter], "factored")
    y, other = session_of(ir.to_proto(model).SerializeToString(), OFF).run(["y", "other"], feed)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=CLOSE * abs(wanted).max())
    assert (other == abs(feed["x"])).all()


def test_a_vector_of_other_floats_is_held_in_float32():
    case = CASES["a product"]
    exact = [replace(each, theta=each.theta.astype(np.float64)) for each in two(case)]
    for mode in ("reconstruct", "input", "bank"):
        assert adapted(case, exact, mode) == adapted(case, two(case), mode)


SHARED = {"one text": [4], "one row": [1, 4], "of the text's length": ["sequence"], "a row for each": ["sequence", 4]}
OWN = {"the batch": ["batch", 4], "what is computed": ["batch * 2", 4], "not known": None}


@pytest.mark.parametrize("shape", [*SHARED, *OWN])
def test_an_input_that_the_rows_of_a_batch_share_is_refused(shape):
    """As positions are, whose first axis is a number, or one of another input; an axis that is computed may be the batch."""
    case = replace(CASES["a lookup"], nodes=[node("Abs", "x", "p"), node("Gather", "W p", "y")])
    model, adapters = graph_of(case), two(case)
    p = model.graph.node(0).outputs[0]
    p.shape = None if shape == "not known" else ir.Shape((SHARED | OWN)[shape])
    weights = weights_of(model, adapters[0])
    if shape in OWN:
        adapt(model, adapters, weights, [], "bank")
    else:
        with pytest.raises(UniLoraError, match="W is used by Gather y, where the rows of the batch share one input"):
            adapt(model, adapters, weights, [], "bank")


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
        weights = weights_of(model, adapter_for(case.segments))
        if mode == "merged":
            adapt(model, two(case), weights, [], mode)
            continue
        with pytest.raises(
            UniLoraError, match=f"the base has a tensor named {needs[mode]} itself, which the mode {mode} needs"
        ):
            adapt(model, two(case), weights, [], mode)
