"""python -m export lora: PEFT reads the folder, and its model is the base with the adapter merged in."""

import copy
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters import adapter_of, merged, minilm
from torch import nn

from export.folders.lora import export_lora
from unilora_spec import BaseMismatch, Segment, UniLoraError, save_adapter

peft = pytest.importorskip("peft")
safetensors = pytest.importorskip("safetensors.torch")
transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).parents[1]
IDS = {"input_ids": torch.arange(20).reshape(2, 10) + 1}


def export_to(tmp_path, adapter, base=None, output="lora"):
    save_adapter(adapter, tmp_path / "vec.safetensors")
    return export_lora(adapter=tmp_path / "vec.safetensors", output=tmp_path / output, base=base)


def config_of(tmp_path):
    return json.loads((tmp_path / "lora" / "adapter_config.json").read_text())


def agree(tmp_path, base, reference, inputs=IDS):
    """PEFT loads the folder without a word, and onto the modules meant alone; its outputs are those of ``reference``.

    Both sum a few dozen products a few times over in float32, one in W + ΔW and one in W and ΔW apart: 1e-5 of the largest
    output is a hundred roundings, and a thousandth of what the adapter moves.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)  # transformers', of PEFT
        model = peft.PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    with torch.no_grad():
        got, expected = (m(**inputs) if isinstance(inputs, dict) else m(inputs) for m in (model, reference.eval()))
        model.disable_adapter_layers()
        plain = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    got, expected, plain = (getattr(output, "logits", output) for output in (got, expected, plain))
    largest = float(expected.abs().max())
    assert float((got - expected).abs().max()) < 1e-5 * largest
    assert float((plain - expected).abs().max()) > 1e-2 * largest
    return model


def bert(labels=3):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, num_labels=labels,
        max_position_embeddings=32, initializer_range=0.2,
    )  # fmt: skip
    layers = [f"bert.encoder.layer.{i}.attention.self.{n}.weight" for i in (0, 1) for n in ("query", "value")]
    return transformers.BertForSequenceClassification(config).eval(), [Segment(name, 32, 32, 4) for name in layers]


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=32, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    q, v, down = "self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"
    sizes = ((0, q, 32, 32, 4), (0, v, 16, 32, 2), (1, q, 32, 32, 1), (1, down, 32, 48, 8))
    segments = [Segment(f"model.layers.{i}.{n}.weight", out, columns, rank) for i, n, out, columns, rank in sizes]
    return transformers.LlamaForCausalLM(config).eval(), segments


# What PEFT makes of it


@pytest.mark.parametrize("saved", [("classifier.weight", "classifier.bias"), ("classifier.weight",), ()])
def test_bert_with_a_head(tmp_path, saved):
    """PEFT keeps whole modules, and for this task always the head: what the adapter lacks of it comes from the base."""
    model, segments = bert()
    model.save_pretrained(tmp_path / "base")
    adapter = adapter_of(model, segments, tmp_path / "base", tuple("abc"), saved)
    report = export_to(tmp_path, adapter)
    assert (report["rank"], report["alpha"], report["weights"], report["saved"]) == (4, 8.0, 4, sorted(saved))
    config = config_of(tmp_path)
    assert config["task_type"] == "SEQ_CLS" and config["modules_to_save"] == (["classifier"] if saved else None)
    assert config["target_modules"] == [s.name.removesuffix(".weight") for s in segments]
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    tensors = safetensors.load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert {"base_model.model.classifier.weight", "base_model.model.classifier.bias"} < tensors.keys()
    for segment, A, B in adapter.factors():  # one rank and one scaling: A and B are the adapter's own, bit for bit
        name = "base_model.model." + segment.name.removesuffix("weight")
        assert np.array_equal(tensors[name + "lora_A.weight"].numpy(), A)
        assert np.array_equal(tensors[name + "lora_B.weight"].numpy(), B)
    peft_model = agree(tmp_path, bert()[0], merged(model, adapter))
    assert isinstance(peft_model, peft.PeftModelForSequenceClassification)


def test_minilm_whose_base_has_no_head_and_other_names(tmp_path):
    folder, query_and_value = minilm()
    load = transformers.BertForSequenceClassification.from_pretrained
    layers = [s.name for s in query_and_value]
    names = layers + [name.replace("self.query", "self.key") for name in layers if "query" in name]
    names += [name.replace("self.query", "output.dense") for name in layers if "query" in name]
    head = ("classifier.weight", "classifier.bias", "bert.pooler.dense.bias")
    adapter = adapter_of(load(folder), [Segment(n, 384, 384, 4) for n in names], folder, ("bad", "good"), head, d=5760)
    adapter.theta *= np.float32(0.3)
    assert export_to(tmp_path, adapter)["weights"] == 24  # from 20 on, PEFT shortens lists of names for itself
    assert config_of(tmp_path)["modules_to_save"] == ["bert.pooler.dense", "classifier"]
    agree(tmp_path, load(folder), merged(load(folder), adapter))


def test_an_adapter_without_a_record_says_no_task(tmp_path):
    """And one for a base whose head is nowhere: PEFT would look for it in the file."""
    folder, segments = minilm()
    model = transformers.BertForSequenceClassification.from_pretrained(folder)
    adapter = adapter_of(model, segments, folder, d=5760)
    export_to(tmp_path, adapter, output="headless")
    assert json.loads((tmp_path / "headless" / "adapter_config.json").read_text())["task_type"] is None
    adapter.base = None
    export_to(tmp_path, adapter, folder)
    assert config_of(tmp_path)["task_type"] is None and config_of(tmp_path)["base_model_name_or_path"] == str(folder)
    agree(tmp_path, copy.deepcopy(model), merged(model, adapter))  # the head is random


def test_gpt2_whose_weights_are_fused_and_turned(tmp_path):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2,
        n_embd=32,
        n_head=4,
        vocab_size=50,
        n_positions=32,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path / "base")
    segments = [Segment("transformer.h.0.attn.c_attn.weight", 32, 32, 4, transposed=True, row=row) for row in (64, 0)]
    segments += [Segment("transformer.h.1.attn.c_attn.weight", 32, 32, 2, transposed=True, row=32)]
    segments += [Segment("transformer.h.1.mlp.c_fc.weight", 128, 32, 3, transposed=True)]
    adapter = adapter_of(model, segments, tmp_path / "base")
    report = export_to(tmp_path, adapter)
    assert (report["rank"], config_of(tmp_path)["fan_in_fan_out"], config_of(tmp_path)["task_type"]) == (
        8,
        True,
        "CAUSAL_LM",
    )
    agree(tmp_path, transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "base"), merged(model, adapter))


@pytest.mark.parametrize("scaling", ["lora", "rslora"])
def test_llama_with_different_ranks(tmp_path, scaling):
    """One rank and one alpha are all that every reader knows: no patterns, no square root."""
    model, segments = llama()
    model.save_pretrained(tmp_path / "base")
    adapter = adapter_of(model, segments, tmp_path / "base", scaling=scaling)
    report = export_to(tmp_path, adapter)
    assert report["rank"] == 8 and report["alpha"] == pytest.approx(8 if scaling == "lora" else 8 * 8**0.5)
    assert not {"rank_pattern", "alpha_pattern", "use_rslora"} & config_of(tmp_path).keys() and not report["warnings"]
    peft_model = agree(tmp_path, llama()[0], merged(model, adapter))
    adapted = {name for name, module in peft_model.base_model.model.named_modules() if hasattr(module, "lora_A")}
    assert adapted == {segment.name.removesuffix(".weight") for segment in segments}
    # What a reader of r and lora_alpha alone gets, vLLM say, and one that divides by each B's columns, llama.cpp:
    config, tensors = config_of(tmp_path), safetensors.load_file(tmp_path / "lora" / "adapter_model.safetensors")
    for segment, delta in adapter.delta_weights():
        name = "base_model.model." + segment.name.removesuffix("weight")
        A, B = tensors[name + "lora_A.weight"], tensors[name + "lora_B.weight"]
        assert B.shape[1] == config["r"] == A.shape[0]
        got = config["lora_alpha"] / config["r"] * (B @ A).numpy()
        assert np.abs(got - delta).max() < 1e-6 * np.abs(delta).max()  # two roundings more, and sums in another order


class Net(nn.Module):
    """Two convolutions and two linear layers, the name of one of which ends the other's."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.line = nn.Conv1d(36, 8, 2, bias=False)
        self.inner = nn.ModuleDict({"out": nn.Linear(8, 8)})
        self.out = nn.Linear(8, 4)

    def forward(self, image):
        x = torch.tanh(self.conv(image)).flatten(2).transpose(1, 2)
        x = torch.tanh(self.line(x)).mean(-1)
        return self.out(torch.tanh(self.inner["out"](x)))


def test_convolutions_and_a_name_that_ends_another(tmp_path):
    torch.manual_seed(0)
    model = Net()
    (tmp_path / "base").mkdir()
    safetensors.save_file(model.state_dict(), tmp_path / "base" / "model.safetensors")
    segments = [
        Segment("conv.weight", 6, 27, 2),
        Segment("line.weight", 3, 72, 3, row=4),
        Segment("out.weight", 4, 8, 2),
    ]
    adapter = adapter_of(model, segments, tmp_path / "base")
    adapter.base = replace(adapter.base, architecture=None)
    export_to(tmp_path, adapter)
    assert config_of(tmp_path)["target_modules"] == r"conv|line|out"
    base = Net()
    base.load_state_dict(model.state_dict())
    peft_model = agree(tmp_path, base, merged(model, adapter), torch.randn(2, 3, 8, 8))
    assert not hasattr(peft_model.base_model.model.inner["out"], "lora_A")


def test_the_same_bytes_again(tmp_path):
    model, segments = bert()
    model.save_pretrained(tmp_path / "base")
    adapter = adapter_of(model, segments, tmp_path / "base", tuple("abc"), ("classifier.weight",))
    export_to(tmp_path, adapter), export_to(tmp_path, adapter, output="again")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "lora" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


# What a LoRA cannot say


@pytest.mark.parametrize(
    "segment, words",
    [
        (Segment("model.embed_tokens.weight", 50, 32, 2), "model.embed_tokens.weight is an embedding"),
        (Segment("model.layers.0.mlp.experts.gate_up_proj", 8, 4, 2, index=1), "gate_up_proj is a stack of experts"),
        (Segment("attention.in_proj_weight", 96, 32, 2), "in_proj_weight is not the weight of a module"),
        (Segment("weight", 96, 32, 2), "weight is not the weight of a module"),
        (Segment("model.layers.0.self_attn.q_proj.weight", 32, 32, 0), "q_proj.weight is adapted with rank 0"),
    ],
)
def test_what_has_no_pair_is_refused_by_name(tmp_path, segment, words):
    model, segments = llama()
    adapter = adapter_of(model, segments, tmp_path)
    object.__setattr__(adapter, "layer_map", type(adapter.layer_map)([segment]))
    adapter.projection = type(adapter.projection)(D=segment.size, d=8, seed=0)
    adapter.theta = adapter.theta[:8]
    with pytest.raises(UniLoraError, match=words + ".*use export merge"):
        export_to(tmp_path, adapter)
    assert not (tmp_path / "lora").exists()


def test_parameters_that_peft_cannot_keep(tmp_path):
    model, segments = bert()
    model.save_pretrained(tmp_path / "base")
    adapter = adapter_of(model, segments, tmp_path / "base", tuple("abc"))
    adapter.saved = {"scale": np.ones(1, np.float32)}
    with pytest.raises(UniLoraError, match="the parameter scale is in no module that PEFT could keep"):
        export_to(tmp_path, adapter)
    adapter.saved = {"bert.encoder.layer.1.attention.self.query.bias": np.ones(32, np.float32)}
    with pytest.raises(UniLoraError, match=r"query\.weight is adapted in a module that PEFT keeps whole"):
        export_to(tmp_path, adapter)
    with pytest.raises(BaseMismatch):
        export_to(tmp_path, adapter_of(*llama(), tmp_path / "base"))


# The command


def test_the_command_with_neither_torch_nor_transformers(tmp_path):
    model, segments = bert()
    model.save_pretrained(tmp_path / "base")
    save_adapter(
        adapter_of(model, segments, tmp_path / "base", tuple("abc"), ("classifier.bias",)), tmp_path / "vec.safetensors"
    )
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = sys.modules['peft'] = None;"
        "from runpy import run_module as run; run('export', run_name='__main__')"
    )
    call = [sys.executable, "-c", code, "lora", "--adapter", tmp_path / "vec.safetensors", "-o", tmp_path / "lora"]
    # The first says of which base, which nobody typed, and that most readers take no head.
    for status, line, said in ((0, "4 weights of rank 4, 1 trained in full\n", 2), (2, "", 1)):
        done = subprocess.run(
            call, check=False, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        assert done.returncode == status and done.stdout.endswith(line) and done.stderr.count("\n") == said, done.stderr
    assert "is there already" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "lora", "vec.safetensors"]
