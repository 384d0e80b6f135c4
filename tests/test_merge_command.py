"""Merging into a checkpoint: what is said and refused, and the command."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from export.folders.merge import merge
from unilora_spec import (
    Base,
    BaseMismatch,
    Segment,
    UniLoraError,
    WorkFailed,
    save_adapter,
    structure_fingerprint,
)

safetensors = pytest.importorskip("safetensors.torch")
transformers = pytest.importorskip("transformers")
from merged_folders import SIZE, TENSORS, large, merge_to, plain, write_base  # noqa: F401  fixtures

ROOT = Path(__file__).parents[1]

NAMES = "the adapter names its base:"


# What is said, and what is refused


def test_a_second_copy_of_a_tied_weight_is_named(tmp_path):
    weight = torch.randn(9, 4)
    base = write_base(
        tmp_path / "base", {"wte.weight": weight, "lm_head.weight": weight.clone(), "x": torch.zeros(9, 4)}
    )
    (warning,) = merge_to(tmp_path, plain([Segment("wte.weight", 9, 4, 2)]), base)["warnings"]
    assert warning.startswith("lm_head.weight is the same as the adapted wte.weight and stays as it was")


def test_other_contents_are_warned_of_and_other_shapes_refused(tmp_path):
    base = write_base(tmp_path / "base", {"w.weight": torch.randn(4, 4)})
    segments = [Segment("w.weight", 4, 4, 2)]
    record = Base("b", structure_fingerprint({"w.weight": (4, 4)}), "0" * 32)
    assert "another checkpoint" in merge_to(tmp_path, plain(segments, base=record), base)["warnings"][0]
    for adapter, words in (
        (plain(segments, base=replace(record, structure="0" * 32)), "other shapes"),
        (plain([Segment("w.weight", 4, 5, 2)]), "w.weight has shape"),
        (plain([Segment("v.weight", 4, 4, 2)]), "no weight v.weight"),
    ):
        with pytest.raises(BaseMismatch, match=words):
            merge_to(tmp_path, adapter, base, "refused")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "merged", "vec.safetensors"]


def test_weights_that_nothing_can_be_added_to(tmp_path):
    adapter = plain([Segment("w.weight", 4, 4, 2)])
    base = write_base(tmp_path / "int8", {"w.weight": torch.ones(4, 4, dtype=torch.int8)})
    with pytest.raises(UniLoraError, match=r"w\.weight is stored as I8.*before it was quantized"):
        merge_to(tmp_path, adapter, base)
    base = write_base(tmp_path / "float16", {"w.weight": torch.full((4, 4), 65504.0).half()})
    adapter.theta *= 100
    with pytest.raises(
        UniLoraError, match=r"w\.weight would hold values too large for F16, or NaN; give a base in F32"
    ):
        merge_to(tmp_path, adapter, base)
    assert not (tmp_path / "merged").exists()


def test_outputs_that_cannot_be(tmp_path):
    base = write_base(tmp_path / "base", {"w.weight": torch.randn(4, 4)})
    adapter = plain([Segment("w.weight", 4, 4, 2)])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for output, words in (
        ("base", "is there already"), ("base/inner", "is the base, or lies in it"), ("full", "is there already"),
        ("vec.safetensors", "is there already"), ("none/merged", "the folder .*none does not exist"),
    ):  # fmt: skip
        with pytest.raises(UniLoraError, match=words):
            merge_to(tmp_path, adapter, base, output)
    assert [path.name for path in base.iterdir()] == ["model.safetensors"]
    (tmp_path / "empty").mkdir()
    merge_to(tmp_path, adapter, base, "empty")
    assert (tmp_path / "empty").stat().st_mode & 0o777 == base.stat().st_mode & 0o777  # as made by hand
    with pytest.raises(UniLoraError, match="does not name its base; give --base"):
        merge_to(tmp_path, adapter)
    with pytest.raises(UniLoraError, match="'away' is no folder here; give --base"):
        merge_to(tmp_path, adapter, "away")


def test_a_disk_that_refuses_leaves_nothing(tmp_path, monkeypatch):
    base = write_base(tmp_path / "base", {"w.weight": torch.randn(4, 4)})

    def full(*_):
        raise OSError(28, "No space left on device")

    save_adapter(plain([Segment("w.weight", 4, 4, 2)]), tmp_path / "vec.safetensors")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkFailed, match="could not be written: No space left on device; nothing is there"):
        merge(tmp_path / "vec.safetensors", tmp_path / "merged", base)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "vec.safetensors"]


# The command


def start(*arguments, code="from runpy import run_module as run; run('export', run_name='__main__')"):
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; {code}", *map(str, arguments)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip


def peak(*arguments):
    """The command's peak of resident memory in bytes, mapped files counted in."""
    code = (
        "import atexit; sys.modules['torch'] = sys.modules['transformers'] = None;"
        "atexit.register(lambda: print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr));"
        "from runpy import run_module as run; run('export', run_name='__main__')"
    )
    process = start(*arguments, code=code)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out), int(err.split()[-1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; ru_maxrss would be the parent's where that is larger")
def test_memory_is_that_of_one_tensor(large, tmp_path):
    """Neither torch nor the whole of a file: 150 MiB each. Beside the largest tensor, the copies of a band of ΔW and of a
    piece of 16 MiB that is copied take 40 MB."""
    _, least = peak("merge", "--adapter", large / "small.safetensors", "-o", tmp_path / "small", "--json")
    report, most = peak("merge", "--adapter", large / "vec.safetensors", "-o", tmp_path / "merged", "--json")
    print(least, most, most - least)
    assert report["weights"] == TENSORS and report["bytes"] > TENSORS * SIZE
    assert most - least < SIZE + 50_000_000


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_was_stopped_leaves_nothing_at_the_output(large, tmp_path, how):
    arguments = ("merge", "--adapter", large / "vec.safetensors", "-o", tmp_path / "merged")
    process = start(*arguments, code="import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
                    "from runpy import run_module as run; run('export', run_name='__main__')")  # fmt: skip
    while not any(path.stat().st_size for path in tmp_path.glob(".merged.*.partial/*")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(how)
    _, err = process.communicate()
    assert not (tmp_path / "merged").exists()
    if how == signal.SIGINT:
        assert (process.returncode, err) == (1, f"{NAMES} {large / 'base'}\nerror: stopped; nothing was written\n")
        assert list(tmp_path.iterdir()) == []
    else:  # the next call clears what is left
        arguments = ("merge", "--adapter", large / "small.safetensors", "-o", tmp_path / "merged")
        assert start(*arguments).wait() == 0
        assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_the_command(large, tmp_path):
    process = start("merge", "--adapter", large / "small.safetensors", "-o", tmp_path / "merged")
    out, err = process.communicate()
    assert process.returncode == 0 and out.endswith("1 weights merged, 0 parameters set\n")
    told = "the base's weights are not those that the adapter was trained on: another checkpoint of its form"
    assert err == f"{NAMES} {large / 'small'}\nwarning: {told}\n"
    process = start("merge", "--adapter", large / "small.safetensors", "-o", tmp_path / "merged")
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "") and err.count("\n") == 1 and "is there already" in err
    assert "Example: python -m export merge" in start("merge", "--help").communicate()[0]
