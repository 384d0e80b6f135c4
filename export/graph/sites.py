"""Where a graph uses a weight: products and lookups, beside which a low-rank path can stand, and all other uses.

The weight is a constant of the graph, in floats or quantized. Between it and its use there may be nodes that leave its values as
they are: Transpose, Identity, Cast, DequantizeLinear.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class Use:
    """One use of a weight W of ``shape`` (out, in).

    ``node``        what uses it
    ``quantized``   whether the constant holds other numbers than floats
    ``dtype``       of a float result
    ``form``        "product": result = x · Wᵀ; "lookup": result = the rows x of W; "other"
    ``x``           a value, or (value, scale, zero point) where it is quantized
    ``result``      likewise
    ``transposed``  whether the constant holds (in, out)
    """

    node: ir.Node
    quantized: bool
    dtype: ir.DataType
    form: str = "other"
    x: tuple[ir.Value, ...] = ()
    result: tuple[ir.Value, ...] = ()
    shape: tuple[int, int] = ()
    transposed: bool = False

    def __str__(self):
        return f"{self.node.op_type} {self.node.name or self.node.outputs[0].name}"


def uses(constant: ir.Value) -> list[Use]:
    """All uses of a constant, of any dtype and shape."""
    return list(_follow(constant, _State(constant.dtype, tuple(constant.shape))))


def uses_in_turn(constant: ir.Value) -> Iterator[Use]:
    """The same, each looked up when it is its turn: what was added to the result of one may be the input of the next."""
    for number in range(len(uses(constant))):
        yield uses(constant)[number]


@dataclass(frozen=True)
class _State:
    """What the nodes on the way to a use have done to a constant."""

    dtype: ir.DataType
    shape: tuple[int, ...]
    turned: bool = False
    quantized: bool = False

    def after(self, **changes):
        return _State(**{**self.__dict__, **changes})


def _follow(value: ir.Value, state: _State) -> Iterator[Use]:
    for node, position in value.uses():
        op = node.op_type if node.domain in ("", "com.microsoft") else None
        if op == "Identity":
            yield from _follow(node.outputs[0], state)
        elif op == "Transpose" and len(state.shape) == 2:
            yield from _follow(node.outputs[0], state.after(shape=state.shape[::-1], turned=not state.turned))
        elif op == "Cast" and state.dtype in FLOATS:
            yield from _follow(node.outputs[0], state.after(dtype=ir.DataType(node.attributes["to"].as_int())))
        elif op == "DequantizeLinear" and position == 0:
            yield from _follow(node.outputs[0], state.after(dtype=node.inputs[1].dtype, quantized=True))
        else:
            quantized = state.quantized or state.dtype not in FLOATS
            found = FORMS[op](node, position, state) if op in FORMS else None
            if found is None:
                yield Use(node, quantized, state.dtype)
                continue
            # `stored` tells whether the node sees W as (in, out); the constant may be turned the other way.
            form, x, result, in_out, dtype, *shape = found
            out_in = shape[0] if shape else (state.shape[::-1] if in_out else state.shape)
            yield Use(node, quantized, dtype, form, x, result, tuple(out_in), in_out != state.turned)


def _product(node, in_out, dtype):
    return "product", node.inputs[:1], _behind_quantization(node.outputs[0]), in_out, dtype


def _mat_mul(node, position, state):
    if position == 1 and len(state.shape) == 2:
        return _product(node, True, state.dtype)


def _gemm(node, position, state):
    plain = not _attribute(node, "transA") and _attribute(node, "alpha", 1.0) == 1
    if position == 1 and plain:
        return _product(node, not _attribute(node, "transB"), state.dtype)


def _fused_mat_mul(node, position, state):
    flags = any(_attribute(node, name) for name in ("transA", "transBatchA", "transBatchB"))
    if position == 1 and len(state.shape) == 2 and not flags and _attribute(node, "alpha", 1.0) == 1:
        return _product(node, not _attribute(node, "transB"), state.dtype)


def _packed(node, position, state):
    if position == 1:
        return *_product(node, False, node.inputs[2].dtype), (_attribute(node, "N"), _attribute(node, "K"))


def _mat_mul_integer(node, position, state):
    """As quantize_dynamic writes it: MatMulInteger, Cast, and a product with both scales."""
    cast = _only_consumer(node.outputs[0], "Cast")
    scaled = cast and _only_consumer(cast.outputs[0], "Mul")
    if position != 1 or not scaled:
        return None
    scales = next(value for value in scaled.inputs if value is not cast.outputs[0]).producer()
    source = node.inputs[0].producer()
    if source is not None and source.op_type == "DynamicQuantizeLinear":
        x = (source.inputs[0],)
    elif scales is not None and scales.op_type == "Mul" and len(node.inputs) > 2:
        x = (node.inputs[0], scales.inputs[0], node.inputs[2])
    else:
        return None
    return "product", x, (scaled.outputs[0],), True, ir.DataType.FLOAT


def _mat_mul_integer_to_float(node, position, state):
    """What ONNX Runtime's optimizer makes of MatMulInteger and what scales it."""
    if position == 1:
        source = node.inputs[0].producer()
        given = source is not None and source.op_type == "DynamicQuantizeLinear"
        quantized = (node.inputs[0], node.inputs[2], *node.inputs[4:5])
        x = (source.inputs[0],) if given else tuple(value for value in quantized if value is not None)
        dtype = node.inputs[2].dtype or ir.DataType.FLOAT
        return "product", x, _behind_quantization(node.outputs[0]), True, dtype


def _dynamic_quantize_mat_mul(node, position, state):
    if position == 1:
        return _product(node, True, node.inputs[2].dtype or ir.DataType.FLOAT)


def _q_linear_mat_mul(node, position, state):
    if position == 3:
        after = _only_consumer(node.outputs[0], "DequantizeLinear")
        result = (after.outputs[0],) if after else (node.outputs[0], *node.inputs[6:])
        return "product", node.inputs[:3], result, True, node.inputs[1].dtype


def _q_gemm(node, position, state):
    plain = not _attribute(node, "transA") and _attribute(node, "alpha", 1.0) == 1
    if position == 3 and plain:
        scales = () if None in node.inputs[7:] else node.inputs[7:]
        after = _only_consumer(node.outputs[0], "DequantizeLinear")
        result = (after.outputs[0],) if after else (node.outputs[0], *scales)
        return "product", node.inputs[:3], result, not _attribute(node, "transB"), node.inputs[1].dtype


def _gather(node, position, state):
    if position == 0 and len(state.shape) == 2 and _attribute(node, "axis", 0) == 0:
        result, dtype = node.outputs[0], state.dtype
        if state.dtype not in FLOATS:
            after = _only_consumer(result, "DequantizeLinear")
            if after is None:
                return None
            result, dtype = after.outputs[0], after.inputs[1].dtype
        return "lookup", (node.inputs[1],), _behind_quantization(result), False, dtype


def _gather_block_quantized(node, position, state):
    """Of 4 bits a number, as INT4 or UINT4; where bytes hold two of them, the shape would have to be asked for."""
    four = state.dtype in (ir.DataType.INT4, ir.DataType.UINT4)
    if position == 0 and four and len(state.shape) == 2 and _attribute(node, "gather_axis", 0) == 0:
        return "lookup", (node.inputs[1],), (node.outputs[0],), False, node.inputs[2].dtype


FORMS = {
    "MatMul": _mat_mul,
    "Gemm": _gemm,
    "FusedMatMul": _fused_mat_mul,
    "MatMulNBits": _packed,
    "MatMulBnb4": _packed,
    "MatMulInteger": _mat_mul_integer,
    "MatMulIntegerToFloat": _mat_mul_integer_to_float,
    "DynamicQuantizeMatMul": _dynamic_quantize_mat_mul,
    "QLinearMatMul": _q_linear_mat_mul,
    "QGemm": _q_gemm,
    "Gather": _gather,
    "GatherBlockQuantized": _gather_block_quantized,
}


def _behind_quantization(result):
    """What is added goes behind a QuantizeLinear and its DequantizeLinear: its range was measured on the base alone."""
    quantize = _only_consumer(result, "QuantizeLinear")
    dequantize = quantize and _only_consumer(quantize.outputs[0], "DequantizeLinear")
    return (dequantize.outputs[0] if dequantize else result,)


def _only_consumer(value, op_type):
    consumers = value.consumers()
    if len(consumers) == 1 and consumers[0].op_type == op_type and not value.is_graph_output():
        return consumers[0]
    return None


def _attribute(node, name, default=None):
    return node.attributes[name].value if name in node.attributes else default
