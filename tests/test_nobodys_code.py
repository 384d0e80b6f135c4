"""A base from a stranger: no command runs code of its folder, whatever is typed, or reads data of elsewhere, or waits for a pipe."""

import ast
import json
import os
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from adapters import adapter_of
from runs import base, refusal, reviews, small  # noqa: F401  fixtures
from strange_bases import yes  # noqa: F401  fixtures

import backends.torch.training.strangers
import export.torch_base.strangers
from backends.rows.reading import read
from backends.settings import TrainSettings
from backends.torch.planning import skeleton
from backends.torch.training.base import prepare
from export.folders.shell import shell_of
from export.torch_base.base import load_base
from unilora_spec import Segment, UniLoraError

ROOT = Path(__file__).parents[1]

QUERY = "bert.encoder.layer.0.attention.self.query.weight"


@pytest.fixture
def stranger(base, tmp_path):
    """A copy of a small model's folder, which knows what is written when code of it runs."""
    folder = tmp_path / "stranger"
    shutil.copytree(base, folder)
    (folder / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        "from transformers import BertConfig as C, BertForSequenceClassification as M, BertTokenizer as T\n"
    )
    yield folder
    assert not (tmp_path / "ran").exists(), "its code has run"


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def adapter_for(folder):
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig.from_pretrained(folder))
    return adapter_of(model, [Segment(QUERY, 32, 32, 2)], folder, ("bad", "good"))


AUTO = {
    "auto_map": {
        "AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoModelForSequenceClassification": "evil.M",
        "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", "evil.T"],
    }
}  # fmt: skip


# Code that a folder brings


@pytest.mark.parametrize(
    "kind", [{"model_type": "evil"}, {}, {"model_type": "vit"}, {"model_type": "dpr"}, {"model_type": None}]
)
def test_code_of_a_configuration(stranger, small, kind):
    """Of a kind that transformers knows as well, one that it has no such model for, and none."""
    adapter = adapter_for(stranger)
    change(stranger / "config.json", **AUTO, **kind)
    change(stranger / "tokenizer_config.json", **AUTO)
    for load in (
        lambda: prepare(TrainSettings(**small | {"base": stranger})),
        lambda: prepare(TrainSettings(**small | {"base": stranger, "task": "causal-lm"})),
        lambda: skeleton(str(stranger)),
        lambda: load_base(adapter, str(stranger)),
        lambda: load_base(adapter),
        lambda: shell_of(stranger, None, "SEQ_CLS"),
        lambda: shell_of(stranger, None, None),
    ):
        try:
            load()
        except UniLoraError as error:
            assert "\n" not in str(error) and "trust_remote_code" not in str(error)
    assert sys.stdin.tell() == 0, "somebody asked"


def test_its_own_classes_are_refused_in_a_sentence(stranger, small):
    change(stranger / "config.json", **AUTO, model_type="evil")
    words = "needs code of its own, which is never run"
    assert words in refusal(**small | {"base": stranger})
    with pytest.raises(UniLoraError, match=words):
        load_base(adapter_for(small["base"]), str(stranger))
    with pytest.raises(UniLoraError, match=words):
        shell_of(stranger, None, None)


def test_code_of_a_tokenizer_and_of_generation(stranger, small):
    change(
        stranger / "tokenizer_config.json",
        tokenizer_class="EvilTokenizer",
        auto_map={"AutoTokenizer": ["evil.T", "evil.T"]},
    )
    (stranger / "custom_generate").mkdir()
    shutil.copy(stranger / "evil.py", stranger / "custom_generate" / "generate.py")
    *_, task = prepare(TrainSettings(**small | {"base": stranger}))
    assert type(task.tokenize).__module__.startswith("transformers.")
    load_base(adapter_for(stranger))


class Evil:
    def __init__(self, ran):
        self.ran = ran

    def __reduce__(self):
        return open, (str(self.ran), "w")


def test_pickled_weights_are_not_opened(stranger, small, tmp_path, monkeypatch):
    (stranger / "model.safetensors").unlink()
    torch.save({"w": Evil(tmp_path / "ran")}, stranger / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle is opened"))
    assert "a pickle (.bin, .pt) is a program" in refusal(**small | {"base": stranger})
    with pytest.raises(UniLoraError, match="is a program"):
        load_base(adapter_for(stranger))


def test_an_adapter_in_the_base_s_folder(stranger, small):
    """transformers would load it with the base, and where there is no config.json the base that it names."""
    (stranger / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "evil/base"})
    )
    words = r"an adapter of PEFT's is in it"
    assert words in refusal(**small | {"base": stranger})
    with pytest.raises(UniLoraError, match=words):
        load_base(adapter_for(stranger))
    with pytest.raises(UniLoraError, match=words):
        shell_of(stranger, None, None)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_kernels_of_the_hub(stranger, small, monkeypatch, key):
    """A configuration may name code of the hub; transformers would fetch it where the package kernels is installed."""
    for fetch in ("lazy_import_flash_attention", "is_kernel"):
        before = getattr(transformers.modeling_utils, fetch)

        def watched(name, *more, before=before, **options):
            assert "evil" not in str(name), "it would be fetched"
            return before(name, *more, **options)

        monkeypatch.setattr(transformers.modeling_utils, fetch, watched)
    change(stranger / "config.json", **{key: "evil/kernel"})
    model, *_ = prepare(TrainSettings(**small | {"base": stranger}))
    assert model.config._attn_implementation == "sdpa"
    load_base(adapter_for(small["base"]), str(stranger))
    skeleton(str(stranger))
    shell_of(stranger, None, None)
    change(stranger / "config.json", **{key: "eager"})
    if key == "attn_implementation":  # a plain choice stays one
        assert prepare(TrainSettings(**small | {"base": stranger}))[0].config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["BertConfig", "pipeline", "__class__", 3, "AutoModel", "PreTrainedModel"])
def test_an_architecture_is_a_model_s_class(stranger, name):
    change(stranger / "config.json", architectures=[name])
    try:
        assert type(skeleton(str(stranger))).__name__ == "BertModel"
    except UniLoraError as error:
        assert "cannot build a model" in str(error)


def test_data_sets_bring_no_code(stranger, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(stranger / "evil.py", data / "data.py")
    with pytest.raises(UniLoraError, match="scripts are no longer supported"):
        read(str(data))
    (data / "data.py").unlink()
    (data / "a.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    (data / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: a.pkl\n---\n")
    with pytest.raises(UniLoraError, match="data set that can be loaded here"):
        read(str(data))


def test_every_load_is_told():
    """Each use of from_pretrained and from_config in the packages hands NO_CODE or WEIGHTS over."""
    uses = 0
    for path in (file for package in ("backends", "export", "unilora_spec") for file in (ROOT / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text if "from_" in text else "")
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("from_pretrained", "from_config"):
                around = [call for call in calls if node is call.func or node in call.args]
                told = [word.value.id for call in around for word in call.keywords if word.arg is None]
                assert set(told) & {"NO_CODE", "WEIGHTS"}, f"{path}:{node.lineno}"
                uses += 1
    assert uses >= 8
    ours, theirs = (
        Path(module.__file__).read_bytes()
        for module in (backends.torch.training.strangers, export.torch_base.strangers)
    )
    assert ours == theirs  # the two packages do not know each other
    assert backends.torch.training.strangers.WEIGHTS == {"trust_remote_code": False, "use_safetensors": True}


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "adapter_config.json", "vocab.txt"]
)
def test_a_pipe_is_not_waited_for(stranger, small, name):
    (stranger / name).unlink(missing_ok=True)
    os.mkfifo(stranger / name)
    for load in (
        lambda: prepare(TrainSettings(**small | {"base": stranger})),
        lambda: skeleton(str(stranger)),
        lambda: load_base(adapter_for(small["base"]), str(stranger)),
    ):
        try:
            load()
        except UniLoraError as error:
            assert "\n" not in str(error)


# A base that only a record names


def test_a_base_that_a_record_names(stranger, capsys):
    adapter = adapter_for(stranger)
    load_base(adapter)
    assert f"the adapter names its base: {stranger}\n" in capsys.readouterr().err
    load_base(adapter, str(stranger))
    assert "names its base" not in capsys.readouterr().err
    unknown = replace(adapter, base=replace(adapter.base, name="org/model"))
    with pytest.raises(UniLoraError, match="nothing is fetched because a file names it; give --base"):
        load_base(unknown)


def test_an_id_in_a_record_is_not_looked_up_in_the_cache(base, tmp_path, monkeypatch):
    cache = tmp_path / "models--org--model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    shutil.copytree(base, cache / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    adapter = adapter_for(base)
    with pytest.raises(UniLoraError, match="is no folder here, and nothing is fetched"):
        load_base(replace(adapter, base=replace(adapter.base, name="org/model")))
