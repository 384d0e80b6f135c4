"""Puts matrices together again that a tool has split, so that one weight of the adapter's is one initializer.

onnxruntime-genai's builder splits Phi's gate_up_proj into two products, and qkv_proj where its attention takes three. One pair A, B
adapts them together, so one product takes their place, and its result is split.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..graph.rebuild import GraphTape
from ..graph.sites import Use
from .exporter_names import STACKS, spellings
from .fitting import HOWS, Constant, File, Weight

SPLIT_OPSET = 13  # Split takes its sizes as an input since then


def join(file: File, wanted: Sequence[Weight]) -> bool:
    """Whether any of the weights was found split, by the names of its parts, and is one in the graph of ``file`` now."""
    if file.graph.opset_imports[""] < SPLIT_OPSET:
        return False
    joined = False
    for weight in wanted:
        for stack, parts in STACKS.items():
            if weight.whole and f".{stack}." in weight.name and not any(file.find(how, weight.name) for how in HOWS):
                names = [weight.name.replace(f".{stack}.", f".{part}.") for part in parts]
                found = [_find(file, name) for name in names]
                if all(found) and _belong_together(found, weight):
                    _join(file.graph, found, parts[0], stack)
                    joined = True
    return joined


def _find(file, name) -> Constant | None:
    for how in HOWS:
        for spelled in spellings(name):
            found = [each for each in file.find(how, spelled) if each.uses[0].form == "product"]  # and no scales
            if len(found) == 1:
                return found[0]
    return None


def _belong_together(found: list[Constant], weight: Weight) -> bool:
    uses = [constant.uses[0] for constant in found]
    if any(len(constant.uses) != 1 or use.node.inputs[1] is not constant.value for constant, use in zip(found, uses)):
        return False
    alike = {(use.node.op_type, use.x, use.dtype, use.shape[1:], _options(use.node)) for use in uses}
    of_parts = sum(use.shape[0] for use in uses), uses[0].shape[1]
    segment = weight.segments[0]
    known = uses[0].node.op_type == "MatMul" or (uses[0].node.op_type == "MatMulNBits" and not _sorts(uses))
    return known and len(alike) == 1 and of_parts == (segment.out_features, segment.in_features)


def _options(node):
    return tuple(sorted((name, each.value) for name, each in node.attributes.items() if name != "N")), len(node.inputs)


def _sorts(uses: list[Use]) -> bool:
    """Whether the columns have another order (g_idx), which each part may have for itself."""
    return any(len(use.node.inputs) > 4 and use.node.inputs[4] is not None for use in uses)


def _join(graph: ir.Graph, found: list[Constant], part: str, stack: str) -> None:
    nodes = [constant.uses[0].node for constant in found]
    first = min(nodes, key=lambda node: list(graph).index(node))

    def renamed(text):
        return text.replace(part, stack) if text and part in text else f"{text}.joined"

    tape = GraphTape(renamed(nodes[0].outputs[0].name))
    axis = 1 if first.op_type == "MatMul" else 0
    inputs = [first.inputs[0]]
    for i, value in enumerate(first.inputs[1:], 1):
        inputs.append(
            value and _stacked(graph, [node.inputs[i] for node in nodes], axis, renamed(nodes[0].inputs[i].name))
        )
    sizes = [constant.uses[0].shape[0] for constant in found]
    options = {name: each.value for name, each in first.attributes.items()}
    if "N" in options:
        options["N"] = sum(sizes)
    dtype = nodes[0].outputs[0].dtype or found[0].uses[0].dtype
    result = tape.add(first.op_type, *inputs, domain=first.domain, dtype=dtype, **options)
    tape.nodes[0].name = renamed(nodes[0].name)
    split = tape.integers(f"{result.name}.sizes", sizes)
    graph.register_initializer(split)
    parts = [
        ir.Value(name=f"{node.outputs[0].name}.part", shape=node.outputs[0].shape, type=node.outputs[0].type)
        for node in nodes
    ]
    tape.op_multi_out("Split", [result, split], {"axis": -1}, outputs=parts)
    graph.insert_before(first, tape.nodes)
    for node, value in zip(nodes, parts):
        name = node.outputs[0].name
        node.outputs[0].replace_all_uses_with(value, replace_graph_outputs=True)
        node.outputs[0].name, value.name = f"{name}.alone", name
        alone = [value for value in node.inputs[1:] if value is not None]
        graph.remove(node, safe=True)
        for value in alone:
            if not value.uses():
                graph.initializers.pop(value.name, None)


def _stacked(graph: ir.Graph, values: list[ir.Value], axis: int, name: str) -> ir.Value:
    tensors = [value.const_value for value in values]
    shape = list(tensors[0].shape)
    shape[axis] = sum(tensor.shape[axis] for tensor in tensors)

    def read() -> ir.Tensor:
        array = np.concatenate([np.array(tensor.numpy()) for tensor in tensors], axis)
        for tensor in tensors:
            if isinstance(tensor, ir.ExternalTensor):
                tensor.release()
        return ir.Tensor(array, dtype=tensors[0].dtype, name=name)

    tensor = ir.LazyTensor(read, dtype=tensors[0].dtype, shape=ir.Shape(shape), name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
