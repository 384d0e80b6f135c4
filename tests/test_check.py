"""`python -m export check`: a file that answers as its base and adapter, and files that do not."""

import json

import numpy as np
import onnx
import pytest
import torch
from exports import command  # noqa: F401  a fixture
from onnxruntime.quantization import quantize_dynamic
from test_export import bert, llama
from tiny_models import make_adapter

from export import export_onnx, export_onnx_file
from export.check import check_with_file, check_with_torch
from export.torch_base.inputs import real_inputs
from unilora_spec import UniLoraError, load_adapter, save_adapter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small BERT with a head in its folder, two adapters of it, and files: the base, and the first adapter merged."""
    folder = tmp_path_factory.mktemp("check")
    model, segments = bert()
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):  # the exporter keeps one for all that are zeros
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder / "base")
    first, *more = real_inputs(model)
    for name, scale in (("zero", 0), ("a", 1), ("b", 0.5)):
        adapter = make_adapter(
            segments, model=model, labels=tuple("xyz"), saved=["classifier.weight"], name=folder / "base"
        )
        adapter.theta *= scale
        save_adapter(adapter, folder / f"{name}.safetensors")
        if name == "zero":
            export_onnx(model, adapter, first, folder / "zero.onnx", "merged", more_inputs=more)
        else:  # which takes no seconds
            mode = "input" if name == "b" else "merged"
            export_onnx_file(folder / "zero.onnx", adapter, folder / f"{name}.onnx", mode)
    for name in ("a", "zero"):
        graph = onnx.load(folder / f"{name}.onnx")
        del graph.metadata_props[:]
        onnx.save(graph, folder / f"{name}-by-others.onnx")
    return folder


@pytest.mark.parametrize("base", [None, "zero.onnx"], ids=["PyTorch", "an ONNX base"])
def test_files_that_agree_and_files_that_do_not(folder, base):
    for file, name, agrees in (
        ("a.onnx", "a", True),
        ("a-by-others.onnx", "a", True),
        ("b.onnx", "b", True),
        ("a-by-others.onnx", "b", False),
    ):
        adapters = [load_adapter(folder / f"{name}.safetensors")]
        if base is None:
            report = check_with_torch(folder / file, adapters, None, None, lambda step: None)
        else:
            report = check_with_file(folder / file, adapters, folder / base, None, {}, lambda step: None)
        row = report["comparison"]["outputs"]["logits"]
        # Two orders of float32 sums, or another adapter.
        assert row["relative"] < 1e-5 if agrees else row["relative"] > 1e-2
        assert row["labels"] == 9 and report["comparison"]["within"] == agrees, (file, name)


def test_a_quantized_base(folder, tmp_path):
    """What is computed in int8 is compared without that rounding, as when it was exported."""
    quantize_dynamic(folder / "zero.onnx", folder / "int8.onnx")
    a = load_adapter(folder / "a.safetensors")
    report = export_onnx_file(folder / "int8.onnx", a, tmp_path / "a.onnx", "reconstruct")
    assert report["same_contents"] is None and "quantized" in report["not_comparable"]
    for file, agrees in ((tmp_path / "a.onnx", True), (folder / "int8.onnx", False)):
        if not agrees:
            graph = onnx.load(file)
            del graph.metadata_props[:]
            onnx.save(graph, file)
        found = check_with_file(file, [a], folder / "int8.onnx", None, {}, lambda step: None)
        assert found["comparison"]["within"] == agrees and "8 bits" in found["comparison"]["note"]


def test_the_command(folder, command, tmp_path):
    ids = np.array([[3, 4, 5], [6, 7, 8]])
    np.savez(tmp_path / "batch.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    arguments = ("--adapter", folder / "a.safetensors", "--inputs", tmp_path / "batch.npz")
    status, out, err = command("check", folder / "a.onnx", *arguments)
    assert (status, err) == (0, f"the adapter names its base: {folder / 'base'}\n")  # said, as nobody typed it
    assert "logits" in out and "0 of 2" in out
    assert "a.onnx answers as PyTorch, on" in out.replace("\n", " ") and "batch.npz" in out
    status, out, err = command("check", folder / "zero.onnx", *arguments, "--base", folder / "zero.onnx", "--json")
    assert (status, out) == (2, "") and "is another adapter's: its unilora.theta_sha256 is" in err
    status, out, err = command(
        "check", folder / "zero-by-others.onnx", *arguments, "--base", folder / "zero.onnx", "--json"
    )
    assert (status, err) == (1, "") and not json.loads(out)["comparison"]["within"]


def test_refusals(folder, tmp_path):
    other = make_adapter(llama()[1])
    a, b = (load_adapter(folder / f"{name}.safetensors") for name in "ab")
    (tmp_path / "no.onnx").write_bytes(b"no")
    for file, adapters, words in (
        ("a.onnx", [b], "is another adapter's: its unilora.theta_sha256 is"),
        ("a.onnx", [other], "is another adapter's"),
        ("a-by-others.onnx", [a, b], "does not say that it is a bank"),
        (tmp_path / "no.onnx", [a], "is no ONNX file"),
        ("none.onnx", [a], "there is no such file"),
    ):
        with pytest.raises(UniLoraError, match=words):
            check_with_file(folder / file, adapters, folder / "zero.onnx", None, {}, lambda step: None)
