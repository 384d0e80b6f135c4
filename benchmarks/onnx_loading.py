"""What the rebuild inside an ONNX file costs when ONNX Runtime loads it, against the length D of θ_D.

    python -m benchmarks.onnx_loading                 the table of docs/onnx.md
    python -m benchmarks.onnx_loading A.onnx B.onnx   loading and running whole files, in turns

Each row of the table is a process of its own: what one session leaves in the allocator makes the next one cheaper.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from export.graph import rebuild
from export.graph.adapt import Weight, adapt
from unilora_spec import Adapter, LayerMap, Projection, Segment

SIZES = (36_864, 73_728, 147_456, 262_144, 524_288, 1_000_000, 2_000_000)


def measure(D: int, computed: bool) -> dict:
    """Loads a graph with one adapted weight, of D − 1 inputs, one output and rank 1; seconds, memory and bytes."""
    rebuild.LARGEST_COMPUTED = D if computed else 0
    segment = Segment("weight", 1, D - 1, 1)
    projection = Projection(D=D, d=5760, seed=42)
    adapter = Adapter(projection, LayerMap([segment]), np.ones(5760, np.float32))
    x, y = (
        ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", D - 1])) for name in "xy"
    )
    W = ir.Value(name="weight", const_value=ir.Tensor(np.zeros((1, D - 1), np.float32), name="weight"))
    W.shape, W.dtype = ir.Shape([1, D - 1]), ir.DataType.FLOAT
    nodes = [ir.Node("", "Add", [x, W], outputs=[y])]
    model = ir.Model(ir.Graph([x], [y], nodes=nodes, initializers=[W], opset_imports={"": 20}), ir_version=10)
    adapt(model, [adapter], [Weight(W, [(segment, 0)])], [], "reconstruct")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        ir.save(model, path)
        size, before = path.stat().st_size - 4 * (D - 1), _peak()
        start = time.perf_counter()
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        seconds = time.perf_counter() - start
    assert session.get_inputs()[0].name == "x"
    walks = sum(node.op_type == "Walk" for node in model.graph)
    return {"walks": walks, "seconds": seconds, "megabytes": (_peak() - before) / 2**20, "bytes": size}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table() -> None:
    print("| D | walks | computed: seconds, MB | stored: seconds, MB | bytes of the stored index |")
    print("|---|---|---|---|---|")
    for D in SIZES:
        cells = []
        for computed in (True, False):
            call = [sys.executable, "-m", "benchmarks.onnx_loading", "--one", str(D), str(int(computed))]
            runs = [json.loads(subprocess.run(call, check=True, capture_output=True).stdout) for _ in range(3)]
            cells.append(min(runs, key=lambda run: run["seconds"]))
        a, b = cells
        print(
            f"| {D:,} | {a['walks']} | {a['seconds']:.2f}, {a['megabytes']:.0f} | {b['seconds']:.2f}, {b['megabytes']:.0f}"
            f" | {b['bytes'] - a['bytes']:,} |",
            flush=True,
        )


def files(paths) -> None:
    random = np.random.default_rng(0)
    sessions, loading = {}, {path: [] for path in paths}
    for _ in range(3):
        for path in paths:
            start = time.perf_counter()
            sessions[path] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            loading[path].append(time.perf_counter() - start)
    values = {"input_ids": random.integers(5, 1000, (8, 32)), "attention_mask": np.ones((8, 32), np.int64)}
    values["token_type_ids"] = np.zeros((8, 32), np.int64)
    feed = {i.name: values[i.name] for i in sessions[paths[0]].get_inputs()}
    times, outputs = {path: [] for path in paths}, {}
    for _ in range(40):
        for path, session in sessions.items():
            start = time.perf_counter()
            outputs[path] = session.run(None, feed)[0]
            times[path].append(time.perf_counter() - start)
    for path in paths:
        difference = np.abs(outputs[path] - outputs[paths[0]]).max()
        print(
            f"{path}: loads in {min(loading[path]):.2f} s, runs 8 × 32 tokens in {min(times[path]) * 1e3:.1f} ms"
            f" (best), {np.median(times[path]) * 1e3:.1f} ms (median); differs from the first by {difference:g}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(int(sys.argv[2]), sys.argv[3] == "1")))
    elif sys.argv[1:]:
        files(sys.argv[1:])
    else:
        table()
