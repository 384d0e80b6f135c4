"""An export that does not work leaves nothing, and the command says why."""

import ast
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from unilora_spec import (
    BaseMismatch,
    UniLoraError,
    WorkFailed,
    save_adapter,
)

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
transformers = pytest.importorskip("transformers")
from tiny_models import ROOT, Tiny, export_to, tiny

import export.onnx
from export import export_onnx

# What does not work leaves nothing


def test_an_export_that_disagrees_is_not_left_behind(tmp_path, monkeypatch):
    model, adapter = tiny()
    other = tiny(seed=43)[1]
    target = tmp_path / "m.onnx"
    adapt = export.onnx.adapt
    monkeypatch.setattr(export.onnx, "adapt", lambda graph, _, *more: adapt(graph, [other], *more))
    with pytest.raises(WorkFailed, match=r"output disagree with what the adapter makes of the base by"):
        export_to(target, model, adapter)
    assert list(tmp_path.iterdir()) == []
    target.write_bytes(b"the file of before")
    with pytest.raises(WorkFailed):
        export_to(target, model, adapter)
    assert target.read_bytes() == b"the file of before" and list(tmp_path.iterdir()) == [target]


def test_calls_that_cannot_be_met(tmp_path):
    model, adapter = tiny()
    path = tmp_path / "m.onnx"
    with pytest.raises(UniLoraError, match="mode is 'inputs'; give merged, reconstruct"):
        export_to(path, model, adapter, "inputs")
    with pytest.raises(UniLoraError, match="opset is 17; give one from 18"):
        export_to(path, model, adapter, opset=17)
    with pytest.raises(UniLoraError, match="the folder .* does not exist"):
        export_to(tmp_path / "none" / "m.onnx", model, adapter)
    with pytest.raises(UniLoraError, match="is a folder"):
        export_to(tmp_path, model, adapter)
    with pytest.raises(UniLoraError, match="at least two"):
        export_onnx(model, adapter, {"x": torch.zeros(1, 8)}, path)
    with pytest.raises(UniLoraError, match=r"call model\.float"):
        export_to(path, Tiny().double(), adapter)
    attached = Tiny()
    attached.unilora = adapter
    with pytest.raises(UniLoraError, match=r"call model\.detach"):
        export_to(path, attached, adapter)
    with pytest.raises(BaseMismatch, match="no weight linear"):
        export_onnx(nn.Identity(), adapter, {"input": torch.zeros(2, 8)}, path)
    with pytest.raises(BaseMismatch, match="no parameter head"):
        export_to(path, model, replace(adapter, saved={"head": np.zeros(2, np.float32)}))
    assert not path.exists()


def test_the_oldest_and_the_newest_opset(tmp_path):
    for opset in (export.onnx.OPSETS[0], export.onnx.OPSETS[-1]):
        report = export_to(tmp_path / "m.onnx", *tiny(), opset=opset)
        graph = onnx.load(tmp_path / "m.onnx")
        assert report["opset"] == opset == next(o.version for o in graph.opset_import if o.domain == "")
        assert all(o.version == opset for f in graph.functions for o in f.opset_import if o.domain == "")


# The command


def call(*arguments):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "export", *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_command_refuses_in_one_sentence(tmp_path):
    path = tmp_path / "vec.safetensors"
    save_adapter(tiny()[1], path)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-8])
    for arguments, words in (
        ((), "Missing command"),
        (("onnx",), "--adapter"),
        (("onnx", "--adapter", tmp_path / "none.safetensors"), "none.safetensors: there is no such file"),
        (("onnx", "--adapter", tmp_path / "cut.safetensors"), "cut.safetensors: the tensors end at"),
        (("onnx", "--adapter", path, "-o", path), "is the adapter itself"),
    ):
        status, out, err = call(*arguments)
        assert (status, out, err.count("\n")) == (2, "", 1) and words in err, err
    status, out, _ = call("onnx", "--help")
    assert status == 0 and "Examples: python -m export onnx" in out


def test_export_knows_no_backend():
    for file in (ROOT / "export").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "") or ""]
            )
            assert not any(name.split(".")[0] == "backends" for name in names), file
