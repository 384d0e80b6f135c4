"""The names of a model's parameters, as exporters and quantization tools leave them in an ONNX file.

Where a file keeps a parameter as it is, the initializer bears its name. A weight that is stored transposed gets a name
without meaning (``onnx::MatMul_412``, ``val_92``); then the nodes that use it identify the module that it belongs to.
"""

import ast
import os
import re
from collections.abc import Iterator

import onnx_ir as ir

from ..graph.sites import Use

# By onnxruntime.quantization: quantize_dynamic and quantize_static, MatMulNBitsQuantizer and its relatives; by Optimum, which
# gives the branches of a merged decoder what they have in common.
RENAMED = re.compile(r"(_Transposed|_quantized|(_DQ)?_Q\d+(G-?\d+)?|_Bnb4|_merged_\d+)+$")
SCOPES = "pkg.torch.onnx.name_scopes"  # torch.export's exporter: the modules around a node, and the node
PASSING = ("Cast", "DequantizeLinear", "Identity")
BIASES = {"Add": (0, 1), "QLinearAdd": (0, 3), "BiasGelu": (1,), "FastGelu": (1,), "SkipLayerNormalization": (4,)}

# onnxruntime-genai's builder has names of its own, and stacks matrices on top of each other.
ALIASES = (("", ""), (".self_attn.", ".attn."))
ATTENTION = ("Attention", "QAttention", "QOrderedAttention")  # of com.microsoft: q, k and v of a layer are one matrix
LETTERS = re.compile(r"([qkv])(_proj|_lin|uery|ey|alue)?")
STACKS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def names(value: ir.Value, uses: list[Use]) -> Iterator[tuple[str, str]]:
    """(where from, name) for each name of a parameter that an initializer may have: its own, and by the nodes around it."""
    yield "name", original(value.name)
    for use in uses:
        for scope in scopes(use.node, *use.result[:1]):
            yield "node name", f"{scope}.weight"
        if use.form == "product":
            for bias in _biases(use):
                yield "bias name", f"{bias.removesuffix('.bias')}.weight"


def original(name: str) -> str:
    """The name that an initializer had before it was quantized."""
    return RENAMED.sub("", name)


def spellings(name: str) -> list[str]:
    """A parameter's name, and the names that other tools give it."""
    return list(dict.fromkeys(name.replace(ours, theirs) for ours, theirs in ALIASES))


def stacks(name: str) -> Iterator[tuple[str, int, int]]:
    """(name of the stack, which of its matrices, how many it has) for each stack that may hold a weight."""
    for stack, parts in STACKS.items():
        for i, part in enumerate(parts):
            if f".{part}." in name:
                yield name.replace(f".{part}.", f".{stack}."), i, len(parts)


def attended(node: ir.Node) -> Iterator[str]:
    """The names that the projection behind a fused attention may have: its own weight has lost them."""
    waiting = [node.outputs[0]]
    for value in waiting:
        for user, position in value.uses():
            if user.op_type in PASSING or user.op_type in (
                "Reshape",
                "Transpose",
                "QuantizeLinear",
                "DynamicQuantizeLinear",
            ):
                waiting.append(user.outputs[0])
            elif position == 0:
                yield from scopes(user)


def in_attention(name: str, projection: str) -> int | None:
    """Which of q, k, v a weight is in the attention that ends with ``projection``, by their names; None where it is none of them.

    Both are below the attention's module, which itself is below the layer's number. Leading parts may be left out on either side.
    """
    *above, last = name.removesuffix(".weight").split(".")
    letter, beside = LETTERS.fullmatch(last), projection.split(".")[:-1]
    forms = [(above[i:], beside, above[:i]) for i in range(len(above))] + [
        (above, beside[i:], beside[:i]) for i in range(1, len(beside))
    ]
    for mine, others, left_out in forms if letter else ():
        common = os.path.commonprefix([mine, others])
        apart = left_out + mine[len(common) :] + others[len(common) :]
        if common and not common[-1].isdecimal() and not any(part.isdecimal() for part in apart):
            return "qkv".index(letter[1])
    return None


def scopes(node: ir.Node, *results: ir.Value) -> list[str]:
    """The names that the module around a node may have, the likelier one first.

    TorchScript names nodes and results by attributes, /encoder/layer.0/query/MatMul. A Sequential comes twice, as
    /features/features.0/MatMul; so may a module in another of its name.
    """
    found = []
    for text in (node.name, *(value.name for value in [*node.outputs, *results])):
        if text and text.startswith("/"):
            parts = text.split("/")[1:-1]
            once = [part for part, inner in zip(parts, [*parts[1:], ""]) if not inner.startswith(f"{part}.")]
            found += [".".join(once), ".".join(parts)]
    try:
        found += [str(module) for module in ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))[-2:-1]]
    except (ValueError, SyntaxError):
        pass
    return [scope for scope in dict.fromkeys(found) if scope]


def _biases(use: Use) -> Iterator[str]:
    """A bias keeps its name where its weight does not. ``prepare`` has given it back to those that shared one."""
    added = [(use.node, 2)] if use.node.op_type == "Gemm" else []
    added += [(node, i) for node, _ in use.result[0].uses() for i in BIASES.get(node.op_type, ())]
    for node, i in added:
        value = node.inputs[i] if i < len(node.inputs) else None
        while value is not None and value.producer() is not None and value.producer().op_type in PASSING:
            value = value.producer().inputs[0]
        if value is not None and value.is_initializer() and original(value.name).endswith(".bias"):
            yield original(value.name)
