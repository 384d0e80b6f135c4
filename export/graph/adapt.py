"""An adapter put into a graph, in each of five modes.

Where W is a constant in floats, W + ΔW can take its place; ONNX Runtime folds that where A and B are constants too. Beside
products and lookups A and B can act by themselves (paths.py): that leaves W alone, so that it may be quantized, and costs
little where A and B change from run to run. Of rank 0, what acts beside W costs as much as W does, and is left for where W + ΔW
cannot take W's place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from unilora_spec import Adapter, Segment, UniLoraError

from ..modes import FED, PLAIN, Form
from .functions import add_functions
from .heads import Saved, feed, set_values
from .marks import mark_of_theta, marks
from .paths import Paths
from .rebuild import GraphTape, Pair, delta, factors, lora_name
from .sites import uses, uses_in_turn


@dataclass(frozen=True)
class Weight:
    """An initializer that the adapter changes.

    ``placed``  the segments that it holds, as it stores them, with their offsets in θ_D
    """

    value: ir.Value
    placed: list[tuple[Segment, int]]


def adapt(
    model: ir.Model,
    adapters: Sequence[Adapter],
    weights: list[Weight],
    saved: list[Saved],
    mode: str,
    form: Form = PLAIN,
) -> None:
    """Puts an adapter, or for "bank" several that differ in nothing but their values, into a graph of their base.

    Raises ``UniLoraError`` where this graph does not allow the mode.
    """
    check_mode(weights, mode)
    saved = set_values(model, saved, adapters[0])
    if mode in FED:
        feed(model, saved, adapters[0], form.required)
    if mode == "merged":
        for weight in weights:
            _merge(weight, adapters[0])
    else:
        _rebuild(model, adapters, weights, saved, mode, form)
        add_functions(model)
    if form.inline:
        InlinePass()(model)


def check_mode(weights: list[Weight], mode: str) -> None:
    """Raises ``UniLoraError`` where the way in which a graph holds and uses the weights does not allow the mode."""
    for weight in weights:
        found = uses(weight.value)
        if mode != "merged":
            _acts_beside(weight, found, mode)
        elif quantized := [use for use in found if use.quantized]:
            raise UniLoraError(
                f"{weight.value.name} is quantized ({quantized[0]}), and what is merged into it would be rounded away:"
                " merge into the float model and quantize that, or take --mode reconstruct"
            )


def merged(base: ir.TensorProtocol, adapter: Adapter, placed) -> np.ndarray:
    """W + ΔW of one weight, added in float32 and rounded once to its own dtype."""
    W = np.array(base.numpy())
    adapter.add_deltas(placed, W)  # NumPy adds what is shorter than float32 to ΔW in float32
    if isinstance(base, ir.ExternalTensor):
        base.release()
    return W


def _merge(weight: Weight, adapter: Adapter):
    base = weight.value.const_value
    weight.value.const_value = ir.LazyTensor(  # computed when it is written: one weight in memory, not all
        lambda: ir.Tensor(merged(base, adapter, weight.placed)), dtype=base.dtype, shape=base.shape
    )


def _rebuild(model, adapters, weights, saved, mode, form):
    adapter, tape = adapters[0], GraphTape(opset=model.opset_imports[""], inline=form.inline)
    inputs = _Inputs(model.graph, mode, form.required)
    rows = None
    if mode == "bank":
        rows = str(model.graph.inputs[0].shape[0])
        number = inputs.add("adapter", [rows], dtype=ir.DataType.INT64)
    thetas = np.stack([np.asarray(adapter.theta, np.float32) for adapter in adapters])
    if mode == "factored":
        found = _fed_factors(inputs, adapter)
    elif mode == "bank":
        bank = inputs.add("theta", ["adapters", adapter.projection.d], thetas)
        number = tape.call("NumberInBank", number, bank, dtype=ir.DataType.INT64, shape=[rows])
        theta = tape.call("ThetaOfBank", bank, number, shape=[rows, adapter.projection.d])
        found = factors(tape, adapter, theta, rows)
    elif mode == "input":
        found = factors(tape, adapter, inputs.add("theta", [adapter.projection.d], thetas[0]), fed=True)
        inputs.add_marks(mark_of_theta(adapter))
    else:
        inputs.check_free("theta")
        found = factors(tape, adapter, tape.constant("theta", thetas[0]))

    paths = Paths(tape, adapter, found, rows)
    for weight in weights:
        of_weight = uses(weight.value)
        if _acts_beside(weight, of_weight, mode):
            for use in uses_in_turn(weight.value):
                paths.add(use, weight.placed)
        else:
            _replace(tape, adapter, found, weight)
    if mode == "bank":
        for parameter in saved:
            stack = np.stack([np.asarray(each.saved[parameter.name], np.float32) for each in adapters])
            if (stack != stack[0]).any():
                bank = inputs.add(f"{parameter.name}.bank", ["adapters", *stack.shape[1:]], stack)
                mine = tape.add("Gather", bank, number, axis=0, shape=[rows, *stack.shape[1:]])
                if stack.ndim == 3 and parameter.as_out_in(uses(parameter.value)[0]) == (1, 0):
                    mine = tape.add("Transpose", mine, perm=[0, 2, 1])
                paths.add_saved(parameter.value, tape.cast(mine, parameter.value.dtype))
    model.graph.insert_before(model.graph[0], tape.nodes)
    for value in tape.initializers:
        model.graph.register_initializer(value)


class _Inputs:
    """The inputs that a graph takes beside the base's."""

    def __init__(self, graph, mode, required):
        self.graph, self.mode, self.required = graph, mode, required
        self.taken = {value.name for value in [*graph.inputs, *graph.initializers.values()]}

    def add(self, name, shape, value=None, dtype=ir.DataType.FLOAT) -> ir.Value:
        """Adds an input, with a default where ``value`` is given and inputs are not required."""
        self.check_free(name)
        made = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self.graph.inputs.append(made)
        if value is not None and not self.required:
            made.const_value = ir.Tensor(value)
            self.graph.register_initializer(made)
        return made

    def add_marks(self, found):
        """Adds inputs without entries. They have a default in every form, as no user has to feed them."""
        for name, empty in found.items():
            made = ir.Value(name=name, shape=ir.Shape(empty.shape), type=ir.TensorType(ir.DataType.FLOAT))
            made.const_value = ir.Tensor(empty)
            self.graph.inputs.append(made)
            self.graph.register_initializer(made)

    def check_free(self, name):
        if name in self.taken:
            raise UniLoraError(f"the base has a tensor named {name} itself, which the mode {self.mode} needs")


def _fed_factors(inputs, adapter):
    """A and s·B as inputs. Where they are not fed they have rank 0, and the graph answers as the base.

    Each pair has a rank of its own: ONNX Runtime takes axes of one name for equal, and would give the products of one layer the
    memory of another's.
    """
    found = {}
    for s, offset in adapter.layer_map.placed():
        A, B = lora_name(s, "A"), lora_name(s, "B")
        rank = f"rank of {A.removesuffix('.lora_A.weight')}"
        found[offset] = Pair(
            inputs.add(A, [s.in_features, rank], np.zeros((s.in_features, 0), np.float32)),
            inputs.add(B, [rank, s.out_features], np.zeros((0, s.out_features), np.float32)),
        )
    inputs.add_marks(marks(adapter))
    return found


def _acts_beside(weight: Weight, of_weight, mode) -> bool:
    """Whether A and B act beside the weight's uses, and not as W + ΔW in its place."""
    first = weight.placed[0][0]
    in_part = len(weight.placed) > 1 or first.row is not None or first.index is not None
    hinder = [use for use in of_weight if use.form == "other" or (use.form == "lookup" and in_part)]
    must = mode == "bank" or any(use.quantized for use in of_weight)
    if must and hinder:
        why = "each row of the batch has an adapter of its own" if mode == "bank" else "W is quantized"
        raise UniLoraError(
            f"{first.name} is used by {hinder[0]}, which A and B cannot act beside, and W + ΔW cannot take W's place as"
            f" {why}; give a base that uses it in MatMul, Gemm or Gather, as exporters write them and before an optimizer"
            " fuses them, or another mode"
        )
    has_pairs = all(segment.rank for segment, _ in weight.placed)
    return must or (mode != "reconstruct" and not hinder and has_pairs)


def _replace(tape: GraphTape, adapter, found, weight: Weight):
    """W + ΔW, in float32 and rounded once, in the place of W."""
    W = weight.value
    used, name, shape = W.uses(), f"{W.name}.adapted", list(W.shape)
    change = delta(tape, adapter, found, weight.placed, shape)
    exact = W.dtype == ir.DataType.FLOAT
    adapted = tape.add("Add", tape.cast(W, ir.DataType.FLOAT), change, name=name if exact else None, shape=shape)
    adapted = tape.cast(adapted, W.dtype, name)
    for node, position in used:
        node.replace_input_with(position, adapted)
