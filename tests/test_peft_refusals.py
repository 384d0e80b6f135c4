"""Folders of PEFT's that are refused, and the commands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from backends.torch import load_adapter
from export.__main__ import app
from export.folders.from_peft import import_peft
from export.folders.peft import export_peft
from unilora_spec import BaseMismatch, LimitError, Projection, UniLoraError, save_adapter
from unilora_spec import load_adapter as read

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
safetensors = pytest.importorskip("safetensors.torch")
from peft_adapters import bases, load, logits, our_file, peft_folder, same  # noqa: F401  fixtures

ROOT = Path(__file__).parents[1]


# Refused


def change(folder, tensors=lambda tensors: None, **config):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    values = safetensors.load_file(folder / "adapter_model.safetensors")
    tensors(values)
    safetensors.save_file(values, folder / "adapter_model.safetensors")


def scaled(end, factor):
    def scale(tensors):
        for name in tensors:
            if name.endswith(end):
                tensors[name][0, 0] *= factor

    return scale


QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query.unilora_"

FROM_PEFT = {
    "another method": (lambda f: change(f, peft_type="LORA"), "holds 'LORA'; only PEFT's UNILORA"),
    "no tensors": (lambda f: (f / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    "no configuration": (lambda f: (f / "adapter_config.json").write_text("[]"), "holds no JSON object"),
    "no rank": (lambda f: change(f, r=None), "r is None; it must be a whole number from 1 to 2147483647"),
    "no vector": (lambda f: change(f, lambda t: t.pop("base_model.unilora_theta_d")), "has no tensor base_model.unilora_theta_d"),
    "scales of A": (lambda f: change(f, scaled("scales_A", 1.01)), "scales of A are not 1/√n"),
    "scales of B": (lambda f: change(f, scaled("query.unilora_scales_B", 1.01)), "scales of B are not one multiple"),
    "one scale less": (lambda f: change(f, lambda t: t.pop(QUERY + "scales_B")), "has no matrix " + QUERY + "scales_B"),
    "an index beyond": (lambda f: change(f, lambda t: t[QUERY + "indices_A"].add_(40)), "32 below 40 are needed".replace("32", "256")),
    "a negative index": (lambda f: change(f, lambda t: t[QUERY + "indices_A"].sub_(40)), "are needed"),
    "an index of floats": (lambda f: change(f, lambda t: t.update({QUERY + "indices_A": t[QUERY + "indices_A"].float()})), "as F32; PEFT's are I64"),
    "another rank": (lambda f: change(f, r=3), "are of rank 2 and 2, and r is 3"),
    "a parameter of no model": (lambda f: change(f, lambda t: t.update(x=torch.ones(1))), "x is no parameter of the model"),
    "a module that is not there": (lambda f: change(f, lambda t: t.update({QUERY.replace("query", "q") + "indices_A": torch.ones(2, 16).long()})), "has no Linear or Conv1D bert.encoder.layer.0.attention.self.q"),
}  # fmt: skip


@pytest.mark.parametrize("case", FROM_PEFT)
def test_a_folder_that_cannot_be_imported(bases, tmp_path, case):
    peft_folder(bases / "bert", tmp_path / "peft", save_indices=True)
    change_it, sentence = FROM_PEFT[case]
    change_it(tmp_path / "peft")
    with pytest.raises(UniLoraError) as refusal:
        import_peft(tmp_path / "peft", tmp_path / "x")
    assert sentence in str(refusal.value) and not (tmp_path / "x").exists()


def test_a_drawn_index_needs_its_base(bases, tmp_path):
    peft_folder(bases / "bert", tmp_path / "peft")
    with pytest.raises(UniLoraError, match="holds no config.json"):
        import_peft(tmp_path / "peft", tmp_path / "x", tmp_path)
    with pytest.raises(UniLoraError, match="no module of the base is among the target_modules"):
        import_peft(tmp_path / "peft", tmp_path / "x", bases / "gpt2")
    change(tmp_path / "peft", target_modules=["LayerNorm"])
    with pytest.raises(UniLoraError, match=r"bert.embeddings.LayerNorm is a target, but neither a Linear"):
        import_peft(tmp_path / "peft", tmp_path / "x")
    change(tmp_path / "peft", target_modules="*")
    with pytest.raises(UniLoraError, match="no regular expression"):
        import_peft(tmp_path / "peft", tmp_path / "x")
    change(tmp_path / "peft", target_modules=["query"], theta_d_length=10**12)
    with pytest.raises(UniLoraError, match="has no tensor base_model.unilora_theta_d of shape"):
        import_peft(tmp_path / "peft", tmp_path / "x")
    longer = torch.ones(10**5)
    change(tmp_path / "peft", lambda t: t.update({"base_model.unilora_theta_d": longer}), theta_d_length=len(longer))
    with pytest.raises(LimitError, match=r"SPEC 1\.1"):
        import_peft(tmp_path / "peft", tmp_path / "x")
    change(tmp_path / "peft", base_model_name_or_path="no/where")
    with pytest.raises(UniLoraError, match="has no indices .* give --base the folder of the base model"):
        import_peft(tmp_path / "peft", tmp_path / "x")


TO_PEFT = {
    "a program": (
        {"kind": "tied", "d": None},
        "the kind is tied; PEFT's UniLora has one number of theta in each entry of A and B, so use",
    ),
    "two ranks": (
        {"ranks": {"query": 3}},
        "the ranks 2 and 3 are in the adapter; PEFT's UniLora has one for all, so use",
    ),
    "rows": (
        {"targets": ["query[0:8]"]},
        "bert.encoder.layer.0.attention.self.query.weight is adapted by ranges of rows",
    ),
    "rank 0": (
        {"ranks": {"query": 0}},
        "bert.encoder.layer.0.attention.self.query.weight is adapted with rank 0, for which PEFT's UniLora has no A and B",
    ),
}


@pytest.mark.parametrize("case", TO_PEFT)
def test_what_peft_cannot_hold(bases, tmp_path, case):
    options, sentence = TO_PEFT[case]
    our_file(bases / "bert", tmp_path / "x", **options)
    with pytest.raises(UniLoraError) as refusal:
        export_peft(tmp_path / "x", tmp_path / "peft")
    other = "export merge" if case == "rank 0" else "export lora"
    assert sentence in str(refusal.value) and other in str(refusal.value)
    assert sorted(os.listdir(tmp_path)) == ["x"]


@pytest.mark.parametrize(
    ("name", "shape", "more", "sentence"),
    [
        ("conv.weight", (4, 3, 2, 2), {}, "conv.weight is the weight of a convolution"),
        ("bert.word_embeddings.weight", (50, 8), {}, "bert.word_embeddings.weight is an embedding"),
        ("experts.up", (3, 4, 5), {"index": 1}, "experts.up is a stack of experts"),
        ("lone", (4, 5), {}, "lone is not the weight of a module"),
    ],
)
def test_weights_that_peft_cannot_hold(tmp_path, name, shape, more, sentence):
    from unilora_spec import Adapter, LayerMap, Segment

    out, columns = (shape[1], shape[2]) if more else (shape[0], int(np.prod(shape[1:])))
    layer_map = LayerMap([Segment(name, out, columns, 1, **more)])
    save_adapter(Adapter(Projection(D=layer_map.D, d=2, seed=0), layer_map, np.ones(2)), tmp_path / "x")
    (tmp_path / "base").mkdir()
    safetensors.save_file({name: torch.ones(shape)}, tmp_path / "base" / "model.safetensors")
    with pytest.raises(UniLoraError) as refusal:
        export_peft(tmp_path / "x", tmp_path / "peft", tmp_path / "base")
    assert sentence in str(refusal.value) and "export lora" in str(refusal.value)
    assert sorted(os.listdir(tmp_path)) == ["base", "x"]


def test_another_base(bases, tmp_path):
    our_file(bases / "bert", tmp_path / "x")
    with pytest.raises(BaseMismatch):
        export_peft(tmp_path / "x", tmp_path / "peft", bases / "gpt2")


# The commands


def test_commands(bases, tmp_path):
    call = CliRunner().invoke
    expected = our_file(bases / "bert", tmp_path / "x")
    done = call(app, ["peft", "--adapter", str(tmp_path / "x"), "-o", str(tmp_path / "peft")])
    assert done.exit_code == 0 and "4 weights of rank 2, 2 trained in full" in done.output
    again = call(app, ["peft", "--adapter", str(tmp_path / "x"), "-o", str(tmp_path / "peft")])
    assert "is there already" in str(again.exception)
    done = call(app, ["import-peft", "--adapter", str(tmp_path / "peft"), "-o", str(tmp_path / "y"), "--json"])
    assert (
        json.loads(done.stdout)["index"] == "saved"
        and json.loads(done.stdout)["bytes"] == (tmp_path / "y").stat().st_size
    )
    same(logits(load_adapter(load(bases / "bert"), tmp_path / "y")), expected)
    shutil.rmtree(tmp_path / "peft")
    done = call(app, ["import-peft", "--adapter", str(tmp_path / "peft"), "-o", str(tmp_path / "y")])
    assert "has no adapter_config.json" in str(done.exception)


def test_no_framework_is_needed(bases, tmp_path):
    """Without torch: our file to PEFT's folder, and one with indices, whose base is not here, to our file."""
    our_file(bases / "bert", tmp_path / "x")
    program = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from pathlib import Path; from export.folders.peft import export_peft; from export.folders.from_peft import import_peft\n"
        "export_peft(Path('x'), Path('peft')); Path('base').mkdir()\n"
        "import json; path = Path('peft/adapter_config.json'); config = json.loads(path.read_text())\n"
        "path.write_text(json.dumps(config | {'base_model_name_or_path': None})); import_peft(Path('peft'), Path('y'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=environment)
    assert read(tmp_path / "y").layer_map == read(tmp_path / "x").layer_map


def test_an_imported_adapter_in_a_graph(bases, tmp_path):
    """The index of a table is a constant of the graph, since nothing computes it; ONNX Runtime gives what PyTorch does."""
    peft_folder(bases / "bert", tmp_path / "peft")
    import_peft(tmp_path / "peft", tmp_path / "x")
    call = ["onnx", "--adapter", str(tmp_path / "x"), "--mode", "reconstruct", "-o", str(tmp_path / "x.onnx"), "--json"]
    report = json.loads(CliRunner().invoke(app, call).stdout)
    assert report["index"].startswith("stored") and report["adapter_moves_outputs_by"] > 0.1
