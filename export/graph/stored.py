"""How the frozen tensors of a graph are stored: as they are, or the large ones in fewer bits, which each use makes floats again."""

import numpy as np
import onnx_ir as ir

from .rebuild import GraphTape

WEIGHTS = ("float32", "float16", "int8")
LARGE = (
    2**12
)  # numbers; smaller ones, biases and what scales, are as they are: they take no space, and their rounding is felt


def is_narrowed(array: np.ndarray) -> bool:
    """Whether a frozen tensor is one of those that are stored in fewer bits."""
    return array.dtype == np.float32 and array.ndim > 1 and array.size >= LARGE


def rounded(array: np.ndarray, weights: str) -> np.ndarray:
    """A frozen tensor's values as a graph that stores it as ``weights`` computes with them, float32."""
    if weights == "float32" or not is_narrowed(array):
        return array
    if weights == "float16":
        return array.astype(np.float16).astype(np.float32)
    integers, scale = quantized(array)
    return integers.astype(np.float32) * scale.reshape(-1, *[1] * (array.ndim - 1))


def quantized(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers from −127 to 127, int8, and the scale of each row of the first axis, float32, whose product is nearest to ``array``."""
    most = np.abs(array).reshape(len(array), -1).max(1)
    scale = np.where(most > 0, most / np.float32(127), np.float32(1)).astype(np.float32)
    return np.rint(array / scale.reshape(-1, *[1] * (array.ndim - 1))).astype(np.int8), scale


def store(graph: ir.Graph, value: ir.Value, array: np.ndarray, weights: str) -> None:
    """Makes an input of a graph a constant, stored once. Rows that are looked up are made floats behind the lookup."""
    name = value.name
    if weights == "float32" or not is_narrowed(array):
        value.const_value = ir.Tensor(np.ascontiguousarray(array), name=name)
        value.shape, value.type = value.const_value.shape, ir.TensorType(value.const_value.dtype)
        graph.register_initializer(value)
        return
    value.name = f"{name}.traced"
    if weights == "float16":
        narrow = _initializer(graph, name, array.astype(np.float16))
    else:
        integers, scale = quantized(array)
        narrow, scale = _initializer(graph, name, integers), _initializer(graph, f"{name}.scale", scale)
    tape = GraphTape(f"{name}.floats")
    for node, position in value.uses():
        before = len(tape.nodes)
        if node.op_type == "Gather" and position == 0 and node.attributes["axis"].as_int() == 0:
            ids, result = node.inputs[1], node.outputs[0]
            rows = tape.cast(tape.add("Gather", narrow, ids, axis=0, dtype=narrow.dtype), ir.DataType.FLOAT)
            if weights == "int8":
                each = tape.add("Gather", scale, ids, axis=0)
                rows = tape.add("Mul", rows, tape.add("Unsqueeze", each, tape.integers(f"last.{name}", [-1])))
            rows.shape = result.shape
            result.replace_all_uses_with(rows, replace_graph_outputs=True)
        elif weights == "float16":
            node.replace_input_with(position, tape.cast(narrow, ir.DataType.FLOAT))
        else:
            node.replace_input_with(position, tape.add("DequantizeLinear", narrow, scale, axis=0, shape=array.shape))
        node.graph.insert_before(node, tape.nodes[before:])
    for made in tape.initializers:
        graph.register_initializer(made)


def _initializer(graph, name, array):
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
