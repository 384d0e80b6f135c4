"""What a step of a language model costs whose rows have labels at some tokens: ours, PEFT UniLora's, PEFT LoRA's. Row 16."""

import inspect
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

from backends.torch.tasks.causal_lm import CausalLM
from backends.torch.training.base import quiet
from unilora_spec import WorkFailed

from .measure import Rounds, alternate, compared, operators, row
from .memory import allocated
from .models import LORA, OURS, SEED, UNILORA, Case, Model

SHARES = {"a tenth of the tokens": 0.1, "all tokens": 1.0}
AT_MOST = {"a tenth of the tokens": 0.6, "all tokens": 1.02}
OF_GEMMA = "UNILORA_GEMMA"  # names the folder of Gemma 3 270M, which is measured too where it is there


def small() -> nn.Module:
    """A Gemma of four layers with a vocabulary as large, beside its width, as Gemma 3 270M's."""
    config = Gemma3TextConfig(
        vocab_size=65_536,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=64,
        use_cache=False,
    )
    torch.manual_seed(SEED)
    return Gemma3ForCausalLM(config)


def large() -> nn.Module:
    with quiet():
        return AutoModelForCausalLM.from_pretrained(os.environ[OF_GEMMA], dtype=torch.float32)


QUERIES = {"q, v": ("q_proj", "v_proj")}
CASES = {"small": Case(Model("small Gemma", small, rows=4, tokens=40, targets=QUERIES), "q, v", 4)}
if OF_GEMMA in os.environ:
    CASES["large"] = Case(Model("Gemma 3 270M", large, rows=4, tokens=32, targets=QUERIES), "q, v", 4)
ROUNDS = {"small": 21, "large": 5}


def language_models(rounds: Rounds) -> list[dict]:
    lines, profiles = [], {}
    for size, case in CASES.items():
        for share in SHARES:
            models = {how: case.adapt(case.base(), how) for how in (OURS, UNILORA, LORA)}
            steps = {how: step(case, how, share, model) for how, model in models.items()}
            times = alternate(steps, rounds(ROUNDS[size]))
            profile = f"{case}, {share}: our step"
            profiles[profile] = operators(steps[OURS], None, rounds(3))
            for peer in (UNILORA, LORA):
                lines.append(
                    compared(f"{case}, {share}, {peer}", times[OURS], times[peer], AT_MOST[share], profile=profile)
                )
            peaks = {how: [_memory(size, how, share)] for how in (OURS, UNILORA, LORA)}
            for peer in (UNILORA, LORA):
                lines.append(
                    compared(f"{case}, {share}, {peer}, memory", peaks[OURS], peaks[peer], AT_MOST[share], unit="bytes")
                )
    how = (
        "One step is forward, backward and AdamW on what is trained, float32, all threads, without dropout; the models take turns"
        " within each round, on one batch. The peers' loss is that of transformers' model itself, which"
        " computes the output layer for all tokens. Memory is what torch holds at most during the third step in a fresh"
        " process, since before the adapter was there, as in row 9. "
        + " ".join(f"{case.model.name}: {case.model.rows} × {case.model.tokens} tokens." for case in CASES.values())
    )
    return [row(16, "A step of a language model", "our step", "the peer's", how, lines, profiles=profiles)]


def step(case: Case, how: str, share: str, model: nn.Module) -> Callable[[], None]:
    """A training step of ``model`` on one batch, whose last tokens have labels, so many as ``share`` says."""
    rows, tokens = case.model.rows, case.model.tokens
    random = torch.Generator().manual_seed(SEED)
    ids = torch.randint(1000, 60_000, (rows, tokens), generator=random)
    labels = ids.clone()
    labels[:, : tokens - max(1, round(SHARES[share] * tokens))] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    loss = ours(model) if how == OURS else lambda batch: model(**batch).loss

    def run():
        loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def ours(model: nn.Module) -> Callable[[dict], torch.Tensor]:
    """The loss of a batch as our trainer takes it."""
    task = CausalLM(types.SimpleNamespace(metric=None))
    task.inputs = frozenset(inspect.signature(model.forward).parameters)
    return lambda batch: task.loss(model, batch)[0]


def _memory(size, how, share) -> int:
    command = [sys.executable, "-m", "benchmarks.language_models", size, how, share, str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    if done.returncode:
        raise WorkFailed(f"{size}: the memory of a step could not be measured: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])["peak"]


if __name__ == "__main__":
    size, how, share, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    case = CASES[size]
    base = case.base()
    print(json.dumps(allocated(lambda: step(case, how, share, case.adapt(base, how)))))
