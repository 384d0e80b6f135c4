"""Parameters trained in full, in a graph that may hold them quantized, as their transpose, or under another name."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from unilora_spec import Adapter, UniLoraError

from .paths import add_beside
from .rebuild import GraphTape
from .sites import FLOATS, Use, uses, uses_in_turn


@dataclass(frozen=True)
class Saved:
    """An initializer that holds a parameter trained in full, or its transpose; ``name`` is the adapter's."""

    value: ir.Value
    name: str
    transposed: bool = False

    def of(self, adapter: Adapter) -> np.ndarray:
        value = np.asarray(adapter.saved[self.name], np.float32)
        return np.ascontiguousarray(value.T if self.transposed else value)

    def as_out_in(self, use: Use) -> tuple[int, int]:
        """The order of the axes that makes the adapter's array (out, in), where a product uses the initializer."""
        return (1, 0) if use.transposed != self.transposed else (0, 1)


def set_values(model: ir.Model, saved: Sequence[Saved], adapter: Adapter) -> list[Saved]:
    """Sets the parameters trained in full to the adapter's values, in initializers of floats, and returns these.

    A parameter that the base holds quantized was rounded on its own scale, so the products with it become products with floats.
    """
    found = [each if each.value.dtype in FLOATS else _in_floats(model, each, adapter) for each in saved]
    if found != list(saved):
        RemoveUnusedNodesPass()(model)
    for each in found:
        each.value.const_value = ir.Tensor(each.of(adapter).astype(each.value.dtype.numpy()), name=each.value.name)
    return found


def feed(model: ir.Model, saved: Sequence[Saved], adapter: Adapter, required: bool = False) -> None:
    """Makes inputs of the parameters trained in full, with their values as the default unless inputs are ``required``. They have the
    adapter's names and shapes, in float32, as they have in an .onnx_adapter file.

    A parameter that only another part of the model has becomes an unused input, as all parts take the same file. Raises ``UniLoraError`` where
    the graph has another tensor of its name.
    """
    tape, made = GraphTape("unilora.fed"), {}
    for name in dict.fromkeys(each.name for each in saved):
        mine = [each for each in saved if each.name == name]
        if len(mine) == 1 and _is_as_named(mine[0]):
            model.graph.inputs.append(mine[0].value)
            continue
        for each in mine:
            model.graph.initializers.pop(each.value.name)
            each.value.name = f"{each.value.name}.base"
        made[name] = _initializer(model, name, np.asarray(adapter.saved[name], np.float32))
        model.graph.inputs.append(made[name])
        for each in mine:
            fed = made[name]
            if each.transposed:
                fed = tape.add("Transpose", fed, perm=[1, 0], shape=list(each.value.shape))
            each.value.replace_all_uses_with(tape.cast(fed, each.value.dtype), replace_graph_outputs=True)
    model.graph.insert_before(model.graph[0], tape.nodes)
    if required:
        for name in dict.fromkeys(each.name for each in saved):
            model.graph.initializers.pop(name).const_value = None
    for name in sorted(adapter.saved.keys() - {each.name for each in saved}):
        _add_unused(model.graph, name, adapter.saved[name].shape, required)


def _add_unused(graph, name, shape, required):
    """An input that may be fed, whose default has no entries."""
    if name in graph.initializers:
        raise UniLoraError(
            f"the base has another tensor named {name}, which another part's parameter is fed as; rename it"
        )
    value = ir.Value(name=name, shape=ir.Shape([f"rows of {name}", *shape[1:]]), type=ir.TensorType(ir.DataType.FLOAT))
    graph.inputs.append(value)
    if not required:
        value.const_value = ir.Tensor(np.zeros((0, *shape[1:]), np.float32), name=name)
        graph.register_initializer(value)


def _is_as_named(saved):
    return saved.value.name == saved.name and not saved.transposed and saved.value.dtype == ir.DataType.FLOAT


def _in_floats(model, saved, adapter):
    """A new initializer of floats in the place of a quantized one."""
    found = uses(saved.value)
    if wrong := [use for use in found if not (_is_product_alone(use) or _only_dequantized(saved.value))]:
        raise UniLoraError(
            f"{saved.name} was trained in full, and {saved.value.name} holds it quantized, for {wrong[0]}; give a base"
            " that keeps it in floats (nodes_to_exclude of ONNX Runtime's quantizers)"
        )
    if _only_dequantized(saved.value):
        floats = [node.outputs[0] for node in saved.value.consumers()]
        value = _initializer(model, _free(model, saved.name), saved.of(adapter), floats[0].dtype or ir.DataType.FLOAT)
        for each in floats:
            each.replace_all_uses_with(value)
        for use in found:
            _without_quantization(use)
        return Saved(value, saved.name, saved.transposed)
    order = saved.as_out_in(found[0])
    new = Saved(saved.value, saved.name, transposed=order == (0, 1))  # as MatMul takes it
    value = _initializer(model, _free(model, saved.name), new.of(adapter), found[0].dtype)
    for use in uses_in_turn(saved.value):
        add_beside(use, _product_with(value), instead=True)
    return replace(new, value=value)


def _is_product_alone(use):
    """Whether what computes a product adds no bias as well."""
    bias = {"MatMulInteger": 4, "QLinearMatMul": 8, "MatMulNBits": 5}.get(use.node.op_type, 0)
    return use.form == "product" and not any(use.node.inputs[bias:])


def _without_quantization(use):
    """Takes away the rounding of a result, whose range was measured on the base's own head."""
    if use.form == "product" and use.result[0].producer() is not use.node:
        result, rounded = use.node.outputs[0], use.result[0]
        rounded.replace_all_uses_with(result, replace_graph_outputs=True)
        if result.is_graph_output():
            result.name, rounded.name = rounded.name, f"{rounded.name}.base"
            result.type, result.shape = rounded.type, rounded.shape


def _product_with(value):
    return lambda tape, x: tape.add("MatMul", x, value, dtype=value.dtype)


def _only_dequantized(value):
    return all(node.op_type == "DequantizeLinear" and node.inputs[0] is value for node in value.consumers())


def _free(model, name):
    return f"{name}.float" if name in model.graph.initializers else name


def _initializer(model, name, array, dtype=ir.DataType.FLOAT):
    tensor = ir.Tensor(array.astype(dtype.numpy()), name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value
