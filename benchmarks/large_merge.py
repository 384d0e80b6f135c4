"""Peak memory of ``python -m export merge`` on a base of 3 GB: 48 float32 tensors of 64 MB in four files.

    python -m benchmarks.large_merge

The base is built in a temporary folder, 6.4 GB of disk with the result, and the merge runs in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from export.folders.folder import Tensor, write_tensors
from unilora_spec import Adapter, Base, LayerMap, Projection, Segment, save_adapter, structure_fingerprint

SIDE, FILES = 4000, 4
COMMAND = (
    "import atexit; from runpy import run_module;"
    "atexit.register(lambda: print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]));"
    "run_module('export', run_name='__main__')"
)


def build(folder: Path, count: int, side: int = SIDE, files: int = FILES) -> Path:
    """A base of ``count`` square float32 tensors, and an adapter of rank 4 for each, whose path is given back."""
    names = [f"layers.{i}.weight" for i in range(count)]
    (folder / "base").mkdir(parents=True)
    for part in range(files):
        tensors = {
            name: Tensor("F32", (side, side), 4 * side * side, values(i, side))
            for i, name in enumerate(names)
            if i % files == part
        }
        write_tensors(folder / "base" / f"model-{part}.safetensors", tensors, {"format": "pt"})
    layer_map = LayerMap([Segment(name, side, side, 4) for name in names], alpha=8)
    record = Base(str(folder / "base"), structure_fingerprint(dict.fromkeys(names, (side, side))), "0" * 32)
    d = min(5760, layer_map.D)
    theta = np.random.default_rng(0).normal(size=d).astype(np.float32)
    save_adapter(Adapter(Projection(D=layer_map.D, d=d, seed=0), layer_map, theta, record), folder / "vec.safetensors")
    return folder / "vec.safetensors"


def values(seed: int, side: int):
    """A tensor's one piece, made when it is written."""
    yield np.random.default_rng(seed).random((side, side), np.float32)


def merge(adapter: Path) -> tuple[dict, int]:
    """The report of a merge in a process of its own, and that process's peak of resident memory in bytes."""
    arguments = ["merge", "--adapter", adapter, "-o", adapter.parent / "merged", "--json"]
    done = subprocess.run([sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, check=True)
    *report, peak = done.stdout.splitlines()
    return json.loads("\n".join(report)), int(peak) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_merge", description=__doc__.partition("\n")[0])
    parser.add_argument("--tensors", type=int, default=48, help="of 64 MB each")
    parser.add_argument("--dir", type=Path, help="where the temporary folder is made")
    call = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=call.dir) as place:
        adapter = build(Path(place), call.tensors)
        start = time.perf_counter()
        report, peak = merge(adapter)
        seconds = time.perf_counter() - start
    largest = 4 * SIDE * SIDE
    print(f"{report['weights']} tensors of {largest / 1e6:.0f} MB, {report['bytes'] / 1e9:.2f} GB, in {seconds:.0f} s")
    print(f"peak {peak / 1e6:.0f} MB; the bound is {(3 * largest + 500e6) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
