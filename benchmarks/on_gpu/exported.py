"""ONNX files of a small BERT in each mode, with what they are fed and what they must answer, in a folder.

``python -m benchmarks.on_gpu.exported FOLDER`` writes it where there is all that the exporter needs; ``make gpu FILES=FOLDER`` runs
its files where there is onnxruntime-gpu alone.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from unilora_spec import Adapter, UniLoraError
from unilora_spec.command import run, say

MODES = ("merged", "reconstruct", "input", "factored", "bank")
FEED, ANSWER = "feed.", "answer."  # the beginnings of the names in MODE.npz
LARGE = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}  # MiniLM's shape
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}


def modes_in(folder: Path) -> list[str]:
    """The modes whose files are there."""
    return [mode for mode in MODES if (folder / f"{mode}.npz").exists()]


def write(folder: Path, sizes: Mapping[str, int] = LARGE) -> Iterator[str]:
    """Writes MODE.onnx and MODE.npz for each mode, and yields the mode when they are there.

    Raises ``ModuleNotFoundError`` where the exporter lacks a package.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from backends.torch import attach
    from export import export_onnx
    from unilora_spec import load_adapter

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=2000, initializer_range=0.05, **sizes)).eval()
    attach(model, rank=4, d=500, seed=0, targets=("query", "value"))
    with torch.no_grad():
        model.unilora.theta.normal_(std=0.3)  # large enough that a wrong entry of P changes the answers
    ids = torch.randint(0, 2000, (8, 64))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.inference_mode():
        expected = {"logits": model(**inputs).logits.numpy()}
    folder.mkdir(parents=True, exist_ok=True)
    model.save_adapter(folder / "adapter.safetensors")
    base, adapter = model.detach(), load_adapter(folder / "adapter.safetensors")
    for mode in MODES:
        export_onnx(base, adapter, inputs, folder / f"{mode}.onnx", mode)
        fed = {name: value.numpy() for name, value in inputs.items()} | more_inputs(mode, adapter, len(ids))
        named = {FEED + name: value for name, value in fed.items()} | {
            ANSWER + name: value for name, value in expected.items()
        }
        np.savez(folder / f"{mode}.npz", **named)
        yield mode


def more_inputs(mode: str, adapter: Adapter, rows: int) -> dict[str, np.ndarray]:
    """What a mode is fed beside the model's own inputs."""
    if mode == "input":
        return {"theta": adapter.theta}
    if mode == "factored":
        from export.onnx import feeds_of

        return feeds_of(adapter)
    return {"adapter": np.zeros(rows, np.int64)} if mode == "bank" else {}


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What the file beside MODE.npz is fed, and what it must answer."""
    with np.load(path) as arrays:
        feed, answers = ({n.removeprefix(of): arrays[n] for n in arrays if n.startswith(of)} for of in (FEED, ANSWER))
    return feed, answers


def main() -> int:
    if len(sys.argv) != 2:
        raise UniLoraError("give the folder that the files go to: python -m benchmarks.on_gpu.exported FOLDER")
    for mode in write(Path(sys.argv[1])):
        say(f"{mode}.onnx is there")
    return 0


if __name__ == "__main__":
    run(main)
