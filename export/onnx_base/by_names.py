"""Finds weights by the names that exporters leave: those of the initializers, or of the nodes around them."""

import numpy as np
import onnx_ir as ir

from .exporter_names import ATTENTION, attended, in_attention, spellings, stacks
from .fitting import HOWS, File, Match, Saved, Weight
from .refusal import listed


def by_names(file: File, wanted: Weight | Saved, doubts: dict[str, str], whole: bool) -> list[Match]:
    """Where a weight or a parameter is; [] where no name identifies it. Where a name fits several places, ``doubts`` says which.

    ``whole``: only names count that leave out none of the leading parts of its own.
    """
    found = _by_own_names(file, wanted, doubts, whole) or _left_out(file, wanted, whole)
    return found or ([] if whole else _in_attention(file, wanted))


def _by_own_names(file: File, wanted, doubts: dict[str, str], whole: bool) -> list[Match]:
    for how in HOWS:
        for name in spellings(wanted.name):
            found = [
                Match(wanted.name, constant.value, fits[0], how)
                for constant in file.find(how, name, whole)
                if (fits := wanted.fits(constant, how == "name"))
            ]
            found = found or _in_stacks(file, wanted, how, name, whole)
            if len(found) == 1 or (found and how == "name"):  # by one name: kept in floats and quantized
                return found
            if found:
                doubts[wanted.name] = (
                    f"{listed([each.value for each in found])} are all of its shape and used where it is"
                )
    return []


def _in_stacks(file, wanted, how, name, whole) -> list[Match]:
    """Stacks are q, k, v or gate, up. The last two matrices of one have the same size, the first may have another."""
    if not isinstance(wanted, Weight):
        return []
    out, found = wanted.segments[0].out_features, []
    for stack, part, parts in stacks(name):
        for constant in file.find(how, stack, whole):
            for turned, height in wanted.stacked(constant):
                row = height - (parts - part) * out if part else 0
                if row >= part * out:
                    found.append(Match(wanted.name, constant.value, turned, how, row))
    return found


def _in_attention(file: File, wanted) -> list[Match]:
    """Finds a weight in the one matrix of a fused attention, by the names of the nodes behind it."""
    if not isinstance(wanted, Weight):
        return []
    out, found = wanted.segments[0].out_features, []
    for constant in file.constants:
        node = constant.uses[0].node
        if node.op_type not in ATTENTION or node.domain != "com.microsoft" or node.inputs[1] is not constant.value:
            continue
        places = {place for name in attended(node) if (place := in_attention(wanted.name, name)) is not None}
        for turned, height in wanted.stacked(constant) if len(places) == 1 else ():
            sizes = (
                node.attributes["qkv_hidden_sizes"].as_ints()
                if "qkv_hidden_sizes" in node.attributes
                else [height // 3] * 3
            )
            (place,) = places
            if sizes[place] == out and sum(sizes) == height:
                found.append(Match(wanted.name, constant.value, turned, "node name", sum(sizes[:place])))
    return found if len(found) == 1 else []


def _left_out(file: File, wanted, whole: bool) -> list[Match]:
    """torch.export's optimizer drops a bias of zeros from a Gemm; that of a new head is one. It is put in again."""
    if not (isinstance(wanted, Saved) and len(wanted.shape) == 1 and wanted.name.endswith(".bias")):
        return []
    weight = wanted.name.removesuffix("bias") + "weight"
    constants = file.find("name", weight, whole) or file.find("node name", weight, whole)
    found = [use for constant in constants for use in constant.uses]
    without = [
        use for use in found if use.node.op_type == "Gemm" and use.shape[:1] == wanted.shape and _no_bias(use.node)
    ]
    if not found or without != found or wanted.name in file.initializers:
        return []
    zeros = ir.Tensor(np.zeros(wanted.shape, found[0].dtype.numpy()), name=wanted.name)
    bias = ir.Value(name=wanted.name, shape=zeros.shape, type=ir.TensorType(zeros.dtype), const_value=zeros)
    file.graph.register_initializer(bias)
    for use in found:
        use.node.resize_inputs(3)
        use.node.replace_input_with(2, bias)
    return [Match(wanted.name, bias, False, "node name")]


def _no_bias(gemm):
    return len(gemm.inputs) < 3 or gemm.inputs[2] is None
