"""Exports of small models for tests: what is traced once serves all modes, which is nearly all of the time that they take."""

import contextlib
import functools
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from adapters import merged
from small_models import built

import export.torch_base.from_torch
from export import export_onnx
from export.__main__ import app, get_command
from export.torch_base.inputs import real_inputs
from export.torch_base.model import run
from unilora_spec.command import run as ended


@contextlib.contextmanager
def tracing_once():
    """The traced graph is the same in four of the modes. Merged weights are in what is traced, so each has its own."""
    trace, found = export.torch_base.from_torch.trace, {}

    def remembered(model, inputs, dynamic, outputs, opset, keep):
        key = (model, tuple(inputs), opset, tuple(keep))
        if key not in found or not keep:
            graph, kept = trace(model, inputs, dynamic, outputs, opset, keep)
            found[key] = ir.to_proto(graph).SerializeToString(), list(kept.items())
        graph = ir.from_proto(onnx.ModelProto.FromString(found[key][0]))
        return graph, {name: graph.graph.initializers[value.name] for name, value in found[key][1]}

    export.torch_base.from_torch.trace = remembered
    try:
        yield
    finally:
        export.torch_base.from_torch.trace = trace


@pytest.fixture(scope="module", autouse=True)
def traced_once():
    with tracing_once():
        yield


@pytest.fixture
def command(monkeypatch, capfd):
    """The exit status of a call of `python -m export`, its output and errors; within this process."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            ended(lambda: get_command(app).main(prog_name="python -m export", standalone_mode=False))
        return end.value.code or 0, *capfd.readouterr()

    return call


def other(adapter, seed=1):
    """An adapter of the same form, with other values in all of it."""
    random = np.random.default_rng(seed)
    drawn = {name: random.normal(size=value.shape).astype(np.float32) for name, value in adapter.saved.items()}
    return replace(adapter, theta=random.normal(size=adapter.theta.shape).astype(np.float32), saved=drawn)


def export_to(path, model, adapter, mode, **options):
    """``adapter`` in a file, in a bank beside another one."""
    adapters = [adapter, other(adapter)] if mode == "bank" else adapter
    first, *more = real_inputs(model)
    return export_onnx(model, adapters, first, path, mode, more_inputs=more, **options)


def largest(report):
    return max(row["relative"] for row in report["comparison"]["outputs"].values())


def session_of(model, level=None):
    options = onnxruntime.SessionOptions()
    if level is not None:
        options.graph_optimization_level = level
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@functools.cache
def tokens(rows, columns):
    random = np.random.default_rng(rows + columns)
    return {"input_ids": random.integers(1, 50, (rows, columns)), "attention_mask": np.ones((rows, columns), np.int64)}


def said_by_torch(build, adapter, feed):
    """The logits of a model with an adapter in its weights, by the specification's own merge; of the base for None."""
    model = built(build)[0] if adapter is None else merged(built(build)[0], adapter)
    with torch.no_grad():
        return run(model, {name: torch.from_numpy(value) for name, value in feed.items()})["logits"].numpy()
