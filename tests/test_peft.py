"""Adapters from PEFT and to PEFT."""

import json
import os
import warnings

import numpy as np
import pytest
import torch

from backends.torch import load_adapter
from export.folders.from_peft import drawn_index, import_peft
from export.folders.peft import export_peft
from unilora_spec import load_adapter as read
from unilora_spec.__main__ import verify

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
safetensors = pytest.importorskip("safetensors.torch")
from peft_adapters import IDS, TARGETS, bases, load, logits, our_file, peft_folder, same  # noqa: F401  fixtures


def name_of(model):
    return model.config.model_type


# From PEFT


@pytest.mark.parametrize("saved", [False, True], ids=["drawn again", "saved indices"])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_from_peft(bases, tmp_path, name, saved):
    expected = peft_folder(bases / name, tmp_path / "peft", save_indices=saved)
    report = import_peft(tmp_path / "peft", tmp_path / "x")
    assert report["weights"] == 4 and not report["warnings"] and report["bytes"] == (tmp_path / "x").stat().st_size
    model = load(bases / name)
    plain = logits(model)
    load_adapter(model, tmp_path / "x")
    same(logits(model), expected)
    assert (plain - expected).abs().max() > 0.1
    adapter = read(tmp_path / "x")
    assert adapter.projection.kind == "table" and adapter.projection.seed == 7 and adapter.layer_map.alpha == 2
    assert adapter.base.architecture == type(model).__name__ and adapter.base.name == str(bases / name)
    assert adapter.base.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    targets = [
        name for name, _ in model.named_modules() if name.endswith(tuple(f".{end}" for end in TARGETS[name_of(model)]))
    ]
    assert [s.name for s in adapter.layer_map.segments] == [f"{target}.weight" for target in targets]
    checked = verify(tmp_path / "x", bases / name)
    assert checked["canonical"] and checked["base"] == {
        "folder": str(bases / name),
        "weights": 4,
        "same_contents": True,
        "other_rest": [],
    }


def test_with_saved_indices_no_base_is_needed(bases, tmp_path):
    expected = peft_folder(bases / "bert", tmp_path / "peft", save_indices=True)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "no/where"}))
    report = import_peft(tmp_path / "peft", tmp_path / "x")
    assert "'no/where' is not here" in report["warnings"][0] and read(tmp_path / "x").base is None
    same(logits(load_adapter(load(bases / "bert"), tmp_path / "x")), expected)
    assert not import_peft(tmp_path / "peft", tmp_path / "x", bases / "bert")["warnings"]
    assert read(tmp_path / "x").base.name == str(bases / "bert")


@pytest.mark.parametrize(("D", "d", "seed"), [(40, 40, 0), (41, 40, 1), (1000, 7, 42), (12288, 5000, 2**63)])
def test_the_index_is_drawn_as_peft_draws_it(D, d, seed):
    assert drawn_index(D, d, seed).tolist() == peft.UniLoraModel.generate_index(D, d, seed).tolist()


CONFIGS = {
    "a regular expression": {"target_modules": r".*layer\.1\..*(key|query)"},
    "all Linears": {"target_modules": "all-linear"},
    "PEFT's own choice": {"target_modules": None},
    "names in full": {"target_modules": ["bert.encoder.layer.1.output.dense", "key"]},
    "one layer": {"target_modules": ["query", "dense"], "layers_to_transform": 1},
    "layers by a pattern": {"target_modules": ["query"], "layers_to_transform": [0], "layers_pattern": "layer"},
    "layers by patterns": {"target_modules": ["query"], "layers_to_transform": [1], "layers_pattern": ["h", "layer"]},
    "not beside what is saved": {"target_modules": ["dense"], "modules_to_save": ["pooler"]},
    "biases of the layers": {"bias": "unilora_only"},
    "all biases": {"bias": "all"},
    "a regression": {"theta_d_length": 12, "proj_seed": 0},
}


@pytest.mark.parametrize("saved", [False, True], ids=["drawn again", "saved indices"])
@pytest.mark.parametrize("how", CONFIGS)
def test_what_is_adapted_is_what_peft_adapts(bases, tmp_path, how, saved):
    expected = peft_folder(bases / "bert", tmp_path / "peft", save_indices=saved, **CONFIGS[how])
    import_peft(tmp_path / "peft", tmp_path / "x")
    same(logits(load_adapter(load(bases / "bert"), tmp_path / "x")), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_base_in_half_precision(bases, tmp_path, dtype):
    """PEFT then rounds its scales (and saves them as float32), and we do not; alpha is the rank still."""
    peft_folder(bases / "bert", tmp_path / "peft", dtype=dtype, save_indices=True)
    saved = safetensors.load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert all(torch.equal(value, value.to(dtype).float()) for name, value in saved.items() if "scales" in name)
    import_peft(tmp_path / "peft", tmp_path / "x")
    adapter = read(tmp_path / "x")
    assert adapter.layer_map.alpha == 2 and adapter.projection == import_again(bases, tmp_path)


def import_again(bases, tmp_path):
    """The projection of the same adapter without its indices."""
    peft_folder(bases / "bert", tmp_path / "without")
    import_peft(tmp_path / "without", tmp_path / "y")
    return read(tmp_path / "y").projection


# To PEFT


@pytest.mark.parametrize("kind", ["balanced", "uniform", "identity", "table"])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_to_peft(bases, tmp_path, name, kind):
    expected = our_file(bases / name, tmp_path / "x", kind, scaling="rslora")
    report = export_peft(tmp_path / "x", tmp_path / "peft")
    assert report["weights"] == 4 and report["files"] == len(os.listdir(tmp_path / "peft")) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)  # transformers', of PEFT
        model = peft.PeftModel.from_pretrained(load(bases / name), tmp_path / "peft").eval()
    same(logits(model), expected)
    same(logits(model.merge_and_unload()), expected)


def test_there_and_back(bases, tmp_path):
    """The same A, B and s; and what PEFT gave comes back by its bytes."""
    our_file(bases / "gpt2", tmp_path / "x")
    export_peft(tmp_path / "x", tmp_path / "peft")
    import_peft(tmp_path / "peft", tmp_path / "y")
    one, other = read(tmp_path / "x"), read(tmp_path / "y")
    assert other.layer_map == one.layer_map and other.base == one.base
    assert np.array_equal(other.projection.index(), one.projection.index()) and np.array_equal(other.theta, one.theta)
    assert {name: value.tobytes() for name, value in other.saved.items()} == {
        name: value.tobytes() for name, value in one.saved.items()
    }
    export_peft(tmp_path / "y", tmp_path / "again")
    import_peft(tmp_path / "again", tmp_path / "z")
    assert (tmp_path / "z").read_bytes() == (tmp_path / "y").read_bytes()
    for file in os.listdir(tmp_path / "peft"):
        assert (tmp_path / "peft" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_an_imported_adapter_is_trained_on(bases, tmp_path):
    peft_folder(bases / "bert", tmp_path / "peft")
    import_peft(tmp_path / "peft", tmp_path / "x")
    model = load_adapter(load(bases / "bert"), tmp_path / "x")
    logits_before = logits(model)
    model(IDS, labels=torch.tensor([0, 1, 2])).loss.backward()
    torch.optim.SGD([model.unilora.theta], lr=0.5).step()
    model.save_adapter(tmp_path / "more")
    export_peft(tmp_path / "more", tmp_path / "back")
    again = peft.PeftModel.from_pretrained(load(bases / "bert"), tmp_path / "back").eval()
    same(logits(again), logits(model))
    assert (logits(again) - logits_before).abs().max() > 1e-3
