"""Files where they are run: no runtime gives a wrong number of a file that was written for it. PyTorch is not needed."""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import pytest

from benchmarks import runtimes
from export import export_onnx_file
from export.check import check_with_file
from export.graph.rebuild import pairs
from unilora_spec import Adapter, LayerMap, Projection, UniLoraError

# What each runtime is promised: of the others some forms are right as well, as docs/onnx.md shows.
FOR = {
    "onnxruntime": set(runtimes.FORMS),
    "onnx": {"`--inline`", "both"},
    "openvino": {"both"},
    "onnxruntime-node": {"`--required-inputs`", "both"},
    "onnxruntime-web": {"`--required-inputs`", "both"},
}
by_runtime = pytest.mark.parametrize("name", runtimes.RUNTIMES)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return functools.cache(lambda kind="balanced": runtimes.cases(tmp_path_factory.mktemp(kind), kind))


def run(name, cases):
    """The verdicts of a runtime, if it is installed."""
    if runtimes.version(name) is None:
        pytest.skip(
            f"{name} is not installed: `make runtimes` does it, and UNILORA_JS names a folder with npm's packages"
        )
    return [runtimes.verdict(answer, case.wanted) for answer, case in zip(runtimes.RUNTIMES[name](cases), cases)]


@pytest.mark.parametrize("kind", ["balanced", "uniform"])
@by_runtime
def test_what_is_written_for_a_runtime_is_right_there(made, name, kind):
    cases = made(kind)
    for case, verdict in zip(cases, run(name, cases)):
        promised = case.form in FOR[name] or (case.form in runtimes.OFFERED.get(case.mode, ()) and case.form != "plain")
        if promised or case.mode == "merged":
            assert verdict == "right", (case.mode, case.form)
        elif name not in ("onnxruntime-node", "onnxruntime-web"):  # they say nothing where they ignore what is fed
            assert verdict != "wrong", (case.mode, case.form)


@pytest.mark.parametrize("kind", ["balanced", "uniform"])
@by_runtime
def test_a_file_that_others_inline_is_right_or_gives_no_numbers(made, tmp_path, name, kind):
    """OpenVINO computes int64 in 32 bits: the index that is computed in the graph is another one there."""
    cases = [case for case in made(kind) if case.form == "plain" and case.mode == "reconstruct"]
    cases += [case for case in made(kind) if case.form == "`--required-inputs`"]
    inlined = []
    for number, case in enumerate(cases):
        model = onnx.inliner.inline_local_functions(onnx.load(case.file))
        onnx.save(model, tmp_path / f"{number}.onnx")
        inlined.append(case._replace(file=tmp_path / f"{number}.onnx"))
    verdicts = run(name, inlined)
    assert "wrong" not in verdicts
    assert name == "openvino" or "no numbers" not in verdicts


@pytest.mark.parametrize("number", [-1, 2, 2**31 - 1])
@by_runtime
def test_a_number_outside_of_the_bank_gives_no_answer(made, name, number):
    (case,) = [case for case in made() if (case.mode, case.form) == ("bank", "both")]
    numbers = np.array([0, number, 1, 0, 1])
    if runtimes.version(name) is None:
        pytest.skip(f"{name} is not installed: `make runtimes` does it")
    (answer,) = runtimes.RUNTIMES[name]([case._replace(feed=case.feed | {"adapter": numbers})])
    assert isinstance(answer, str) or np.isnan(answer[1]).all()


def test_files_without_functions_and_with_required_inputs(made):
    for case in made():
        graph = onnx.load(case.file)
        inputs, stored = {each.name for each in graph.graph.input}, {each.name for each in graph.graph.initializer}
        if "inline" in case.form or case.form == "both":
            assert not graph.functions and {node.domain for node in graph.graph.node} == {""}
            assert "BitwiseXor" not in {node.op_type for node in graph.graph.node}
        if "required" in case.form or case.form == "both":
            assert set(case.feed) - {"x"} <= inputs - stored


def test_what_is_required_and_not_fed_is_refused(made):
    required = [case for case in made() if case.form == "both"]
    unfed = [case._replace(feed={"x": runtimes.X}) for case in required]
    assert run("onnxruntime", unfed) == ["refused"] * 3
    assert all("input" in answer for answer in runtimes.RUNTIMES["onnxruntime"](unfed))


def test_a_required_head_is_fed_too(tmp_path):
    """A parameter trained in full is an input like θ, in the file beside as well; `check` feeds it."""
    first, _ = runtimes.adapters()
    head = np.random.default_rng(4).normal(size=(runtimes.WIDTH, runtimes.WIDTH)).astype(np.float32)
    layer_map = LayerMap(first.layer_map.segments[:1], alpha=8)
    adapter = Adapter(Projection(D=layer_map.D, d=200, seed=7), layer_map, first.theta, saved={"c.weight": head})
    start, said = runtimes.base(tmp_path / "base.onnx"), runtimes.said(adapter)
    for mode, feed in {"input": {"theta": adapter.theta}, "factored": pairs(adapter)}.items():
        file = tmp_path / f"{mode}.onnx"
        export_onnx_file(start, adapter, file, mode, required_inputs=True, inline=True)
        cases = [runtimes.Case(mode, "", file, {"x": runtimes.X} | feed | more, said) for more in ({}, adapter.saved)]
        assert run("onnxruntime", cases) == ["refused", "right"]
        assert check_with_file(file, [adapter], start, None, {}, lambda step: None)["comparison"]["within"]


def test_forms_that_a_mode_does_not_have(tmp_path):
    (adapter, _), start = runtimes.adapters(), runtimes.base(tmp_path / "base.onnx")
    for mode in ("merged", "reconstruct"):
        with pytest.raises(
            UniLoraError, match=f"--required-inputs is for adapters that are fed, and the mode {mode} holds"
        ):
            export_onnx_file(start, adapter, tmp_path / "out.onnx", mode, required_inputs=True)
    for mode in ("merged", "reconstruct", "bank"):
        with pytest.raises(UniLoraError, match=f"--unmarked is for the .onnx_adapter .* the mode {mode} writes none"):
            export_onnx_file(start, adapter, tmp_path / "out.onnx", mode, marked=False)
    assert {file.name for file in tmp_path.iterdir()} == {"base.onnx"}


def test_the_table_of_the_docs_has_every_case(made):
    text = (Path(runtimes.ROOT) / "docs/onnx.md").read_text()
    shown = text.split(runtimes.BEGIN)[1].split(runtimes.END)[0]
    assert re.search(r"Run on \d{4}-\d\d-\d\d", shown)
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in shown.splitlines() if row.startswith("| `")]
    assert [(row[0], row[1]) for row in rows] == [(f"`{case.mode}`", case.form) for case in made()]
    assert all(set(row[2:]) == {"right"} for row in rows if row[1] == "both" or row[0] == "`merged`")


@pytest.mark.skipif(not shutil.which("node"), reason="needs node")
def test_what_node_cannot_run_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(runtimes, "JS", tmp_path)
    with pytest.raises(RuntimeError, match="Cannot find module"):
        runtimes.javascript("onnxruntime-node")([])


def test_these_tests_need_no_torch(tmp_path):
    """`make runtimes` runs them in an environment that has none."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(runtimes.ROOT)])}
    test = f"{__file__}::{test_the_table_of_the_docs_has_every_case.__name__}"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=runtimes.ROOT)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
