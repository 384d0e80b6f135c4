"""`make gpu` without a GPU: each part runs as far as it goes, and one that fails, hangs, crashes or lacks a package loses no other."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.measure import compared
from benchmarks.on_gpu import exported, page, running
from benchmarks.on_gpu.findings import (
    FAILED,
    LEFT_OUT,
    MEASURED,
    NOTED,
    PASSED,
    REHEARSED,
    Context,
    checked,
    finding,
    guarded,
)
from benchmarks.on_gpu.parts import names
from benchmarks.on_gpu.parts.blocks import best
from benchmarks.on_gpu.running import Part
from unilora_spec import WorkFailed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux alone")

# Parts of the test's own


def part(folder, name, text, seconds=20):
    (folder / f"{name}.py").write_text(text)
    return Part(name, f"The part {name}", seconds, name)


def ran(folder, name, text, seconds=20):
    here = {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return running.run(part(folder, name, text, seconds), False, folder, more=here)


SAYS = "from benchmarks.on_gpu.findings import finding\n"


def test_a_part_that_hangs_is_ended_and_what_it_found_stands(tmp_path):
    found = ran(
        tmp_path,
        "hangs",
        SAYS + "import time\ndef findings(context):\n    yield finding('a', 'passed', 'b')\n    time.sleep(60)",
        1,
    )
    first, last = found["findings"]
    assert found["status"] == FAILED and first == finding("a", PASSED, "b")
    assert last["says"] == "it had not ended after 1 seconds; what it had found until then stands"
    assert found["seconds"] < 1 + running.GRACE + 5  # five for a busy machine to look and to end it


def test_a_part_that_crashes_says_what_it_said_last(tmp_path):
    text = (
        SAYS
        + "import os, sys\ndef findings(context):\n    yield finding('a', 'passed', 'b')\n    print('the end', flush=True)\n    os.abort()"
    )
    found = ran(tmp_path, "crashes", text)
    assert [one["status"] for one in found["findings"]] == [PASSED, FAILED]
    assert "by signal SIGABRT" in found["findings"][1]["says"] and "the end" in (tmp_path / "crashes.log").read_text()


def test_a_part_that_raises_fails_with_the_reason(tmp_path):
    found = ran(
        tmp_path, "raises", "def findings(context):\n    raise ValueError('no such kernel\\nand more')\n    yield"
    )
    assert found["status"] == FAILED
    assert [one["says"] for one in found["findings"]] == ["ValueError: no such kernel"]
    assert "and more" in (tmp_path / "raises.log").read_text()  # with the traceback


def test_a_package_that_is_missing_is_no_failure_and_one_of_ours_is(tmp_path):
    (tmp_path / "peft.py").write_text(
        "raise ModuleNotFoundError('no', name='peft.tuners')"
    )  # as where it is not installed
    found = ran(tmp_path, "lacks", "import peft\ndef findings(context):\n    yield")
    assert (
        found["status"] == LEFT_OUT and found["findings"][0]["says"] == "needs the package peft, which is not installed"
    )
    assert ran(tmp_path, "ours", "import export.nothing\ndef findings(context):\n    yield")["status"] == FAILED


def test_a_process_learns_whether_there_is_a_gpu_and_interprets_without_one(tmp_path):
    text = (
        SAYS
        + "import os\ndef findings(context):\n    yield finding(context.device, 'noted', str(os.environ.get('TRITON_INTERPRET')))"
    )
    (found,) = ran(tmp_path, "where", text)["findings"]
    assert (found["name"], found["says"]) == ("cpu", "1")


def test_the_command_goes_on_after_a_failure_writes_all_and_does_not_end_well(tmp_path, monkeypatch, capsys):
    command = importlib.import_module("benchmarks.on_gpu.__main__")
    machine = part(tmp_path, "nothing", SAYS + "def findings(context):\n    yield finding('Python', 'noted', '3')")
    fails = part(tmp_path, "fails", "def findings(context):\n    raise RuntimeError('no device')\n    yield")
    works = part(tmp_path, "works", SAYS + "def findings(context):\n    yield finding('a', 'passed', 'b')")
    monkeypatch.setattr(command, "MACHINE", machine)
    monkeypatch.setattr(command, "PARTS", (fails, works))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["on_gpu", "--output", str(tmp_path / "out")])
    with pytest.raises(WorkFailed, match="1 of 3 parts failed: The part fails; the page says why"):
        command.main()
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [one["status"] for one in found["parts"]] == [PASSED, FAILED, PASSED] and found["rehearsal"]
    assert "- The part fails, the part: RuntimeError: no device" in (tmp_path / "out" / "gpu.md").read_text()
    said = capsys.readouterr()
    assert (
        "fails: failed" in said.err and "works: passed" in said.err and said.out == f"{tmp_path / 'out' / 'gpu.md'}\n"
    )


def test_what_is_stopped_keeps_what_it_found(tmp_path):
    command = [sys.executable, "-m", "benchmarks.on_gpu", "--output", tmp_path, "--only", "compiled"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        for line in process.stderr:
            if line.startswith("compiled: at most"):
                break
        process.send_signal(signal.SIGTERM)
        last = process.stderr.read().splitlines()[-1]
    assert process.returncode == 1 and last == f"error: stopped; what was found until then is in {tmp_path / 'gpu.md'}"
    assert [one["name"] for one in json.loads((tmp_path / "gpu.json").read_text())["parts"]] == ["machine"]


def test_a_machine_without_torch_is_told_so(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "benchmarks.on_gpu", "--output", tmp_path / "out"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr == "error: torch does not run here: needs the package torch, which is not installed\n"


def test_a_command_of_a_part_is_a_check_of_its_status_within_the_time_that_is_left(capsys):
    def status(*call, left=20):
        (found,) = running.command("x", list(call), Context(False, time.monotonic() + left))
        return found["status"]

    assert status("this") == PASSED and "Namespaces" in capsys.readouterr().out
    assert status("no_such_module") == FAILED
    assert status("http.server", "0", left=0) == LEFT_OUT  # which never ends by itself


# The parts themselves


# In one process, as torch takes seconds to be imported, and whether Triton interprets is settled for a process when it is.
EVERY_PART = """
import json, sys, time
from importlib import import_module
from pathlib import Path
from unittest import mock
from benchmarks.on_gpu import kernels
from benchmarks.on_gpu.findings import Context, guarded
from benchmarks.on_gpu.parts import bits
context = Context(False, time.monotonic() + 200, Path(sys.argv[1]))
for name in sys.argv[2:]:
    found = list(guarded(name, import_module(f"benchmarks.on_gpu.parts.{name}").findings(context)))
    print("found", json.dumps({name: found}))
right = kernels.kernels.index
with mock.patch.object(kernels.kernels, "index", lambda D, *others: right(D, *others) + (D > 40)):
    print("found", json.dumps({"wrong": list(bits._cases("index", bits.index, 2))}))
"""


def rehearsal(folder, *parts):
    """What each part finds where Triton interprets; and what `bits` finds of a wrong index."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1", "HF_HUB_OFFLINE": "1"}
    call = [sys.executable, "-c", EVERY_PART, folder, *parts]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = [line.removeprefix("found ") for line in done.stdout.splitlines() if line.startswith("found ")]
    return {name: found for line in lines for name, found in json.loads(line).items()}


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """Of all parts but those that export, which take longer, and those that look at bits, which tests/test_triton.py does too."""
    return rehearsal(tmp_path_factory.mktemp("files"), "copies", "steps", "graphs", "conformance", "blocks")


def none_failed_or_has_a_time(found):
    return not [one for some in found.values() for one in some if one["status"] == FAILED or one["line"]]


def statuses_of(found):
    return {name: [one["status"] for one in some] for name, some in found.items()}


def test_each_part_runs_in_a_rehearsal_and_gives_no_time(rehearsed):
    found = {name: some for name, some in rehearsed.items() if name != "wrong"}
    assert none_failed_or_has_a_time(found)
    statuses = statuses_of(found)
    assert statuses["steps"] == [REHEARSED] * 6 and set(statuses["copies"]) == {REHEARSED}
    assert statuses["blocks"] == [PASSED, REHEARSED] * 3
    assert found["conformance"][3]["name"] == "vectors of 4-balanced.json, 24 of them by kernels"
    assert found["graphs"] == [finding("as a CUDA graph", LEFT_OUT, "a CUDA graph needs a GPU")]


@pytest.mark.thorough
def test_the_parts_that_look_at_bits_run_in_a_rehearsal(tmp_path):
    found = rehearsal(tmp_path, "bits", "determinism")
    wrong = found.pop("wrong")
    assert none_failed_or_has_a_time(found) and [one["status"] for one in wrong] == [FAILED]
    assert statuses_of(found) == {"bits": [PASSED] * 4 + [LEFT_OUT], "determinism": [PASSED] * 6}


def test_a_wrong_index_is_found_with_its_case(rehearsed):
    (found,) = rehearsed["wrong"]
    assert found["status"] == FAILED and "entry 0 is" in found["says"] and "Projection(kind='balanced'" in found["says"]


def test_files_of_the_exporter_are_run_and_a_wrong_answer_is_found(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from benchmarks.on_gpu.parts import nodes, onnx_modes

    context = Context(False, time.monotonic() + 100, tmp_path)
    mode = next(exported.write(tmp_path, exported.SMALL))
    assert exported.modes_in(tmp_path) == [mode] == ["merged"]
    assert [one["status"] for one in onnx_modes.findings(context)] == [PASSED]
    feed, answers = exported.read(tmp_path / "merged.npz")
    wrong = {exported.ANSWER + name: value + 0.01 for name, value in answers.items()}
    np.savez(tmp_path / "merged.npz", **{exported.FEED + name: value for name, value in feed.items()}, **wrong)
    found = list(onnx_modes.findings(context))
    assert [one["status"] for one in found] == [FAILED] and "logits is off by 0.01" in found[0]["says"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert [one["status"] for one in nodes.findings(context)] == [LEFT_OUT]
        on_gpu = list(onnx_modes.findings(Context(True, context.end, tmp_path)))
        assert [one["status"] for one in on_gpu] == [LEFT_OUT] and "has no CUDAExecutionProvider" in on_gpu[0]["says"]


# What is told


def test_all_parts_together_keep_the_limit():
    assert names.MACHINE.seconds + sum(one.seconds for one in names.PARTS) <= names.SECONDS == 8 * 60
    folder = ROOT / "benchmarks" / "on_gpu" / "parts"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "names"}
    assert files == {one.name for one in (names.MACHINE, *names.PARTS)}


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ([PASSED, FAILED], FAILED),
        ([PASSED, LEFT_OUT], PASSED),
        ([MEASURED], PASSED),
        ([NOTED], PASSED),
        ([LEFT_OUT, REHEARSED], REHEARSED),
        ([LEFT_OUT], LEFT_OUT),
        ([], LEFT_OUT),
    ],
)
def test_the_status_of_a_part_is_that_of_what_it_found(statuses, status):
    assert running._status([finding("x", each, "") for each in statuses]) == status


def test_one_error_ends_what_is_tried_alone():
    def found(error):
        yield checked("first", 2, [])
        raise error

    first, last = guarded("x", found(RuntimeError("CUDA error: out of memory\nhint")))
    assert first["status"] == PASSED and (last["status"], last["says"]) == (
        FAILED,
        "RuntimeError: CUDA error: out of memory",
    )
    *_, others = guarded("x", found(RuntimeError("no")), of_others=True)
    assert others["status"] == LEFT_OUT


@pytest.mark.parametrize(
    ("ratio", "words"), [(0.8, "a better default is there"), (0.97, "may stay"), (1.3, "may stay")]
)
def test_a_better_block_is_told_where_the_interval_agrees(ratio, words):
    random = np.random.default_rng(0)
    today = 1 + 0.01 * random.random(20)  # within a hundredth, as twenty rounds on a GPU at rest are
    lines = [compared("expand, BLOCK 256", ratio * today, today), compared("expand, BLOCK 64", 2 * today, today)]
    (said,) = best("expand", "BLOCK 128", lines)
    assert said["status"] == NOTED and words in said["says"] and "BLOCK 256" in said["says"]
    assert list(best("expand", "BLOCK 128", [])) == []


def test_the_page_has_failures_reasons_and_figures():
    line = compared("expand computed", [1e-4, 1.1e-4, 1e-4], [2e-4] * 3, 1.2)
    parts = [
        {"name": "a", "title": "Bits", "status": FAILED, "seconds": 3.2, "findings": [checked("index", 4, ["entry 7 is 1"])]},
        {"name": "b", "title": "Copies", "status": PASSED, "seconds": 1.0, "findings": [finding("expand computed", MEASURED, "0.5, 800 GB/s", line)]},
        {"name": "c", "title": "Modes", "status": LEFT_OUT, "seconds": 0.1, "findings": [finding("all", LEFT_OUT, "needs the package onnx")]},
    ]  # fmt: skip
    found = {"command": "python -m benchmarks.on_gpu", "rehearsal": False, "seconds": 5.0, "parts": parts}
    text = page.page(found)
    assert text == page.page(json.loads(json.dumps(found))) and "rehearsal" not in text
    assert (
        "| Bits | **failed** | 3 |" in text and "- Bits, index: 1 of 4 cases are wrong, the first: entry 7 is 1" in text
    )
    assert "- Modes, all: needs the package onnx" in text and "800 GB/s" in text
    assert "| expand computed | 100 µs (100 µs, 105 µs) | 200 µs (200 µs, 200 µs) | 0.500 |" in text
    assert "A rehearsal" in page.page(found | {"rehearsal": True})


def test_the_command_needs_no_more_than_torch(tmp_path):
    """In an environment without any package that is not named in the module's head: those raise as if they were not installed."""
    for name in (
        "typer",
        "rich",
        "hypothesis",
        "onnx",
        "onnx_ir",
        "onnxscript",
        "onnxruntime",
        "matplotlib",
        "datasets",
        "pandas",
        "peft",
    ):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name}', name='{name}')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "benchmarks.on_gpu", "--output", tmp_path / "out", "--json", "--only", "nodes"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert found["rehearsal"] == (not torch.cuda.is_available()) and "nodes: left out" in done.stderr
    assert (tmp_path / "out" / "gpu.md").read_text() == page.page(found)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--only", "speed"), "error: --only speed is no part; give one of bits, "),
        (("--files", "."), "error: --files . has no file of benchmarks.on_gpu.exported; write it with that command"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(options, sentence, tmp_path):
    command = [sys.executable, "-m", "benchmarks.on_gpu", "--output", tmp_path / "out", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 2 and done.stderr.startswith(sentence) and not (tmp_path / "out").exists()
