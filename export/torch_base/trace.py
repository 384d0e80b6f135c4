"""Turns a PyTorch model into an ONNX graph in which chosen weights keep their names, so that they are found again."""

import contextlib
import logging
import warnings
from collections.abc import Mapping, Sequence

import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from unilora_spec import WorkFailed

from .model import Flat


def trace(model, inputs: dict, dynamic: dict, outputs: Sequence[str], opset: int, keep: Mapping[str, torch.Tensor]):
    """The optimized graph of ``model``, and {name: initializer} of the parameters ``keep`` that it uses.

    ``dynamic`` names the axes whose size may change, {input: {axis: name}}, ``outputs`` those outputs of ``run`` that the
    graph gives.
    """
    flat = Flat(model, outputs)
    with quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                flat, (), kwargs={"batch": inputs}, dynamic_shapes={"batch": dynamic}, opset_version=opset,
                dynamo=True, optimize=False, verbose=False,
            )  # fmt: skip
        except Exception as error:  # of many kinds, from tracing, translating and optimizing
            raise WorkFailed(f"torch could not export the model to ONNX: {root(error)}") from error
        graph = program.model.graph
        _name(graph.inputs, inputs, "inputs")
        _name(graph.outputs, outputs, "outputs")
        found = {name: _initializer(flat, graph, tensor) for name, tensor in keep.items()}
        kept = {name: value for name, value in found.items() if value is not None}
        for value in list(graph.initializers.values()):
            value.name = value.name.removeprefix("model.")
        # The optimizer folds a weight into its transpose, under a new name. It leaves inputs alone.
        for value in kept.values():
            graph.initializers.pop(value.name)
            graph.inputs.append(value)
        program.optimize()
        for value in kept.values():
            graph.inputs.remove(value)
            graph.register_initializer(value)
        # Each node carries the Python stack that made it, with this machine's paths.
        ClearMetadataAndDocStringPass()(program.model)
    for value in [*graph.inputs, *graph.outputs, *graph.initializers.values(), *_results(graph)]:
        value.metadata_props.clear()
    if program.model.opset_imports[""] != opset:
        raise WorkFailed(f"this model cannot be exported to opset {opset}; leave --opset out or give a higher one")
    return program.model, {name: value for name, value in kept.items() if value.uses()}


def _name(values, names, what):
    if len(values) != len(names):
        raise WorkFailed(f"the exported graph has {len(values)} {what}, the model has {len(names)}")
    for value, name in zip(values, names):
        value.name = name


def _initializer(model, graph, tensor):
    """The initializer of a parameter. Parameters that are one tensor (tied embeddings) are in the graph once."""
    names = [name for name, value in model.named_parameters(remove_duplicate=False) if value is tensor]
    return next((graph.initializers[name] for name in names if name in graph.initializers), None)


def _results(graph):
    return (value for node in graph for value in node.outputs)


def root(error) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]:.200}"


@contextlib.contextmanager
def quiet():
    """Silences torch's exporter, whose warnings and log lines no user can act on."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch.__trace", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)
