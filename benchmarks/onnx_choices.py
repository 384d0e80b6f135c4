"""What three choices of docs/onnx-design.md rest on: numbers that a graph stores, its opset, and the operator that spreads θ.

    python -m benchmarks.onnx_choices                    all of them: two minutes of processor time, most of it for gelu
    python -m benchmarks.onnx_choices --only gather      one: gather, stored or gelu

Times are processor time of this process, and what is compared takes turns: what others do on the machine is hardly in a ratio.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from export import export_onnx
from export.torch_base.base import load_base
from export.torch_base.inputs import real_inputs
from unilora_spec import Adapter, LayerMap, Projection, Segment
from unilora_spec.program import ordered

from .onnx_modes import measure, random_adapter, session

RANK = 256  # of `vera`
D, DIM = 36_864, 5760  # of the adapter of the other pages: q and v of MiniLM, rank 4
ROUNDS = 20
CHOICES = ["gather", "stored", "gelu"]


def seconds(work) -> float:
    """The processor time of a call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def stored(folder: Path, adapter: Adapter, model, inputs) -> None:
    """What A₀ and B₀ of `vera` take in a file, and how long NumPy takes to make them, beside how long ONNX Runtime takes to load it."""
    layer_map = LayerMap([Segment(s.name, s.out_features, s.in_features, RANK) for s in adapter.layer_map.segments])

    def frozen(projection):
        pieces = [value for _, value in projection.pieces(0, projection.D)]
        return [value.array for value in ordered(pieces) if value.op == "frozen"]

    p = Projection.of(layer_map, "vera")
    vera = Adapter(p, layer_map, p.initial(layer_map), adapter.base, adapter.saved)
    size = {}
    for mode in ("merged", "reconstruct"):
        export_onnx(model, vera, inputs, folder / f"{mode}.onnx", mode, compare=False)
        size[mode] = (folder / f"{mode}.onnx").stat().st_size
    more = size["reconstruct"] - size["merged"]
    numbers = sum(array.nbytes for array in frozen(p))
    print(
        f"vera, rank {RANK}: A₀ and B₀ have {numbers:,} bytes, reconstruct {more / 1e3:,.0f} kB beside the base,",
        end=" ",
    )
    print(f"{more / size['reconstruct']:.1%} of the file.")
    making, loading = [], []
    for _ in range(ROUNDS):
        making.append(seconds(lambda: frozen(Projection.of(layer_map, "vera"))))
        loading.append(seconds(lambda: session(folder / "reconstruct.onnx")))
    ratio = statistics.median(a / b for a, b in zip(making, loading))
    print(f"NumPy makes them in {ratio:.1%} of the time that loading the file takes", end=" ")
    print(f"({1e3 * statistics.median(making):.1f} ms of {1e3 * statistics.median(loading):.0f} ms).")


def gelu(folder: Path, adapter: Adapter, model, inputs) -> None:
    """How long MiniLM takes at opset 20, where Gelu is an operator, beside opset 18."""
    for mode in ("merged", "input"):
        paths = [folder / str(opset) / f"{mode}.onnx" for opset in (18, 20)]
        for path, opset in zip(paths, (18, 20)):
            path.parent.mkdir(exist_ok=True)
            export_onnx(model, adapter, inputs, path, mode, opset, compare=False)
        found = measure(paths, adapter)[paths[1]]
        ratios = (f"{value[0]:.3f} of {key[0]} × {key[1]}" for key, value in found.items() if isinstance(key, tuple))
        print(f"{mode}: a run at opset 20 takes of one at opset 18 {', '.join(ratios)} tokens.")


def gather(folder: Path) -> None:
    """How long Gather and GatherElements take to spread θ to θ_D."""
    index = helper.make_tensor("index", TensorProto.INT32, [D], np.random.default_rng(0).integers(0, DIM, D))
    sessions = {}
    for op in ("Gather", "GatherElements"):
        theta, out = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [size]) for name, size in (("x", DIM), ("y", D))
        )
        graph = helper.make_graph([helper.make_node(op, ["x", "index"], ["y"])], op, [theta], [out], [index])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), folder / op)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        sessions[op] = onnxruntime.InferenceSession(folder / op, options, providers=["CPUExecutionProvider"])
    feed = {"x": np.ones(DIM, np.float32)}
    times = {op: [] for op in sessions}
    for _ in range(ROUNDS):
        for op, loaded in sessions.items():
            times[op].append(seconds(lambda loaded=loaded: [loaded.run(None, feed) for _ in range(50)]) / 50)
    ratio = statistics.median(a / b for a, b in zip(*times.values()))
    shown = " and ".join(f"{op} {1e6 * statistics.median(each):.0f} µs" for op, each in times.items())
    print(f"θ_D of {D:,} entries: Gather takes {ratio:.1f} times as long as GatherElements ({shown}).")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.onnx_choices", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=CHOICES, help="this one alone; may be given again")
    asked = parser.parse_args().only or CHOICES
    with tempfile.TemporaryDirectory() as folder:
        if "gather" in asked:
            gather(Path(folder))
        if {"stored", "gelu"} & {*asked}:
            adapter = random_adapter()
            model, tokenizer, _ = load_base(adapter)
            first, *_ = real_inputs(model, tokenizer)
            for work in (stored, gelu):
                if work.__name__ in asked:
                    work(Path(folder), adapter, model, first)


if __name__ == "__main__":
    main()
