"""Ctrl-C, SIGTERM and a reader who goes away: every command ends in a sentence or without a word, and a library leaves signals alone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from unilora_spec import Adapter, LayerMap, Projection, Segment, save_adapter

ROOT = Path(__file__).parents[1]
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
STOPPED = "error: stopped; nothing was written\n"


def python(*arguments, cwd=ROOT, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | options.pop("env", {})
    options = {"stdout": subprocess.PIPE} | options
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True, check=False,
        timeout=60, **options,
    )  # fmt: skip


@SIGNALS
@pytest.mark.parametrize(
    ("program", "imported"),
    [("unilora_spec", "numpy"), ("backends.torch", "typer"), ("export", "typer"), ("benchmarks", "torch")],
)
def test_a_signal_while_a_program_imports(tmp_path, program, imported, number):
    """What it imports is one here that sends the signal and goes on importing."""
    (tmp_path / f"{imported}.py").write_text(f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(30)\n")
    done = python("-m", program, "--help", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", STOPPED)


def test_a_library_changes_no_signal(tmp_path):
    """Neither in a script, nor in another's program, nor where it is imported while that one is looked for."""
    code = (
        "import signal\nimport unilora_spec, export\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
    )
    for name in ("__init__", "__main__"):
        (tmp_path / "theirs").mkdir(exist_ok=True)
        (tmp_path / f"theirs/{name}.py").write_text(code)
    done = python("-m", "theirs", "export", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


RUN = "import os, signal, sys, time; from unilora_spec.command import run\n"


@SIGNALS
@pytest.mark.parametrize(
    "work",
    [
        "def work():\n    os.kill(os.getpid(), NUMBER); time.sleep(30)",
        "def work():\n    exec('os.kill(os.getpid(), NUMBER); time.sleep(30)')",  # Python takes that for an interruption of its own
        # A library that makes something else of it.
        "def work():\n    try:\n        os.kill(os.getpid(), NUMBER); time.sleep(30)\n    except BaseException:\n        raise RuntimeError",
    ],
)
def test_a_signal_while_a_command_works(tmp_path, work, number):
    (tmp_path / "works.py").write_text(RUN + work.replace("NUMBER", str(int(number))) + "\nrun(work)")
    done = python("-m", "works", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", STOPPED)


def test_a_signal_that_is_ignored_stays_so():
    """As of what a shell starts in its background."""
    code = "signal.signal(signal.SIGINT, signal.SIG_IGN); run(lambda: os.kill(os.getpid(), signal.SIGINT))"
    done = python("-c", RUN + code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def vector(tmp_path_factory):
    path = tmp_path_factory.mktemp("signals") / "vec.safetensors"
    layer_map = LayerMap([Segment("w", 4, 4, 2)])
    save_adapter(Adapter(Projection(D=layer_map.D, d=4, seed=0), layer_map, np.ones(4, np.float32)), path)
    return path


@pytest.mark.skipif(os.name == "nt", reason="a pipe without a reader is another error there")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("call", [("unilora_spec", "inspect", "VECTOR"), ("export", "--help")])
def test_a_reader_who_goes_away_is_no_error(vector, call, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)
    program, *arguments = (vector if part == "VECTOR" else part for part in call)
    done = python("-m", program, *arguments, stdout=writing, env={"PYTHONUNBUFFERED": unbuffered})
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_an_output_without_room_is_an_error_of_one_sentence(vector):
    with open("/dev/full", "w") as full:
        done = python("-m", "unilora_spec", "inspect", vector, stdout=full)
    assert (done.returncode, done.stderr) == (1, "error: the output: No space left on device\n")
