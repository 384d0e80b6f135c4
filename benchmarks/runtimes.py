"""What each runtime makes of each mode: right, refused or wrong, by running it. The table of docs/onnx.md.

    make runtimes                        in an environment of its own, .venv-runtimes: pip's openvino, npm's onnxruntime-node and -web
    python -m benchmarks.runtimes        what is installed here; --write puts the table into docs/onnx.md, where all are

A base of two layers, and two adapters that differ in their values, 1,024 entries of θ_D: enough for every step of the permutation to
leave 32 bits. What is fed is always the other adapter than the one in the file, so that ignoring it is wrong.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.graph.rebuild import pairs
from export.onnx_base.from_file import export_onnx_file
from unilora_spec import Adapter, LayerMap, Projection, Segment

ROOT = Path(__file__).parents[1]
JS = Path(os.environ.get("UNILORA_JS", ROOT / ".venv-runtimes/js"))
"""The folder in which npm has installed onnxruntime-node and onnxruntime-web."""
FORMS = {
    "plain": {},
    "`--required-inputs`": {"required_inputs": True},
    "`--inline`": {"inline": True},
    "both": {"required_inputs": True, "inline": True},
}
OFFERED = {"merged": ("plain",), "reconstruct": ("plain", "`--inline`")}  # of the other modes all
CLOSE = 1e-4  # of the largest entry: float32 sums of 64 products in other orders differ by 1e-6, a wrong index by 0.1 and more
BEGIN, END = "<!-- python -m benchmarks.runtimes --write -->", "<!-- end of the table of runtimes -->"
WIDTH, ROWS = 64, 5
X = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)


class Case(NamedTuple):
    """A file with what it is fed beside x, and what it has to answer."""

    mode: str
    form: str
    file: Path
    feed: dict[str, np.ndarray]
    wanted: np.ndarray


Runtime = Callable[[Sequence[Case]], list[np.ndarray | str]]
"""Answers to cases, or for each why it was refused."""


def adapters(kind: str = "balanced") -> tuple[Adapter, Adapter]:
    """Two that differ in their values alone."""
    layer_map = LayerMap([Segment(f"{name}.weight", WIDTH, WIDTH, 4) for name in "ac"], alpha=8)
    p = Projection(kind, D=layer_map.D, d=200, seed=7)
    return tuple(Adapter(p, layer_map, np.random.default_rng(n).normal(size=200).astype(np.float32)) for n in (1, 2))


def weights() -> dict[str, np.ndarray]:
    """Those of the base, (out, in)."""
    random = np.random.default_rng(3)
    return {f"{name}.weight": random.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 8 for name in "ac"}


def said(adapter: Adapter, x: np.ndarray = X) -> np.ndarray:
    """What the base with an adapter in its weights answers, by NumPy."""
    merged = weights()
    adapter.merge(merged)
    return np.maximum(x @ merged["a.weight"].T, 0) @ merged["c.weight"].T


def base(path: Path, opset: int = 18) -> Path:
    """The base as an ONNX file."""
    nodes = [
        helper.make_node("Gemm", ["x", "a.weight"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "c.weight"], ["y"], transB=1),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH]) for name in "xy")
    stored = [onnx.numpy_helper.from_array(value, name) for name, value in weights().items()]
    graph = helper.make_graph(nodes, "base", [x], [y], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


def cases(folder: Path, kind: str = "balanced") -> list[Case]:
    """Each mode in each form."""
    first, other = adapters(kind)
    start, numbers = base(folder / "base.onnx"), np.arange(ROWS) % 3 % 2
    mixed = np.where(numbers[:, None] == 0, said(other), said(first))
    fed = {
        "merged": ({}, said(first)),
        "reconstruct": ({}, said(first)),
        "input": ({"theta": other.theta}, said(other)),
        "factored": (pairs(other), said(other)),
        "bank": ({"theta": np.stack([other.theta, first.theta]), "adapter": numbers}, mixed),
    }
    found = []
    for mode, (feed, wanted) in fed.items():
        for number, form in enumerate(OFFERED.get(mode, FORMS)):
            file = folder / f"{mode}{number}.onnx"
            export_onnx_file(start, [first, other] if mode == "bank" else first, file, mode, **FORMS[form])
            found.append(Case(mode, form, file, {"x": X} | feed, wanted))
    return found


def verdict(answer: np.ndarray | str, wanted: np.ndarray) -> str:
    """ "right", "refused" or "wrong"."""
    if isinstance(answer, str) or np.isnan(answer).all():
        return "refused" if isinstance(answer, str) else "no numbers"
    return "right" if np.abs(answer - wanted).max() <= CLOSE * np.abs(wanted).max() else "wrong"


def _each(run) -> Runtime:
    def answers(cases):
        found = []
        for case in cases:
            try:
                found.append(np.asarray(run(case)))
            except Exception as error:  # noqa: BLE001  of many kinds
                found.append(f"{type(error).__name__}: {error}")
        return found

    return answers


def onnx_runtime(case: Case) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(case.file, options, providers=["CPUExecutionProvider"]).run(["y"], case.feed)[0]


def reference(case: Case) -> np.ndarray:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(case.file))
    # It knows no defaults of inputs.
    defaults = {each.name: onnx.numpy_helper.to_array(each) for each in evaluator.proto_.graph.initializer}
    return evaluator.run(
        ["y"], {name: defaults[name] for name in evaluator.input_names if name in defaults} | case.feed
    )[0]


def openvino(case: Case) -> np.ndarray:
    import openvino

    # In bfloat16, which it takes where a processor has it, other digits would differ as well.
    model = openvino.Core().compile_model(str(case.file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return model(case.feed)["y"]


def javascript(package: str) -> Runtime:
    """A package of npm's in ``JS``, by node."""

    def answers(cases):
        runs = [
            {"file": str(case.file), "feed": {name: _as_json(v) for name, v in case.feed.items()}} for case in cases
        ]
        call = ["node", str(Path(__file__).with_name("run_onnx.mjs")), str(JS), package]
        done = subprocess.run(call, check=False, input=json.dumps(runs), capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise RuntimeError(f"node: {done.stderr[-2000:]}")
        found = [each.get("refused") or each["y"] for each in json.loads(done.stdout)]
        return [each if isinstance(each, str) else np.array(each, np.float32).reshape(ROWS, -1) for each in found]

    return answers


def _as_json(value):
    kind = "int64" if value.dtype.kind == "i" else "float32"
    return {"type": kind, "dims": value.shape, "data": value.ravel().tolist()}


RUNTIMES: dict[str, Runtime] = {
    "onnxruntime": _each(onnx_runtime),
    "onnx": _each(reference),
    "openvino": _each(openvino),
    "onnxruntime-node": javascript("onnxruntime-node"),
    "onnxruntime-web": javascript("onnxruntime-web"),
}
NAMES = {"onnxruntime": "ONNX Runtime", "onnx": "onnx.reference", "openvino": "OpenVINO"}


def version(runtime: str) -> str | None:
    """Of a runtime that is installed."""
    if runtime not in NAMES:
        file = JS / "node_modules" / runtime / "package.json"
        return json.loads(file.read_text())["version"] if file.is_file() and shutil.which("node") else None
    try:
        return importlib.metadata.version(runtime)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(found: dict[str, list[str]], cases: list[Case]) -> str:
    """Markdown: a row for each mode and form, a column for each runtime."""
    heads = [f"{NAMES.get(name, name)} {version(name)}" for name in found]
    rows = [["mode", "written", *heads], ["---"] * (2 + len(heads))]
    for number, case in enumerate(cases):
        rows.append([f"`{case.mode}`", case.form, *(verdicts[number] for verdicts in found.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(write: bool) -> None:
    there = {name: run for name, run in RUNTIMES.items() if version(name)}
    with tempfile.TemporaryDirectory() as folder:
        made, found = cases(Path(folder)), {}
        for name, run in there.items():
            answers = run(made)
            found[name] = [verdict(answer, case.wanted) for answer, case in zip(answers, made)]
            for case, answer in zip(made, answers):
                if isinstance(answer, str):
                    print(f"{name}, {case.mode} {case.form}: {answer[:200]!r}", file=sys.stderr)
    text = table(found, made)
    print(text)
    if missing := sorted(set(RUNTIMES) - set(there)):
        print(f"Not installed: {', '.join(missing)}; `make runtimes` installs all.", file=sys.stderr)
    if write and not missing:
        page = ROOT / "docs/onnx.md"
        before, rest = page.read_text().split(BEGIN)
        after = rest.split(END)[1]
        day = f"Run on {datetime.date.today()}, on a CPU."
        page.write_text(f"{before}{BEGIN}\n{day}\n\n{text}\n{END}{after}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--write", action="store_true", help="Put the table into docs/onnx.md, if every runtime is installed."
    )
    main(parser.parse_args().write)
