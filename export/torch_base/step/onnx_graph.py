"""A traced step as an ONNX graph, in which every tensor is an input under its own name."""

from collections.abc import Mapping

import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnx_ir.passes import common
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules

from unilora_spec import WorkFailed

from ..trace import quiet, root
from .joint import LOGITS, Joint


def translated(joint: Joint, batch: Mapping[str, torch.Tensor], dynamic: Mapping[str, Mapping[int, str]], opset: int) -> ir.Model:
    """The graph of ``joint``: inputs those of ``batch`` (the labels among them), factors, parameters trained in full and frozen tensors; outputs
    loss, logits and NAME.grad for each factor and parameter. Raises ``WorkFailed``."""
    rest = joint.factors | joint.saved | joint.frozen
    shapes = [dict(dynamic[name]) for name in batch] + [None] * len(rest)
    with quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                joint.graph, (*batch.values(), *rest.values()), dynamic_shapes=shapes, opset_version=opset, dynamo=True, optimize=False,
                verbose=False,
            )  # fmt: skip
            graph = program.model.graph
            for value, name in zip(graph.inputs, [*batch, *rest], strict=True):
                value.name = name
            outputs = ["loss", LOGITS, *(f"{name}.grad" for name in joint.factors | joint.saved)]
            for value, name in zip(graph.outputs, outputs, strict=True):
                value.name = name
            program.model.functions.clear()  # they are put in when the graph is whole
            tidy(program.model)
        except Exception as error:  # of many kinds, from tracing, translating and optimizing
            raise WorkFailed(f"torch could not export the step to ONNX: {root(error)}") from error
    for value in [*graph.inputs, *graph.outputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]:
        value.metadata_props.clear()
    return program.model


RULES = (rules.transpose_transpose_rule, rules.no_op_transpose_rule, rules.reshape_reshape_rule, rules.mul_by_1_rule, rules.no_op_expand_rule)


def tidy(model: ir.Model) -> None:
    """Takes out what tracing leaves behind: what is computed twice or is known, and views of views. (torch's own ``optimize`` tries sixty rules
    on each node, of which these fit a backward pass: it takes 20 s of MiniLM's step, and this a part of one.)"""
    _fold(model)
    RewritePass(RULES)(model)
    _fold(model)
    for node in list(model.graph):
        if node.op_type == "Gemm":
            _turned(node)
    for each in (common.RemoveUnusedNodesPass(), common.NameFixPass(), common.ClearMetadataAndDocStringPass()):
        each(model)


def _fold(model):
    onnxscript.optimizer.fold_constants(model)
    for each in (
        common.RemoveUnusedNodesPass(), common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(), common.CommonSubexpressionEliminationPass(),
    ):  # fmt: skip
        each(model)


def _turned(gemm):
    """Lets a Gemm turn its factors itself, so that a weight is one constant for the forward and the backward pass."""
    for position, flag in enumerate(("transA", "transB")):
        source = gemm.inputs[position].producer()
        if source is not None and source.op_type == "Transpose":
            before = gemm.attributes[flag].as_int() if flag in gemm.attributes else 0
            gemm.attributes[flag] = ir.AttrInt64(flag, 1 - before)
            gemm.replace_input_with(position, source.inputs[0])
