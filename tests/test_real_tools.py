"""Models as the tools themselves write them, in environments that have the tools.

    python -m venv genai && genai/bin/pip install -e . onnxruntime-genai onnxscript pytest
    genai/bin/python -m pytest tests/test_real_tools.py

onnxruntime-genai's builder of 0.18 reads transformers 5; Optimum wants transformers 4 and an environment of its own:

    python -m venv optimum && optimum/bin/pip install -e . optimum-onnx onnxruntime onnx-ir onnxscript typer rich pytest
    optimum/bin/python -m pytest tests/test_real_tools.py
"""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx_ir")
transformers = pytest.importorskip("transformers")

from adapters import merged

from backends.torch import attach
from export.onnx_base.feeds import feeds_for
from export.onnx_base.folder import export_onnx_folder
from export.onnx_base.from_file import export_onnx_file, read
from export.parity import compare as parity
from unilora_spec import load_adapter

SMALL = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "initializer_range": 0.15,
}  # fmt: skip
PROJECTIONS = ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj")
PACKED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
DECODERS = {
    "Llama": ({}, PROJECTIONS),
    "Qwen2": ({}, PROJECTIONS),
    "Qwen3": ({"head_dim": 16}, PROJECTIONS),
    "Phi3": ({"original_max_position_embeddings": 128}, PACKED),
}
LARGEST = 1e-4  # of an output's largest entry: as export/parity says, and why


def saved(model, targets, folder):
    """The model and a tokenizer in ``folder``, and an adapter of it."""
    from tokenizers import Tokenizer, models

    model.save_pretrained(folder)
    tokens = models.BPE(vocab={"<unk>": 0, "<s>": 1, "</s>": 2}, merges=[], unk_token="<unk>")
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(tokens), **special).save_pretrained(folder)
    attach(model, rank=4, d=600, targets=targets)
    with torch.no_grad():
        model.unilora.theta.normal_(std=0.5)
    model.save_adapter(folder / "a.safetensors")
    model.detach()
    return load_adapter(folder / "a.safetensors")


@pytest.mark.parametrize("precision", ["fp32", "int4"])
@pytest.mark.parametrize("name", DECODERS)
def test_models_of_onnxruntime_genais_builder(tmp_path, name, precision):
    pytest.importorskip("onnxruntime_genai")
    more, targets = DECODERS[name]
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**SMALL, **more)).eval()
    adapter = saved(model, targets, tmp_path / "hf")
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-e", "cpu", "-p", precision]
    paths = ["-i", tmp_path / "hf", "-o", tmp_path / "built", "-c", tmp_path / "cache"]
    subprocess.run([*builder, *paths], check=True, capture_output=True)
    base = tmp_path / "built" / "model.onnx"
    for mode in ("merged", "reconstruct", "input", "factored")[precision == "int4" :]:
        report = export_onnx_file(base, adapter, tmp_path / "out.onnx", mode)
        assert report["comparison"]["within"] and report["adapter_moves_outputs_by"] > 0.1
        assert report["same_contents"] is (True if precision == "fp32" else None)
    if precision == "fp32":
        export_onnx_file(base, adapter, tmp_path / "out.onnx")
        feed = feeds_for(read(base))[0]
        ids = torch.from_numpy(feed["input_ids"][:1])  # the second row ends early
        feed = {key: value[:1] for key, value in feed.items()}
        with torch.no_grad():
            want = merged(copy.deepcopy(model), adapter)(input_ids=ids).logits.numpy()
        (got,) = parity.run(parity.session(tmp_path / "out.onnx"), feed, ["logits"]).values()
        assert np.abs(got - want).max() / np.abs(want).max() <= LARGEST


@pytest.mark.parametrize("mode", ["merged", "reconstruct", "input", "factored"])
def test_encoder_decoders_of_optimum(tmp_path, mode):
    """encoder_model, decoder_model, decoder_with_past_model and decoder_model_merged, whose two branches lie in an If."""
    export = pytest.importorskip("optimum.exporters.onnx")
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=320, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    adapter = saved(model, ("q", "v"), tmp_path / "hf")
    export.main_export(str(tmp_path / "hf"), str(tmp_path / "built"), task="text2text-generation-with-past")
    report = export_onnx_folder(tmp_path / "built", adapter, tmp_path / "out", mode)
    assert len(report["parts"]) == 4 and report["same_contents"] is True
    if mode != "merged":
        return
    x = torch.arange(3, 9)[None]
    ids = torch.tensor([[0, 7, 5]])
    with torch.no_grad():
        want = merged(copy.deepcopy(model), adapter)(input_ids=x, decoder_input_ids=ids).logits.numpy()
    feed = {"input_ids": x.numpy(), "attention_mask": np.ones((1, 6), np.int64)}
    session = parity.session(tmp_path / "out" / "encoder_model.onnx")
    states = parity.run(session, feed, ["last_hidden_state"])["last_hidden_state"]
    feed = {"input_ids": ids.numpy(), "encoder_hidden_states": states, "encoder_attention_mask": feed["attention_mask"]}
    (got,) = parity.run(parity.session(tmp_path / "out" / "decoder_model.onnx"), feed, ["logits"]).values()
    assert np.abs(got - want).max() / np.abs(want).max() <= LARGEST
