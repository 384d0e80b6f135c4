"""What a step costs in TRL's SFTTrainer and in ours, with the same vector on the same small Gemma and the same batch.

    PYTHONPATH=. .venv-peers/bin/python tests/peers/trl_cost.py

Prints seconds of a step, which take turns, and the bytes that torch holds at most during one.
"""

import json
import statistics
import sys
import tempfile
import time

import datasets
import torch
import trl
from trained import tokenizer
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from backends.torch import attach
from backends.torch.tasks.causal_lm import CausalLM

ROWS, TOKENS, ROUNDS = 4, 40, 15
SHARES = {"a tenth of the tokens": 0.1, "all tokens": 1.0}


def adapted():
    """As benchmarks/language_models.py has it."""
    config = Gemma3TextConfig(
        vocab_size=65_536, hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=1,
        head_dim=64, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    return attach(Gemma3ForCausalLM(config).train(), rank=4, d=5760, targets=["q_proj", "v_proj"])


def batch(share):
    ids = torch.randint(1000, 60_000, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, : TOKENS - max(1, round(share * TOKENS))] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def ours(model):
    task = CausalLM.__new__(CausalLM)
    task.inputs = frozenset(["use_cache"])
    return lambda rows: task.loss(model, rows)[0]


def trls(model):
    arguments = trl.SFTConfig(
        output_dir=tempfile.mkdtemp(),
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    rows = datasets.Dataset.from_dict({"text": ["the cat is good"] * 4})
    trainer = trl.SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer())
    return lambda rows: trainer.compute_loss(model, dict(rows))


def step(loss, model, rows):
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-4)

    def run():
        value = loss(rows)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value.item()

    return run


def peak(run):
    """Bytes of torch's above those before the step, at most."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    live = most = 0
    events = profiler.profiler.kineto_results.events()
    for _, size in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        live += size
        most = max(most, live)
    return most


def main():
    torch.set_num_threads(1)
    for name, share in SHARES.items():
        steps = {}
        for who, make in {"ours": ours, "TRL": trls}.items():
            model = adapted()
            steps[who] = step(make(model), model, batch(share))
        first = {who: run() for who, run in steps.items()}
        assert abs(first["ours"] - first["TRL"]) < 1e-4 * first["TRL"], first
        seconds = {who: [] for who in steps}
        for number in range(ROUNDS):
            for who in sorted(steps, reverse=number % 2):
                start = time.perf_counter()
                steps[who]()
                seconds[who].append(time.perf_counter() - start)
        medians = {who: statistics.median(each) for who, each in seconds.items()}
        peaks = {who: peak(run) for who, run in steps.items()}
        ratios = {"seconds": medians["ours"] / medians["TRL"], "bytes": peaks["ours"] / peaks["TRL"]}
        print(json.dumps({"labels": name, "seconds": medians, "bytes": peaks, "ours / TRL": ratios}))


if __name__ == "__main__":
    sys.exit(main())
