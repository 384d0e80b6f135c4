"""A traced step as an ONNX graph, in which every tensor is an input under its own name."""

from collections.abc import Mapping

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from unilora_spec import WorkFailed

from ..trace import quiet, root
from .backward import TRANSLATED
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
                verbose=False, custom_translation_table=TRANSLATED,
            )  # fmt: skip
            graph = program.model.graph
            for value, name in zip(graph.inputs, [*batch, *rest], strict=True):
                value.name = name
            outputs = ["loss", LOGITS, *(f"{name}.grad" for name in joint.factors | joint.saved)]
            for value, name in zip(graph.outputs, outputs, strict=True):
                value.name = name
            program.model.functions.clear()  # which would be inlined; they are put in when the graph is whole
            program.optimize()
            ClearMetadataAndDocStringPass()(program.model)
        except Exception as error:  # of many kinds, from tracing, translating and optimizing
            raise WorkFailed(f"torch could not export the step to ONNX: {root(error)}") from error
    for value in [*graph.inputs, *graph.outputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]:
        value.metadata_props.clear()
    return program.model
