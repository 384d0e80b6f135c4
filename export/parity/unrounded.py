"""A graph that does not round what it computes to 8 bits; its weights stay what quantization made them.

Of two sums that differ in their last bit one may be rounded up and one down, and some layers later that is as much as
quantization's own error: 0.08 of the largest logit in MiniLM. So graphs of quantized models are compared without it.
"""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import onnxruntime
from onnx_ir.passes.common import RemoveUnusedNodesPass

from .. import external
from ..graph.rebuild import GraphTape
from . import compare as parity

# ONNX Runtime makes a MatMulNBits of a product with a weight that is dequantized, and lets it round the other factor.
ROUNDING = (
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "QuantizeLinear",
    "QAttention",
    "MatMulNBits",
    "DequantizeLinear",
)


def rounds(model: ir.Model) -> bool:
    """Whether a graph may round what it computes to 8 bits."""
    return bool(_rounding(model))


def rounds_in_products_alone(model: ir.Model) -> bool:
    """Whether it rounds in MatMulNBits alone, which an attribute asks for: without the attribute the graph has the same nodes."""
    return _rounding(model) == {"MatMulNBits"}


def _rounding(model) -> set[str]:
    ops = {node.op_type for node in model.graph.all_nodes()}
    return {op for op in ops if op in ROUNDING or op.startswith("QLinear")}


def session(model: ir.Model) -> onnxruntime.InferenceSession:
    """A graph, which is changed, in ONNX Runtime, without such roundings but those of operators that have no other form."""
    for node in list(model.graph.all_nodes()):
        replace(model, node)
    for node in list(model.graph.all_nodes()):
        before = node.inputs[0].producer() if node.op_type == "DequantizeLinear" else None
        if _is_rounding(before):
            _take_place(node.outputs[0], before.inputs[0])
    RemoveUnusedNodesPass()(model)
    with tempfile.TemporaryDirectory() as folder:
        external.write_data(model, Path(folder))
        _give_each_operator_its_own(model)
        ir.save(model, Path(folder) / "model.onnx")
        options = onnxruntime.SessionOptions()
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        # What is folded is a copy: genai's builder has one table of int4 for the tokens and the logits, reshaped for one of them.
        options.add_session_config_entry("optimization.disable_specified_optimizers", "ConstantFolding")
        return parity.session_to_compare(Path(folder) / "model.onnx", options)


def _give_each_operator_its_own(model: ir.Model) -> None:
    """Gives each kind of operator that takes a weight an initializer of its own, of the same bytes of the same file; not where a run may
    bring the weight.

    ONNX Runtime maps each initializer by itself, and lets go of it once all its nodes have packed it. genai's builder has one table for
    the tokens and the logits: the product packs a copy of all of it, and the lookup reads a few rows.
    """
    for value in list(model.graph.initializers.values()):
        tensor, uses = value.const_value, value.uses()
        if not isinstance(tensor, ir.ExternalTensor) or value.is_graph_input() or not uses:
            continue
        own = {uses[0].node.op_type: value}
        for node, position in uses:
            if node.op_type not in own:
                name, kind = f"{value.name}.{node.op_type}", ir.TensorType(tensor.dtype)
                own[node.op_type] = ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=kind)
                model.graph.register_initializer(own[node.op_type])
            node.replace_input_with(position, own[node.op_type])


def replace(model: ir.Model, node: ir.Node) -> None:
    """Puts nodes that do not round what they compute before ``node``, and their results in the place of its own, if it has such a form."""
    tape = GraphTape(f"{node.outputs[0].name}.unrounded")
    if node.op_type in FORMS and (values := FORMS[node.op_type](tape, node)) is not None:
        node.graph.insert_before(node, tape.nodes)
        for old, new in zip(node.outputs, values if isinstance(values, Sequence) else [values]):
            _take_place(old, new)


def _take_place(old, new):
    if old.is_graph_output():
        graph = old.producer().graph
        if new.producer() is None or new.is_graph_output():
            return  # an output keeps a node of its own
        graph.outputs[:] = [new if value is old else value for value in graph.outputs]
        new.name, old.name, new.shape = old.name, f"{old.name}.rounded", old.shape
    old.replace_all_uses_with(new)


def _mat_mul_integer(tape, node):
    factors = _over_scales(tape, node)
    return factors and tape.add("MatMul", *factors)


def _mat_mul_integer_to_float(tape, node):
    x, W, x_scale, W_scale, x_zero, W_zero, bias = [*node.inputs, *[None] * (7 - len(node.inputs))]
    return _scaled(tape, tape.add("DequantizeLinear", x, x_scale, x_zero), W, W_scale, W_zero, bias)


def _dynamic_quantize_mat_mul(tape, node):
    return _scaled(tape, *[*node.inputs, *[None] * (5 - len(node.inputs))])


def _scaled(tape, x, W, scale, zero, bias):
    product = tape.add("MatMul", x, tape.add("DequantizeLinear", W, scale, zero, **_columns(scale)))
    return product if bias is None else tape.add("Add", product, bias)


def _columns(scale):
    """The attribute by which DequantizeLinear takes a scale for each column, where there is more than one."""
    return {"axis": 1} if scale.shape is None or math.prod(scale.shape) > 1 else {}


def _conv_integer(tape, node):
    factors = _over_scales(tape, node)
    return factors and tape.add("Conv", *factors, **_attributes(node))


def _over_scales(tape, node):
    """Both factors of a product of integers, divided by their scales, as what follows multiplies with these; None where neither has
    been rounded in the graph."""
    sources = [value.producer() for value in node.inputs[:2]]
    if not any(_is_rounding(source) for source in sources):
        return None
    return [_over_scale(tape, node, i, source) for i, source in enumerate(sources)]


def _is_rounding(node):
    return node is not None and node.op_type in ("DynamicQuantizeLinear", "QuantizeLinear")


def _over_scale(tape, node, i, source):
    if _is_rounding(source):
        scale = source.outputs[1] if source.op_type == "DynamicQuantizeLinear" else source.inputs[1]
        return tape.add("Div", source.inputs[0], scale)
    integers, zero = tape.add("Cast", node.inputs[i], to=1), node.inputs[i + 2] if len(node.inputs) > i + 2 else None
    if zero is None:
        return integers
    zero = tape.add("Cast", zero, to=1)
    if node.op_type == "ConvInteger" and zero.shape is not None and math.prod(zero.shape) > 1:
        channels = tape.add(
            "Constant", value_ints=[-1, *[1] * (len(node.inputs[1].shape) - 1)], dtype=ir.DataType.INT64
        )
        zero = tape.add("Reshape", zero, channels)
    return tape.add("Sub", integers, zero)


def _q_linear_mat_mul(tape, node):
    a, b = (tape.add("DequantizeLinear", *node.inputs[i : i + 3]) for i in (0, 3))
    return tape.add("QuantizeLinear", tape.add("MatMul", a, b), *node.inputs[6:8], dtype=node.inputs[7].dtype)


def _q_gemm(tape, node):
    flags = {name: node.attributes[name].as_int() for name in ("transA", "transB") if name in node.attributes}
    a = tape.add("DequantizeLinear", *node.inputs[:3])
    b = tape.add("DequantizeLinear", *node.inputs[3:6], axis=0 if flags.get("transB") else 1)
    bias = []
    if len(node.inputs) > 6 and node.inputs[6] is not None:
        scale = tape.add("Mul", node.inputs[1], node.inputs[4])
        bias = [tape.add("Mul", tape.add("Cast", node.inputs[6], to=1), scale)]
    result = tape.add("Gemm", a, b, *bias, **flags)
    if len(node.inputs) < 9 or node.inputs[7] is None:
        return result
    return tape.add("QuantizeLinear", result, *node.inputs[7:9], dtype=node.inputs[8].dtype)


def _q_attention(tape, node):
    x, W, bias, x_scale, W_scale, mask, x_zero, W_zero, past = [*node.inputs, *[None] * (9 - len(node.inputs))]
    x = tape.add("DequantizeLinear", x, x_scale, x_zero)
    W = tape.add("DequantizeLinear", W, W_scale, W_zero, **_columns(W_scale))
    results = [ir.Value(name=f"{value.name}.unrounded", type=ir.TensorType(bias.dtype)) for value in node.outputs]
    inputs = [x, W, bias, mask, past]
    return tape.op_multi_out("Attention", inputs, _attributes(node), domain="com.microsoft", outputs=results)


def _attributes(node):
    return {name: attribute.value for name, attribute in node.attributes.items()}


def _mat_mul_n_bits(tape, node):
    node.attributes.pop("accuracy_level", None)  # 4 lets x be rounded


FORMS = {
    "MatMulInteger": _mat_mul_integer,
    "MatMulIntegerToFloat": _mat_mul_integer_to_float,
    "DynamicQuantizeMatMul": _dynamic_quantize_mat_mul,
    "ConvInteger": _conv_integer,
    "QAttention": _q_attention,
    "QLinearMatMul": _q_linear_mat_mul,
    "QGemm": _q_gemm,
    "MatMulNBits": _mat_mul_n_bits,
}
