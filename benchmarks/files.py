"""What is written: a checkpoint, an optimizer's state, a merged base. Rows 10 and 11."""

import tempfile
from pathlib import Path

import torch

from . import large_merge
from .attaching import Q_V
from .measure import Rounds, compared, row
from .models import D_TRAINED, OURS, UNILORA

SIDE, SHARDS = 5000, 3


def checkpoints(rounds: Rounds) -> list[dict]:
    ours, peft = (Q_V.adapt(Q_V.base(), how) for how in (OURS, UNILORA))
    with tempfile.TemporaryDirectory() as place:
        file, folder = Path(place, "vec.safetensors"), Path(place, "peft")
        ours.save_adapter(file)
        peft.save_pretrained(folder)
        size, sizes = file.stat().st_size, {path.name: path.stat().st_size for path in folder.iterdir()}
    needed = sum(count for name, count in sizes.items() if name != "README.md")
    states = [_optimizer_bytes(model) for model in (ours, peft)]
    theta = D_TRAINED * 4
    lines = [
        compared("checkpoint", [size], [needed], unit="bytes"),
        compared("checkpoint less θ's numbers", [size - theta], [needed - theta], unit="bytes"),
        compared("checkpoint, with PEFT's README.md", [size], [sum(sizes.values())], unit="bytes"),
        compared("AdamW's state", [states[0]], [states[1]], 1.0, unit="bytes"),
    ]
    how = (
        f"{Q_V}, d = {D_TRAINED:,}. Our one file from `save_adapter` against what PEFT's `save_pretrained` writes and"
        " needs to load: adapter_model.safetensors and adapter_config.json. Of the optimizer, all tensors of its state"
        f" after a step. The file has no bound: θ's {theta:,} bytes are in both, and each has less than a thousand beside them."
    )
    about = "Bytes that are kept", "our file and optimizer state", "PEFT UniLora's"
    return [row(10, *about, how, lines)]


def _optimizer_bytes(model) -> int:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return sum(value.nbytes for state in optimizer.state.values() for value in state.values())


def merge(rounds: Rounds) -> list[dict]:
    largest = 4 * SIDE * SIDE
    with tempfile.TemporaryDirectory() as place:
        _, imports = large_merge.merge(large_merge.build(Path(place, "small"), SHARDS, side=32, files=SHARDS))
        report, peak = large_merge.merge(large_merge.build(Path(place, "large"), SHARDS, side=SIDE, files=SHARDS))
    lines = [compared("peak of resident memory", [peak - imports], [largest], 3, unit="bytes")]
    how = (
        f"`python -m export merge` of {report['weights']} float32 tensors of {SIDE:,} × {SIDE:,} in {SHARDS} files,"
        f" {report['bytes']:,} bytes, in a process of its own; its peak (VmHWM) less that of a merge of tensors of 32 ×"
        " 32, which is the interpreter and what it imports. `python -m benchmarks.large_merge` does the same with"
        " several GB."
    )
    about = "Merge into a checkpoint", "peak memory", "the largest tensor"
    return [row(11, *about, how, lines)]
