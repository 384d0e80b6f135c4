"""A training step in ONNX Runtime beside the torch backend's. Row 20. (step_graph.py has the steps, and measures memory where no torch is.)"""

import os
import tempfile

from .measure import Rounds, alternate, compared, row
from .step_graph import ROWS, TOKENS, export_step, onnx_step, torch_step


def training(rounds: Rounds) -> list[dict]:
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "step.onnx")
        export_step(path, "float32")
        lines = []
        for count in sorted({1, threads}):
            times = alternate({"onnx": onnx_step(path, count), "torch": torch_step(count)[0]}, rounds(15))
            name = f"MiniLM, q, v, r = 4, {count} thread{'s' * (count > 1)}"
            lines.append(compared(name, times["onnx"], times["torch"], 1.0))
    how = (
        f"A step graph of MiniLM with a new head, {ROWS} × {TOKENS} tokens, a quarter of the rows half padded, float32. Both make a whole"
        " step: ONNX Runtime computes loss and gradients and NumPy AdamW's update; torch does both. `python -m benchmarks.step_graph` has"
        " the memory of each in a process of its own."
    )
    about = "A training step in ONNX Runtime", "our step from a step graph", "the torch backend's step"
    return [row(20, *about, how, lines)]
