"""`export onnx --genai`: a folder of onnxruntime-genai's with an adapter in its graph, and its own loop that switches them."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
import transformers
from adapters import adapter_of
from linear_graphs import linear
from typer.testing import CliRunner

from export.__main__ import app
from export.graph.expander import write_adapter
from export.onnx_base.genai import export_genai
from unilora_spec import Segment, UniLoraError, save_adapter


@pytest.fixture
def folder(tmp_path):
    """As genai's builder writes it, with a graph of one layer, and the adapter of it."""
    adapter, base = linear(tmp_path)
    made = tmp_path / "genai"
    made.mkdir()
    base.rename(made / "decoder.onnx")
    (made / "genai_config.json").write_text(
        json.dumps({"model": {"decoder": {"filename": "decoder.onnx"}, "type": "llama"}})
    )
    (made / "tokenizer.json").write_text("{}")
    (made / "chat_template.jinja").write_text("x")
    (made / "notes.py").write_text("raise SystemExit")
    (tmp_path / "secret.json").write_text("of somebody else")
    (made / "link.json").symlink_to(tmp_path / "secret.json")
    return made, adapter


def test_the_folder_is_complete_and_has_nothing_of_others(folder, tmp_path):
    made, adapter = folder
    save_adapter(adapter, tmp_path / "a.safetensors")
    call = [
        "onnx",
        "--adapter",
        tmp_path / "a.safetensors",
        "--genai",
        made,
        "--mode",
        "factored",
        "-o",
        tmp_path / "out",
    ]
    done = CliRunner().invoke(app, [str(each) for each in call], catch_exceptions=False)
    assert (
        done.exit_code == 0
        and f"og.Model('{tmp_path / 'out'}')" in done.output
        and "decoder.onnx_adapter" in done.output
    )
    kept = {"genai_config.json", "tokenizer.json", "chat_template.jinja"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == kept | {
        "decoder.onnx", "decoder.onnx_adapter", "decoder.expander.onnx",
    }  # fmt: skip
    assert all((tmp_path / "out" / name).read_bytes() == (made / name).read_bytes() for name in kept)
    names = [each.name for each in onnx.load(tmp_path / "out/decoder.onnx").graph.input]
    assert names[:3] == ["x", "base_model.model.linear.lora_A.weight", "base_model.model.linear.lora_B.weight"]


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"decoder": {"filename": "../a.onnx"}},
        {"decoder": {"filename": "a.onnx"}, "vision": {"filename": "b.onnx"}},
        3,
    ],
)
def test_folders_of_other_models_are_refused(folder, tmp_path, model):
    made, adapter = folder
    (made / "genai_config.json").write_text(json.dumps({"model": model}))
    with pytest.raises(UniLoraError, match="genai_config.json names .*, and only a model of one decoder"):
        export_genai(made, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_genai_cannot_feed_is_refused(folder, tmp_path):
    made, adapter = folder
    with pytest.raises(UniLoraError, match="genai feeds no number for each row, which the mode bank needs"):
        export_genai(made, [adapter, adapter], tmp_path / "out", "bank")


def test_genai_switches_adapters_in_its_own_loop(tmp_path):
    """Token by token what PyTorch generates, of the base and of adapters of two ranks."""
    og = pytest.importorskip("onnxruntime_genai", reason="needs onnxruntime-genai")
    tokenizers = pytest.importorskip("tokenizers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "hf")
    words = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={"<unk>": 0, "<s>": 1, "</s>": 2}, merges=[], unk_token="<unk>")
    )
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(tmp_path / "hf")
    call = [
        sys.executable,
        "-m",
        "onnxruntime_genai.models.builder",
        "-i",
        "hf",
        "-o",
        "built",
        "-p",
        "fp32",
        "-e",
        "cpu",
        "-c",
        "cache",
    ]
    subprocess.run(call, check=True, capture_output=True, cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"})

    def adapter(rank):
        shapes = {"q": (64, 64), "v": (32, 64)}
        names = [(f"model.layers.{layer}.self_attn.{n}_proj.weight", *shapes[n]) for layer in (0, 1) for n in shapes]
        return adapter_of(model, [Segment(*each, rank) for each in names], "base", d=64)

    one, two = adapter(4), adapter(2)
    export_genai(tmp_path / "built", one, tmp_path / "out", "factored")
    write_adapter(two, "factored", tmp_path / "two.onnx_adapter")
    loaded = og.Model(str(tmp_path / "out"))
    switched = og.Adapters(loaded)
    switched.load(str(tmp_path / "out/model.onnx_adapter"), "one")
    switched.load(str(tmp_path / "two.onnx_adapter"), "two")
    said = []
    for name, each in (("one", one), ("two", two), (None, None), ("one", one)):
        settings = og.GeneratorParams(loaded)
        settings.set_search_options(max_length=12, do_sample=False)
        generator = og.Generator(loaded, settings)
        if name:
            generator.set_active_adapter(switched, name)
        generator.append_tokens(np.array([5, 6, 7], np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        said.append(list(generator.get_sequence(0)))
        assert said[-1] == _generated(model, each)[: len(said[-1])] and len(said[-1]) > 6
    assert said[0] == said[3] and said[0] != said[1] != said[2]


def _generated(model, adapter):
    found = transformers.LlamaForCausalLM(model.config).eval()
    found.load_state_dict(model.state_dict())
    if adapter:
        adapter.merge({name: value.detach().numpy() for name, value in found.named_parameters()})
    with torch.no_grad():
        return found.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=9, do_sample=False)[0].tolist()
