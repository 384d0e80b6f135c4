"""Fused attention taken apart, where A and B have to act beside the product that it has inside.

ONNX Runtime's optimizer makes one Attention of a layer's product with q, k and v and of what follows, and its quantizer makes a
QAttention of that. The same numbers come from the product as a node of its own, and MultiHeadAttention behind it.
"""

from collections.abc import Iterable

import onnx_ir as ir

from unilora_spec import UniLoraError

from .rebuild import GraphTape
from .sites import uses

MICROSOFT = "com.microsoft"
SHARED = ("num_heads", "unidirectional", "mask_filter_value", "scale")  # attributes that MultiHeadAttention has as well
INPUTS = {  # the position of each of its inputs
    "Attention": {"mask": 3, "past": 4, "attention_bias": 5, "past_sequence_length": 6},
    "QAttention": {"mask": 5, "past": 8},
}


def take_apart(model: ir.Model, weights: Iterable[ir.Value], mode: str) -> None:
    """Takes apart each attention that has one of the ``weights`` as its matrix, where A and B have to act beside it: over what is
    quantized, and for a bank.

    Raises ``UniLoraError`` for an attention that does what MultiHeadAttention does not.
    """
    for weight in weights if mode != "merged" else ():
        for use in uses(weight):
            fused = use.node.domain == MICROSOFT and use.node.op_type in INPUTS
            if fused and (use.quantized or mode == "bank"):
                _take_apart(model.graph, use.node, weight)


def _take_apart(main: ir.Graph, node: ir.Node, weight: ir.Value) -> None:
    def input_named(name):
        i = INPUTS[node.op_type].get(name, len(node.inputs))
        return node.inputs[i] if i < len(node.inputs) else None

    options = {name: each.value for name, each in node.attributes.items()}
    sizes = options.pop("qkv_hidden_sizes", [weight.shape[1] // 3] * 3)
    more = [name for name, value in options.items() if name not in SHARED and value]
    if more := more + ["past_sequence_length"] * (input_named("past_sequence_length") is not None):
        raise UniLoraError(
            f"{node.op_type} {node.name or node.outputs[0].name} has {weight.name} inside, where A and B cannot act beside it, and"
            f" cannot be taken apart as it has {more[0]}; give a base whose attention is not fused, or another mode"
        )
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    output = node.outputs[0]
    dtype = bias.dtype if bias is not None else output.dtype
    tape = GraphTape(f"{output.name}.apart")
    product = (_product if node.op_type == "Attention" else _product_of_integers)(tape, node, dtype)
    if bias is not None:
        product = tape.add("Add", product, bias, dtype=dtype)
    parts = [ir.Value(name=f"{output.name}.{part}", type=ir.TensorType(dtype)) for part in "qkv"]
    tape.op_multi_out("Split", [product, tape.integers(f"{output.name}.sizes", sizes)], {"axis": -1}, outputs=parts)
    cache = [None, None]
    if (past := input_named("past")) is not None:
        cache = [tape.add("Gather", past, tape.integers(f"{output.name}.{i}", i), axis=0, dtype=dtype) for i in (0, 1)]
    results = ("attended", "key", "value") if len(node.outputs) > 1 else ("attended",)
    results = [ir.Value(name=f"{output.name}.{result}", type=ir.TensorType(dtype)) for result in results]
    tape.op_multi_out(
        "MultiHeadAttention",
        [*parts, None, input_named("mask"), input_named("attention_bias"), *cache],
        {name: options[name] for name in SHARED if name in options},
        domain=MICROSOFT, outputs=results,
    )  # fmt: skip
    tape.nodes[-1].name = node.name
    made = results[:1]
    if len(results) > 1:
        first = tape.integers(f"{output.name}.axis", [0])
        both = [tape.add("Unsqueeze", value, first, dtype=dtype) for value in results[1:]]
        made.append(tape.add("Concat", *both, axis=0, dtype=dtype))
    for value in tape.initializers:
        main.register_initializer(value)
    node.graph.insert_before(node, tape.nodes)
    for old, new in zip(node.outputs, made):
        new.shape = old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name, new.name = f"{old.name}.fused", old.name
    node.graph.remove(node, safe=True)


def _product(tape, node, dtype):
    return tape.add("MatMul", *node.inputs[:2], dtype=dtype)


def _product_of_integers(tape, node, dtype):
    """As quantize_dynamic writes it."""
    x, W, _, x_scale, W_scale, _, *zeros = node.inputs[:8]
    integers = tape.add("MatMulInteger", x, W, *zeros, dtype=ir.DataType.INT32)
    scale = tape.add("Mul", x_scale, W_scale, dtype=dtype)
    return tape.add("Mul", tape.add("Cast", integers, to=int(dtype), dtype=dtype), scale, dtype=dtype)
