"""A traced step as an ONNX graph, in which every tensor is an input under its own name."""

import re
from collections.abc import Mapping

import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnx_ir.passes import common
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules
from torch.export import ExportedProgram, ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)  # fmt: skip
from torch.utils import _pytree as pytree

from unilora_spec import WorkFailed

from ..trace import quiet, root
from .joint import LOGITS, Joint


def translated(
    joint: Joint, batch: Mapping[str, torch.Tensor], dynamic: Mapping[str, Mapping[int, str]], opset: int
) -> ir.Model:
    """The graph of ``joint``. Its inputs are those of ``batch`` (the labels among them), factors, parameters trained in full and frozen
    tensors; its outputs are loss, logits and NAME.grad for each factor and parameter. Raises ``WorkFailed``."""
    rest = joint.factors | joint.saved | joint.frozen
    with quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                _program(joint.graph), opset_version=opset, dynamo=True, optimize=False, verbose=False
            )
            graph = program.model.graph
            for value, name in zip(graph.inputs, [*batch, *rest], strict=True):
                value.name = name
            outputs = ["loss", LOGITS, *(f"{name}.grad" for name in joint.factors | joint.saved)]
            for value, name in zip(graph.outputs, outputs, strict=True):
                value.name = name
            _name_axes(graph, {name: dynamic.get(name, {}) for name in batch})
            program.model.functions.clear()  # they are put in when the graph is whole
            tidy(program.model)
        except Exception as error:  # of many kinds, from tracing, translating and optimizing
            raise WorkFailed(f"torch could not export the step to ONNX: {root(error)}") from error
    for value in [
        *graph.inputs,
        *graph.outputs,
        *graph.initializers.values(),
        *(v for node in graph for v in node.outputs),
    ]:
        value.metadata_props.clear()
    return program.model


def _name_axes(graph: ir.Graph, dynamic: Mapping[str, Mapping[int, str]]) -> None:
    """Gives the sizes that may change their names in place of the tracer's: "batch" for s27, also where they are computed with."""
    names = {}
    for value in graph.inputs:
        for axis, name in dynamic.get(value.name, {}).items():
            names.setdefault(str(value.shape[axis]), name)
    symbols = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")
    for value in [*graph.inputs, *(value for node in graph for value in node.outputs)]:
        if value.shape is not None:
            value.shape = ir.Shape(
                [
                    each if isinstance(each, int) else symbols.sub(lambda m: names[m[0]], str(each))
                    for each in value.shape
                ]
            )


def _program(module: torch.fx.GraphModule) -> ExportedProgram:
    """A traced function as torch.export would give it, without tracing it once more."""
    places = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    (results,) = module.graph.output_node().args
    inputs = [InputSpec(InputKind.USER_INPUT, TensorArgument(name), None) for name in places]
    outputs = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in results]
    specs = pytree.tree_structure(((None,) * len(places), {})), pytree.tree_structure((None,) * len(outputs))
    signature = ModuleCallSignature([each.arg for each in inputs], [each.arg for each in outputs], *specs)
    return ExportedProgram(
        module,
        module.graph,
        ExportGraphSignature(inputs, outputs),
        {},
        {},
        [ModuleCallEntry("", signature)],
        constants={},
    )


RULES = (
    rules.transpose_transpose_rule,
    rules.no_op_transpose_rule,
    rules.reshape_reshape_rule,
    rules.mul_by_1_rule,
    rules.no_op_expand_rule,
)


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
