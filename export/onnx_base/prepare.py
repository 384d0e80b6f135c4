"""Makes an ONNX file ready for the search for its weights."""

from collections import defaultdict

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass, LiftSubgraphInitializersToMainGraphPass

from ..graph.sites import FLOATS
from .exporter_names import scopes

PARAMETERS = {  # the parameter that a vector is, by the place where it enters a node
    ("Gemm", 2): "bias",
    ("Conv", 2): "bias",
    ("Add", 0): "bias",
    ("Add", 1): "bias",
    ("Mul", 0): "weight",
    ("Mul", 1): "weight",
    ("LayerNormalization", 1): "weight",
    ("LayerNormalization", 2): "bias",
}


def prepare(model: ir.Model) -> None:
    """Makes every weight an initializer of the main graph, and every vector of floats a parameter of one module alone.

    Names, metadata and what the file computes stay what they are. External data is not read.
    """
    if model.functions:
        InlinePass()(model)
    LiftConstantsToInitializersPass()(model)
    LiftSubgraphInitializersToMainGraphPass()(model)
    for node in list(model.graph):
        if node.op_type == "Identity" and _is_vector(node.inputs[0]) and not node.outputs[0].is_graph_output():
            _end_sharing(model.graph, node)
    for value in list(model.graph.initializers.values()):
        if _is_vector(value):
            _separate(model.graph, value)


def _is_vector(value):
    return value is not None and value.is_initializer() and value.dtype in FLOATS and len(value.shape) == 1


def _end_sharing(graph, identity):
    """Gives each parameter its own initializer: TorchScript's exporter keeps those of equal values once, such as biases of new modules."""
    name, shared = identity.outputs[0].name, identity.inputs[0]
    own = _copy(shared, name)
    identity.outputs[0].replace_all_uses_with(own)
    graph.remove(identity, safe=True)
    graph.register_initializer(own)


def _separate(graph, value):
    """Does the same for torch.export's exporter, which leaves no trace of it but the modules of the nodes."""
    users = defaultdict(list)
    for node, position in value.uses():
        parameter, around = PARAMETERS.get((node.op_type, position)), scopes(node)
        if parameter and around:
            users[f"{around[0]}.{parameter}"].append((node, position))
    if len(users) < 2:
        return
    for name, uses in users.items():
        if name not in graph.initializers:
            own = _copy(value, name)
            graph.register_initializer(own)
            for node, position in uses:
                node.replace_input_with(position, own)


def _copy(value, name):
    tensor = value.const_value
    own = ir.LazyTensor(lambda: ir.Tensor(tensor.numpy(), name=name), dtype=tensor.dtype, shape=tensor.shape, name=name)
    return ir.Value(name=name, shape=value.shape, type=value.type, const_value=own)
