"""The graph of a step of training, put together: A and B from θ, θ's gradient from theirs, and the frozen tensors as they are stored."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass

from unilora_spec import Adapter, UniLoraError

from ..modes import PLAIN, Form
from .functions import FUNCTIONS, add_functions
from .gradients import GRADIENTS
from .rebuild import GraphTape, expansion, factor_name, factors_of, shapes
from .stored import store

KNOWN = FUNCTIONS | GRADIENTS


def check_kind(adapter: Adapter) -> None:
    """Raises ``UniLoraError`` for a kind that is not trained by the gradient of its θ alone."""
    projection = adapter.projection
    if type(projection).trained_as() is not type(projection):
        raise UniLoraError(
            f"the kind {projection.kind} trains more numbers than its file holds, and a step graph has those of the file; train it with backends.torch"
        )
    if projection.links > 1:
        raise UniLoraError(
            f"the kind {projection.kind} trains its links one after the other, and a step graph trains all of theta; train it with backends.torch"
        )


def factor_shapes(segment) -> list[tuple[str, list[int]]]:
    """The names of a segment's factors in the graph, and their shapes, in their order in θ_D."""
    return list(zip([factor_name(segment, name) for name in ("AB" if segment.rank else "M")], shapes(segment)))


def assemble(
    model: ir.Model, adapter: Adapter, frozen: Mapping[str, np.ndarray], weights: str = "float32", form: Form = PLAIN
) -> None:
    """Makes a graph whose inputs are all its tensors, and whose outputs have a gradient for each factor, one of θ.

    ``frozen`` are the tensors that nobody trains; ``weights`` is how the large ones of floats are stored (stored.py).
    """
    graph = model.graph
    inputs = {value.name: value for value in graph.inputs}
    outputs = {value.name: value for value in graph.outputs}
    for taken in ("theta", "theta.grad"):
        if taken in inputs or taken in outputs:
            raise UniLoraError(f"the base has a tensor named {taken} itself, which the mode step needs")
    theta = ir.Value(name="theta", shape=ir.Shape([adapter.projection.d]), type=ir.TensorType(ir.DataType.FLOAT))
    tape = GraphTape(opset=model.opset_imports[""], inline=form.inline)
    expanded = expansion(tape, adapter, theta, fed=True)
    made = factors_of(tape, adapter, expanded.theta_D)
    names = {offset: factor_shapes(segment) for segment, offset in adapter.layer_map.placed()}
    for offset, found in made.items():
        for (name, _), value in zip(names[offset], found):
            inputs[name].replace_all_uses_with(value)
            inputs[name].name = f"{name}.traced"
    forward = len(tape.nodes)
    fed = [name for placed in names.values() for name, _ in placed]
    flat = [tape.add("Reshape", outputs[f"{name}.grad"], tape.integers("flat", [-1])) for name in fed]
    of_theta_D = flat[0]
    if flat[1:]:
        of_theta_D = tape.add("Concat", *flat, axis=0, name="unilora.theta_D.grad", shape=[adapter.projection.D])
    of_theta = expanded.adjoint(tape, of_theta_D)
    of_theta.name, of_theta.shape = "theta.grad", ir.Shape([adapter.projection.d])
    graph.insert_before(graph[0], tape.nodes[:forward])
    graph.extend(tape.nodes[forward:])

    kept = [value for value in graph.inputs if value.name not in frozen and not value.name.endswith(".traced")]
    trained = [value for value in kept if value.name in adapter.saved]
    graph.inputs[:] = [*(value for value in kept if value.name not in adapter.saved), theta, *trained]
    own = [outputs["loss"], outputs["logits"], of_theta, *(outputs[f"{value.name}.grad"] for value in trained)]
    graph.outputs[:] = own
    for value in tape.initializers:
        graph.register_initializer(value)
    for name, array in frozen.items():
        store(graph, inputs[name], array, weights)
    RemoveUnusedNodesPass()(model)
    add_functions(model, KNOWN)
    if form.inline:
        InlinePass()(model)
