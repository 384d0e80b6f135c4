"""Exports onto a large ONNX base, and large adapters: memory, sizes and times.

    python -m benchmarks.large_onnx            a base of 3 GB, 48 products of 64 MB with their data beside: peak memory
    python -m benchmarks.large_onnx --adapter  adapters of up to 20 million entries of θ_D: graphs, loading, runs

The base is built in a temporary folder, 6.2 GB of disk with the result (``--dir`` says where), and every export runs in a
process of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from unilora_spec import (
    Adapter,
    Base,
    LayerMap,
    Projection,
    Segment,
    contents_fingerprint,
    save_adapter,
    structure_fingerprint,
)

MEASURED = (
    "import atexit, sys; sys.modules['torch'] = None; from runpy import run_module;"
    "atexit.register(lambda: print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr));"
)
EXPORT = MEASURED + "run_module('export', run_name='__main__')"
ADAPTERS = ((2**20, 32), (2**22, 64), (20_000_000, 160))  # entries of θ_D, at least, and the rank that has them


def build(folder: Path, layers: int, side: int, rank: int = 4, named: bool = True, d: int = 5760) -> Path:
    """A base of ``layers`` square products, (in, out) in base.data, written one at a time, and an adapter of all of them,
    whose path is given back. Without names only the contents tell which is which."""
    names = [f"layers.{i}.weight" for i in range(layers)]
    stored = names if named else [f"x{i}" for i in range(layers)]
    (folder / "base").mkdir()
    tensors, nodes, size = [], [], 4 * side * side
    with open(folder / "base" / "base.data", "wb") as data:
        for i, name in enumerate(stored):
            data.write(weight(i, side).T.tobytes())
            tensors.append(external(name, side, i * size, size))
            nodes.append(helper.make_node("MatMul", [f"h{i}", name], [f"y{i}"]))
            nodes.append(helper.make_node("Tanh", [f"y{i}"], [f"h{i + 1}"]))
    shape = ["batch", side]
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in ("h0", f"h{layers}"))
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "base" / "base.onnx").write_bytes(model.SerializeToString())
    layer_map = LayerMap([Segment(name, side, side, rank) for name in names], alpha=rank)
    places = {name: i for i, name in enumerate(names)}
    contents = contents_fingerprint(names, lambda name: weight(places[name], side))
    record = Base("base", structure_fingerprint(dict.fromkeys(names, (side, side))), contents)
    theta = np.random.default_rng(0).normal(size=d).astype(np.float32)
    adapter = Adapter(Projection(D=layer_map.D, d=d, seed=0), layer_map, theta, record)
    save_adapter(adapter, folder / "vec.safetensors")
    return folder / "vec.safetensors"


def weight(seed: int, side: int) -> np.ndarray:
    """W of a layer, (out, in)."""
    return (np.random.default_rng(seed).random((side, side), np.float32) - 0.5) * np.float32(4 / side**0.5)


def external(name, side, offset, size):
    tensor = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[side, side])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "base.data"), ("offset", offset), ("length", size)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def measure(code: str, *arguments) -> tuple[str, int, float]:
    """What a process prints, its peak of resident memory in bytes with mapped files counted in, and its seconds."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout, int(done.stderr.split()[-1]) * 1024, time.perf_counter() - start


def export(folder: Path, adapter: Path, mode: str, *options) -> tuple[dict, int, float]:
    base, output = folder / "base" / "base.onnx", folder / "out.onnx"
    arguments = ("onnx", "--adapter", adapter, "--base", base, "--mode", mode, "-o", output, "--json", *options)
    out, peak, seconds = measure(EXPORT, *arguments)
    return json.loads(out), peak, seconds


def large(folder: Path, layers: int, side: int) -> None:
    adapter, size = build(folder, layers, side), 4 * side * side
    bound = 3 * size + 500_000_000
    for mode in ("merged", "reconstruct"):
        report, peak, seconds = export(folder, adapter, mode, "--no-compare")
        print(
            f"{mode}: {layers} products of {size / 1e6:.0f} MB, {report['bytes'] / 1e9:.2f} GB written in {seconds:.0f}"
            f" s; peak {peak / 1e6:.0f} MB, the bound is {bound / 1e6:.0f} MB: {'within' if peak <= bound else 'ABOVE'}"
        )


def adapters(folder: Path) -> None:
    print("| D | mode | graph and beside, MB | loads in s | MB | runs in ms |\n|---|---|---|---|---|---|")
    for number, (D, rank) in enumerate(ADAPTERS):
        place = folder / str(number)
        place.mkdir()
        side = 1024
        layers = max(1, D // (2 * rank * side))
        adapter = build(place, layers, side, rank, d=2**16)
        for mode in ("merged", "reconstruct", "input", "factored"):
            report, *_ = export(place, adapter, mode, "--no-compare")
            own = report["bytes"] - layers * 4 * side * side if mode != "merged" else 0
            out, _, _ = measure(
                MEASURED + f"from benchmarks.large_onnx import run; run({str(place / 'out.onnx')!r}, {mode!r})"
            )
            row = json.loads(out)
            print(
                f"| {2 * rank * side * layers:,} | {mode} | {own / 1e6:.1f} | {row['loads']:.2f} | {row['megabytes']:.0f}"
                f" | {row['runs'] * 1e3:.0f} |",
                flush=True,
            )


def run(path: str, mode: str) -> None:
    """Loads a file and runs it on one row; prints seconds of loading and of a run, and the memory that it takes."""
    import onnxruntime

    def resident():
        return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) * 1024

    before, start = resident(), time.perf_counter()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    loads = time.perf_counter() - start
    feed = {i.name: np.ones((1, 1024), np.float32) for i in session.get_inputs()}
    options = onnxruntime.RunOptions()
    if mode == "factored":
        lora = onnxruntime.LoraAdapter()
        lora.Load(path.removesuffix(".onnx") + ".onnx_adapter")
        options.add_active_adapter(lora)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        session.run(None, feed, options)
        times.append(time.perf_counter() - start)
    print(json.dumps({"loads": loads, "megabytes": (resident() - before) / 1e6, "runs": sorted(times)[3]}))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_onnx", description=__doc__.partition("\n")[0])
    parser.add_argument("--adapter", action="store_true", help="large adapters in place of a large base")
    parser.add_argument("--layers", type=int, default=48, help="of 64 MB each")
    parser.add_argument("--dir", type=Path, help="where the temporary folder is made")
    call = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=call.dir) as place:
        adapters(Path(place)) if call.adapter else large(Path(place), call.layers, 4000)


if __name__ == "__main__":
    main()
