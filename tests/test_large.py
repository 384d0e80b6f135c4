"""Exports onto a base whose data is beside it: in the memory of a few tensors, with the right data, and nothing left over."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from unilora_spec import load_adapter

ir = pytest.importorskip("onnx_ir")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.large_onnx import build, weight

LAYERS, SIDE, RANK = 10, 2000, 8  # the index has more entries than a graph computes: it is stored
SIZE = 4 * SIDE * SIDE  # 16 MB, of 160
COMMAND = (
    "import signal, sys; sys.modules['torch'] = None; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "import export.onnx, export.onnx_base.from_file, export.onnx_base.by_content; export.onnx_base.by_content.CACHE = 2 * 16 * 10**6; export.onnx.LARGEST_FILE = export.onnx_base.from_file.LARGEST_FILE = 10**7;"
    "import atexit; from runpy import run_module;"
    "atexit.register(lambda: print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr));"
    "run_module('export', run_name='__main__')"
)
X = np.random.default_rng(0).normal(size=(2, SIDE)).astype(np.float32)
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="reads /proc; ru_maxrss would be the parent's where that is larger"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a base of 160 MB and its adapter, one that the exports cannot change."""
    folder = tmp_path_factory.mktemp("large")
    build(folder, LAYERS, SIDE, RANK)
    os.chmod(folder / "base", 0o555)
    return folder


@pytest.fixture(scope="module")
def least(tmp_path_factory):
    """The peak of an export of next to nothing: the interpreter and its packages."""
    folder = tmp_path_factory.mktemp("small")
    build(folder, 2, 32, d=64)
    return finished(start(folder, folder / "out.onnx", "merged"))[1]


def start(folder, output, mode, *options):
    arguments = (
        "onnx",
        "--adapter",
        folder / "vec.safetensors",
        "--base",
        folder / "base" / "base.onnx",
        "--mode",
        mode,
    )
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, (*arguments, "-o", output, "--json", *options))], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip


def finished(process):
    """The report, and the peak of resident memory in bytes, mapped files counted in."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out), int(err.split()[-1]) * 1024


def answer(path, feed=()):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"h0": X, **dict(feed)})[0]


@pytest.fixture(scope="module")
def wanted(base):
    """What NumPy computes, a layer at a time, and each W + ΔW."""
    h = X
    for i, (_, delta) in enumerate(load_adapter(base / "vec.safetensors").delta_weights()):
        h = np.tanh(h @ (weight(i, SIDE) + delta).T)
    return h


@pytest.mark.parametrize("mode", ["merged", "reconstruct", "input", "bank"])
def test_memory_is_that_of_a_few_tensors(base, least, wanted, tmp_path, mode):
    """The graph and its tensors are 160 MB. Of tensors there are W, what is hashed or added of it in bands, and what is
    written: three, and 30 MB for ΔW's bands and the stored index: half of the whole model."""
    report, peak = finished(start(base, tmp_path / "out.onnx", mode))
    print(least, peak, peak - least)
    assert peak - least < 3 * SIZE + 30_000_000
    assert report["same_contents"] is True and report["comparison"] is None and report["bytes"] > LAYERS * SIZE
    graph, data, *adapter = (Path(file) for file in report["files"])
    assert [file.name for file in adapter] == (["out.onnx_adapter"] if mode == "input" else [])
    assert (
        sorted(tmp_path.iterdir()) == sorted([graph, data, *adapter])
        and data.name.startswith("out.onnx.")
        and data.suffix == ".data"
    )
    model = onnx.load(graph, load_external_data=False)
    locations = {entry.value for t in model.graph.initializer for entry in t.external_data if entry.key == "location"}
    assert locations == {data.name}
    stored = ir.load(graph).graph.initializers
    for i, (segment, delta) in enumerate(load_adapter(base / "vec.safetensors").delta_weights()):
        W = weight(i, SIDE) + (delta if mode == "merged" else 0)
        assert np.allclose(stored[segment.name].const_value.numpy().T, W, rtol=0, atol=1e-6)
        stored[segment.name].const_value.release()
    feed = {"adapter": np.zeros(2, np.int64)} if mode == "bank" else {}
    assert np.abs(answer(graph, feed) - wanted).max() < 1e-3


def test_found_by_its_contents(least, tmp_path):
    """Nothing but the fingerprint tells ten matrices of one shape apart: 160 MB are hashed, and two of them kept."""
    build(tmp_path, 10, SIDE, named=False)
    report, peak = finished(start(tmp_path, tmp_path / "out.onnx", "merged"))
    assert {row["how"] for row in report["weights"]} == {"fingerprint"}
    print(least, peak, peak - least)
    assert peak - least < 5 * SIZE


TIED = """
import json, sys
import numpy as np, onnx_ir as ir
from pathlib import Path
from export.parity import compare, unrounded

def resident():
    return 1024 * int(Path("/proc/self/status").read_text().split("RssFile:")[1].split()[0])

before = resident()
session = unrounded.session(ir.load(sys.argv[1]))
feed = {"ids": np.arange(4), "scale": np.full(SIDE, 2, np.float32)}
answer = compare.run(session, feed, ["y"])["y"]
print(json.dumps([resident() - before, [float(answer[0, 0]), float(answer[3, 7])]]))
"""


def test_a_table_that_is_looked_up_is_not_in_memory_beside_what_a_product_packs_of_it(tmp_path):
    """Of 4 bits, as genai's builder ties it. Of the table four rows are read; what a product takes beside its packed copy are the scales.
    An input that is taken twice stays one: what is fed is what both take."""
    rows, side, rng = 2**18, 512, np.random.default_rng(0)
    table = rng.integers(0, 256, (rows, side // 32, 16), np.uint8)
    scales, shape = np.full((rows, side // 32), 1e-3, np.float32), np.array([rows, side // 2])
    one = np.ones(side, np.float32)
    node, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    graph = onnx.helper.make_graph(
        [
            node("Reshape", ["table", "shape"], ["flat"]),
            node(
                "GatherBlockQuantized", ["flat", "ids", "scales"], ["x"], domain="com.microsoft", bits=4, block_size=32, quantize_axis=1
            ),
            node("Mul", ["x", "scale"], ["once"]),
            node("Mul", ["once", "scale"], ["twice"]),
            node("MatMulNBits", ["twice", "table", "scales"], ["y"], domain="com.microsoft", K=side, N=rows, bits=4, block_size=32),
        ],
        "tied",
        [
            onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n"]),
            onnx.helper.make_tensor_value_info("scale", onnx.TensorProto.FLOAT, [side]),
        ],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", rows])],
        [tensor(table, "table"), tensor(scales, "scales"), tensor(shape, "shape"), tensor(one, "scale")],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "tied.onnx")
    call = [sys.executable, "-c", TIED.replace("SIDE", str(side)), tmp_path / "tied.onnx"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    grown, some = json.loads(
        subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    )
    first = table[[0, 3, 0, 7]].astype(np.int16)
    W = 1e-3 * (np.stack([first & 15, first >> 4], -1).reshape(4, side) - 8)
    assert np.allclose(some, [4 * W[0] @ W[2], 4 * W[1] @ W[3]], rtol=1e-4, atol=1e-6)  # sums of 512 in float32
    print(grown, table.nbytes, scales.nbytes)
    assert grown < scales.nbytes + table.nbytes / 2


def reached(folder, moment, least_bytes) -> bool:
    """Whether so much is there; what a killed process left may go while it is looked at."""
    try:
        return any(
            file.is_dir() or file.stat().st_size > least_bytes for file in folder.glob(f".out.onnx.*.partial{moment}")
        )
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", [pytest.param(signal.SIGINT, marks=pytest.mark.thorough), signal.SIGKILL])
def test_what_was_stopped_leaves_an_old_output_whole(base, wanted, tmp_path, how):
    """Its graph with its data; and when a new one takes its place, the old data goes, and nothing else does."""
    output = tmp_path / "out.onnx"
    finished(start(base, output, "merged"))
    files = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    others = [
        "out.onnx.txt",
        "out.onnx.0123456789ab.data",
        "out.onnx.unrelatedxyz.data",
        "other.onnx.0123456789ab.data",
    ]
    for name in others:
        (tmp_path / name).write_text("mine")
    for moment, least_bytes in (("", 0), ("/*data*", SIZE), ("/out.onnx", 1))[how == signal.SIGINT :]:
        process = start(base, output, "reconstruct")
        while not reached(tmp_path, moment, least_bytes):
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(how)
        process.communicate()
        assert process.returncode != 0
        assert {name: (tmp_path / name).stat().st_mtime_ns for name in files} == files
    assert np.abs(answer(output) - wanted).max() < 1e-3
    finished(start(base, output, "reconstruct"))
    new = {file.name for file in tmp_path.iterdir()}
    assert set(others) < new and len(new - set(others)) == 2 and not (new - set(others) - {"out.onnx"}) & set(files)


def test_data_that_the_base_reads_stays(base, tmp_path):
    """An output that was renamed took its data along by name; with it as the base, its name's next output keeps it."""
    output, renamed = tmp_path / "out.onnx", tmp_path / "renamed.onnx"
    finished(start(base, output, "merged"))
    renamed.write_bytes(output.read_bytes())
    before = answer(renamed)
    arguments = [*map(str, ("onnx", "--adapter", base / "vec.safetensors", "--base", renamed, "-o", output, "--json"))]
    process = subprocess.run([sys.executable, "-c", COMMAND, *arguments], capture_output=True, cwd=ROOT, check=False)
    assert process.returncode == 0 and np.array_equal(answer(renamed), before)
