"""The files of an export to a graph that others have exported, and its command."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unilora_spec import (
    UniLoraError,
    save_adapter,
)

ir = pytest.importorskip("onnx_ir")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")
from linear_graphs import bases, linear, weight  # noqa: F401  fixtures
from onnx_bases import MODES, adapter_for, bert

from export.onnx_base.from_file import export_onnx_file
from export.parity import compare as parity

ROOT = Path(__file__).parents[1]


def test_nothing_is_written_over(tmp_path):
    adapter, base = linear(tmp_path)
    with pytest.raises(UniLoraError, match="is the base itself; give another output"):
        export_onnx_file(base, adapter, tmp_path / "." / "base.onnx")
    beside = shutil.copy(base, tmp_path / "out.expander.onnx")
    with pytest.raises(UniLoraError, match="is the base itself; give another output"):
        export_onnx_file(beside, adapter, tmp_path / "out.onnx", "factored")


@pytest.mark.parametrize("mode", MODES)
def test_data_beside_a_small_base_is_taken_in(tmp_path, mode):
    """The output does not lean on the base's files, in another folder nor in the same one."""
    adapter, base = linear(tmp_path)
    beside = tmp_path / "beside"
    beside.mkdir()
    onnx.save(onnx.load(base), beside / "base.onnx", save_as_external_data=True, location="base.data", size_threshold=0)
    assert (beside / "base.data").stat().st_size == 4 * 48
    report = export_onnx_file(beside / "base.onnx", adapter, beside / "out.onnx", mode)
    assert report["comparison"]["within"]
    (beside / "base.data").unlink()
    parity.session(beside / "out.onnx")


def test_data_of_other_tools_is_left(tmp_path):
    """An output that was there, of another tool, may share its data with other graphs."""
    adapter, base = linear(tmp_path)
    other = tmp_path / "out.onnx"
    onnx.save(onnx.load(base), other, save_as_external_data=True, location="out.onnx.data", size_threshold=0)
    (tmp_path / "out.onnx.data").rename(tmp_path / "out.onnx.weights.data")
    proto = onnx.load(other, load_external_data=False)
    proto.graph.initializer[0].external_data[0].value = "out.onnx.weights.data"
    other.write_bytes(proto.SerializeToString())
    export_onnx_file(base, adapter, other, "input")
    assert (tmp_path / "out.onnx.weights.data").stat().st_size == 4 * 48


def test_files_that_are_no_base(tmp_path):
    adapter, _ = linear(tmp_path)
    (tmp_path / "text.onnx").write_text("hello")
    for name, message in (("away.onnx", "there is no such file"), ("text.onnx", "is no ONNX file")):
        with pytest.raises(UniLoraError, match=message):
            export_onnx_file(tmp_path / name, adapter, tmp_path / "out.onnx")


def start(*arguments, blocked=("torch", "transformers")):
    code = (
        f"import sys, signal; sys.modules.update(dict.fromkeys({blocked!r}));"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from runpy import run_module as run; run('export', run_name='__main__')"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def call(*arguments):
    process = start(*arguments)
    return (process.returncode, *process.communicate()) if process.wait() else (0, *process.communicate())


def test_the_command_needs_no_torch_and_gives_the_same_bytes(bases, tmp_path):
    save_adapter(adapter_for(bert), tmp_path / "vec.safetensors")
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        output = tmp_path / name / "out.onnx"
        arguments = (
            "onnx",
            "--adapter",
            tmp_path / "vec.safetensors",
            "--base",
            bases(bert),
            "--mode",
            "input",
            "-o",
            output,
        )
        code, out, err = call(*arguments)
        assert (code, err) == (0, "")
        files.append(output.read_bytes())
    assert files[0] == files[1]
    for words in (
        "mode input, opset 17", "weights     6 found; values are those on record", "by node name, in × out",
        "from the ONNX base and ΔW", "ran on      generated, 3 × 9, 1 × 5, 5 × 12", "the adapter moves the outputs by",
    ):  # fmt: skip
        assert words in out, out
    code, out, err = call(*arguments, "--json")
    assert code == 0 and json.loads(out)["comparison"]["within"]


def test_the_command_takes_a_map(bases, tmp_path):
    adapter = adapter_for(bert)
    save_adapter(adapter, tmp_path / "vec.safetensors")
    name = "bert.encoder.layer.0.attention.self.query.weight"
    proto = onnx.load(bases(bert))
    node = next(node for node in proto.graph.node if node.name.endswith("layer.0/attention/self/query/MatMul"))
    initializer = node.input[1]
    arguments = (
        "onnx",
        "--adapter",
        tmp_path / "vec.safetensors",
        "--base",
        bases(bert),
        "-o",
        tmp_path / "out.onnx",
        "--json",
    )
    code, out, _ = call(*arguments, "--map", f"{name}={initializer}")
    rows = {row["name"]: row for row in json.loads(out)["weights"]}
    assert code == 0 and rows[name]["how"] == "given" and rows[name]["initializer"] == initializer
    code, out, err = call(*arguments, "--map", f"{name}=nowhere")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "the file has no initializer nowhere" in err


def there(folder, pattern):
    """What matches now; a folder may go while it is looked into."""
    try:
        return [*folder.glob(pattern)]
    except FileNotFoundError:
        return []


@pytest.mark.parametrize("how", [pytest.param(signal.SIGINT, marks=pytest.mark.thorough), signal.SIGKILL])
def test_what_was_stopped_leaves_nothing(tmp_path, how):
    """At several moments, and an output that was there stays what it was."""
    adapter, base = linear(tmp_path)
    save_adapter(adapter, tmp_path / "vec.safetensors")
    arguments = "onnx", "--adapter", tmp_path / "vec.safetensors", "--base", base, "--mode", "input"
    old = tmp_path / "old.onnx"
    old.write_bytes(b"old")
    for output in (tmp_path / "new.onnx", old):
        # While it starts (what Ctrl-C does to Python itself is not ours), when the folder beside is there, and when the
        # graph is in it.
        for moment in ("", "/", "/*.onnx")[how == signal.SIGINT :]:
            process = start(*arguments, "-o", output)
            while moment and not there(tmp_path, f".{output.name}.*.partial{moment}"):
                assert process.poll() is None
                time.sleep(0.002)
            process.send_signal(how)
            _, err = process.communicate()
            assert process.returncode != 0
            if output is old:
                assert old.read_bytes() == b"old"
            else:
                assert not output.exists()
            if how == signal.SIGINT and moment:
                assert err == "error: stopped; nothing was written\n"
                assert not [*tmp_path.glob(".*.partial")]
    if how == signal.SIGKILL:
        assert [*tmp_path.glob(".*.partial")]
        for output in (tmp_path / "new.onnx", old):
            export_onnx_file(base, adapter, output, "input")
        assert not [*tmp_path.glob(".*.partial")]
