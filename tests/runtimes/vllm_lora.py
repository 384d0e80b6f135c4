"""``make vllm``: a folder that `export lora` wrote, in vLLM on a CPU, beside PyTorch with the same adapter.

A small random Llama of ranks 2, 4 and 8 with rsLoRA's scaling, in float32: of 20 tokens, chosen greedily, all are the same, with the
adapter and without, and their log-probabilities to 1e-4, some hundred roundings of 2^-24 of numbers up to ten, through three layers.

    python tests/runtimes/vllm_lora.py FOLDER    FOLDER/environment is a virtual environment with vLLM: `make vllm` makes it
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
import transformers

from backends.torch import attach
from export.folders.lora import export_lora

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def small_llama(seed=0):
    """A random one, whose every weight moves the tokens."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        intermediate_size=192, max_position_embeddings=128, initializer_range=0.1, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def adapted(folder: Path):
    model = small_llama()
    model.save_pretrained(folder / "base")
    attach(model, rank=4, d=500, targets=TARGETS, ranks={"q_proj": 2, "o_proj": 8}, alpha=8, scaling="rslora")
    torch.nn.init.uniform_(model.unilora.theta, -1, 1)
    model.save_adapter(folder / "vec.safetensors")
    shutil.rmtree(folder / "lora", ignore_errors=True)
    export_lora(folder / "vec.safetensors", folder / "lora", folder / "base")
    return model


@torch.no_grad()
def compare(model, prompt, run) -> float:
    """How far log-probabilities are off. Each of vLLM's tokens has to be PyTorch's choice."""
    logits = model(input_ids=torch.tensor([prompt + run["tokens"][:-1]])).logits[0, len(prompt) - 1 :]
    assert logits.argmax(-1).tolist() == run["tokens"]
    return float((logits.log_softmax(-1).max(-1).values - torch.tensor(run["logprobs"])).abs().max())


def main(folder: Path):
    model = adapted(folder)
    prompt = [1, *torch.randint(3, 320, (11,)).tolist()]
    answer, python = folder / "answer.json", folder / "environment/bin/python"
    script = Path(__file__).with_name("in_vllm.py")
    # One process is enough, and little memory for its cache.
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    environment.pop("PYTHONPATH", None)
    call = [python, script, folder / "base", folder / "lora", json.dumps(prompt), answer]
    subprocess.run(call, check=True, env=environment)
    answer = json.loads(answer.read_text())
    without, with_it = answer["runs"]
    assert without["tokens"] != with_it["tokens"]
    off = {"adapter": compare(model, prompt, with_it)}
    with torch.no_grad():
        model.unilora.theta.zero_()
    off["base"] = compare(model, prompt, without)
    for what, each in off.items():
        print(f"{what}: 20 of 20 tokens are PyTorch's choice; log-probabilities off by {each:.2g}")
        assert each < 1e-4
    print(
        f"vLLM {answer['vllm']}, {answer['start']:.0f} s to start; torch {torch.__version__}, transformers {transformers.__version__}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
