"""A graph that does not round what it computes to 8 bits; its weights stay what quantization made them.

Of two sums that differ in their last bit one may be rounded up and one down, and some layers later that is as much as
quantization's own error: 0.08 of the largest logit in MiniLM. So graphs of quantized models are compared without it.
"""

import tempfile
from pathlib import Path

import onnx_ir as ir
import onnxruntime
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ..graph.rebuild import GraphTape
from . import compare as parity

# ONNX Runtime makes a MatMulNBits of a product with a weight that is dequantized, and lets it round the other factor.
ROUNDING = ("DynamicQuantizeLinear", "QuantizeLinear", "QAttention", "MatMulNBits", "DequantizeLinear")


def rounds(model: ir.Model) -> bool:
    """Whether a graph may round what it computes to 8 bits."""
    return any(node.op_type in ROUNDING or node.op_type.startswith("QLinear") for node in model.graph.all_nodes())


def session(model: ir.Model) -> onnxruntime.InferenceSession:
    """A graph, which is changed, in ONNX Runtime, without such roundings but those of operators that have no other form."""
    for node in list(model.graph.all_nodes()):
        tape = GraphTape(model.opset_imports[""], f"{node.outputs[0].name}.unrounded")
        if node.op_type in FORMS and (value := FORMS[node.op_type](tape, node)) is not None:
            node.graph.insert_before(node, tape.nodes)
            _take_place(node.outputs[0], value)
    for node in list(model.graph.all_nodes()):
        before = node.inputs[0].producer() if node.op_type == "DequantizeLinear" else None
        if before is not None and before.op_type == "QuantizeLinear":
            _take_place(node.outputs[0], before.inputs[0])
    RemoveUnusedNodesPass()(model)
    with tempfile.TemporaryDirectory() as folder:
        ir.save(model, Path(folder) / "model.onnx", external_data="model.data")
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        return parity.session_to_compare(Path(folder) / "model.onnx", options)


def _take_place(old, new):
    if old.is_graph_output():
        graph = old.producer().graph
        if new.producer() is None or new.is_graph_output():
            return  # an output keeps a node of its own
        graph.outputs[:] = [new if value is old else value for value in graph.outputs]
        new.name, old.name, new.shape = old.name, f"{old.name}.rounded", old.shape
    old.replace_all_uses_with(new)


def _mat_mul_integer(tape, node):
    """DynamicQuantizeLinear's scale is divided by here, as what follows multiplies with it."""
    source = node.inputs[0].producer()
    if source is None or source.op_type != "DynamicQuantizeLinear":
        return None
    W = tape.add("Cast", node.inputs[1], to=1)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        W = tape.add("Sub", W, tape.add("Cast", node.inputs[3], to=1))
    return tape.add("MatMul", tape.add("Div", source.inputs[0], source.outputs[1]), W)


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


def _mat_mul_n_bits(tape, node):
    node.attributes.pop("accuracy_level", None)  # 4 lets x be rounded


FORMS = {
    "MatMulInteger": _mat_mul_integer,
    "QLinearMatMul": _q_linear_mat_mul,
    "QGemm": _q_gemm,
    "MatMulNBits": _mat_mul_n_bits,
}
