"""What ``pip install`` brings, in an environment that has nothing else: the wheel, and its console script."""

import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest

from unilora_spec import Adapter, LayerMap, Projection, Segment, save_adapter
from unilora_spec.console import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGES = "unilora_spec", "backends", "export", "conformance_tests"
# What an environment of its own has of ours: PYTHONPATH would show the checkout to every call, to pip's too.
PLAIN = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
MADE = {".onnx", ".safetensors", ".gguf", ".pyc"}  # what runs leave, and git ignores
LIBRARIES = Path(sysconfig.get_path("purelib"))


def of_the_tree() -> set[str]:
    """Every file of the four packages."""
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*") if file.is_file())
    return {file.relative_to(ROOT).as_posix() for file in files if file.suffix not in MADE}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the sources: setuptools would take what an earlier build has left in ``build``."""
    sources = tmp_path_factory.mktemp("sources")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, sources)
    offline = "--no-deps", "--no-index", "--no-build-isolation"
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", *offline, "-w", sources / "out", sources],
        check=True,
        timeout=120,
        env=PLAIN,
    )
    return next((sources / "out").glob("*.whl"))


def environment(folder, wheel) -> Path:
    """A new virtual environment with the wheel and nothing else: its site-packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "-q"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True, timeout=120, env=PLAIN)
    return next((folder / "lib").glob("python*/site-packages"))


@pytest.fixture(scope="module")
def alone(wheel, tmp_path_factory):
    """``bin`` of an environment with the wheel and NumPy."""
    folder = tmp_path_factory.mktemp("alone")
    site = environment(folder, wheel)
    for part in ("numpy", "numpy.libs"):
        if (Path(np.__file__).parents[1] / part).exists():
            (site / part).symlink_to(Path(np.__file__).parents[1] / part)
    return folder / "bin"


@pytest.fixture(scope="module")
def complete(alone):
    """``call`` of a program of that environment where the packages of this one are found too, after the wheel's."""
    (site,) = (alone.parent / "lib").glob("python*/site-packages")
    paths = os.pathsep.join(map(str, (site, LIBRARIES)))
    return lambda program, *arguments, **options: call(alone / program, *arguments, PYTHONPATH=paths, **options)


def call(program, *arguments, cwd, **variables):
    """A call from ``cwd``, which is not the checkout: its exit status, what it wrote, and its errors."""
    command = [program, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=PLAIN | variables, capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


def test_the_wheel_has_every_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == of_the_tree()
    assert {"unilora_spec/SPEC.md", "conformance_tests/PROTOCOL.md", "conformance_tests/examples/unilora.c"} <= names
    assert {f"{package}/py.typed" for package in PACKAGES} <= names


def test_it_takes_no_other_name(wheel):
    """What stands in site-packages beside it are the four packages and its own record."""
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_with_numpy_alone(alone, tmp_path):
    layers = LayerMap([Segment("query.weight", 6, 5, 2)], alpha=2)
    theta = np.ones(4, np.float32)
    save_adapter(Adapter(Projection(D=layers.D, d=4, seed=0), layers, theta), tmp_path / "vec.safetensors")
    status, by_script, error = call(alone / "unilora", "inspect", "vec.safetensors", cwd=tmp_path)
    assert status == 0 and not error and "vec.safetensors: a Uni-LoRA adapter" in by_script
    assert call(alone / "python", "-m", "unilora_spec", "inspect", "vec.safetensors", cwd=tmp_path)[1] == by_script
    status, output, _ = call(alone / "unilora", "verify", "vec.safetensors", "--json", cwd=tmp_path)
    assert status == 0 and '"canonical": true' in output
    status, _, error = call(alone / "unilora", "verify", "nothing.safetensors", cwd=tmp_path)
    assert status == 2 and error.startswith("error: nothing.safetensors") and error.count("\n") == 1


def test_help_is_quick(alone, tmp_path):
    """Without typer, rich or torch, which are not there; and within half a second of processor time, for 0.25 or so."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    status, output, _ = call(alone / "unilora", "--help", cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert status == 0 and all(f"  {name} " in output for name in COMMANDS)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    assert call(alone / "unilora", cwd=tmp_path)[:2] == (2, output)
    assert call(alone / "unilora", "--version", cwd=tmp_path)[1] == "unilora 0.1.0\n"


@pytest.mark.parametrize(
    ("program", "arguments", "sentence"),
    [
        ("unilora", ["train", "--base", "x"], 'typer is not installed, and unilora train needs it; pip install "unilora[train]"'),
        ("unilora", ["export", "onnx"], 'typer is not installed, and unilora export needs it; pip install "unilora[export]"'),
        ("unilora", ["conformance"], 'unilora conformance needs it; pip install "unilora[conformance]" brings it'),
        ("unilora", ["--install-completion"], 'pip install "unilora[export]" brings it'),
        ("python", ["-m", "backends.torch", "plan"], 'python -m backends.torch needs it; pip install "unilora[train]"'),
        ("python", ["-m", "export", "lora"], 'python -m export needs it; pip install "unilora[export]" brings it'),
        ("python", ["-m", "conformance_tests"], 'pip install "unilora[conformance]" brings it'),
    ],
)  # fmt: skip
def test_what_is_not_installed_is_named(alone, tmp_path, program, arguments, sentence):
    status, output, error = call(alone / program, *arguments, cwd=tmp_path)
    assert status == 1 and not output and error.startswith("error: ") and error.count("\n") == 1
    assert sentence in error


def test_an_unknown_command(alone, tmp_path):
    status, output, error = call(alone / "unilora", "tran", cwd=tmp_path)
    assert (status, output, error) == (2, "", "error: unilora has no command 'tran'; did you mean train\n")
    assert "unilora --help lists them" in call(alone / "unilora", "fly", cwd=tmp_path)[2]


def test_a_signal_stops_the_script_while_it_imports(alone, tmp_path):
    """The typer here sends the signal and goes on importing."""
    (tmp_path / "typer.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(30)\n"
    )
    stopped = call(alone / "unilora", "train", "--base", "x", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert stopped == (1, "", "error: stopped; nothing was written\n")


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        (["train", "--help"], "Usage: unilora train"),
        (["export", "onnx", "--help"], "Usage: unilora export onnx"),
        (["conformance", "--help"], "usage: unilora conformance"),
        (["inspect", "--help"], "usage: unilora inspect"),
    ],
)
def test_each_program_says_how_it_was_called(complete, tmp_path, arguments, usage):
    status, output, _ = complete("unilora", *arguments, cwd=tmp_path)
    assert status == 0 and usage in output


def test_the_conformance_tests_come_whole(complete, tmp_path):
    status, output, _ = complete("python", "-m", "conformance_tests", "--help", cwd=tmp_path)
    assert status == 0 and "usage: python -m conformance_tests" in output
    asked = "--impl", "unilora_spec.conformance", "--rule", "2.2"
    status, output, _ = complete("unilora", "conformance", *asked, cwd=tmp_path)
    assert status == 0 and "passed" in output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("unilora ev", {"evaluate"}),
        ("unilora export gg", {"gguf"}),
        ("unilora export onnx --ada", {"--adapter"}),
        ("unilora predict --ada", {"--adapter"}),
        ("unilora verify --ba", {"--base"}),
        ("unilora inspect --", {"--json", "--help"}),
        ("unilora conformance --imp", {"--impl"}),
    ],
)
def test_completion(complete, tmp_path, words, expected):
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_UNILORA_COMPLETE": "complete_bash"}
    status, output, error = complete("unilora", cwd=tmp_path, **asked)
    assert status == 0 and set(output.split()) == expected, error


def test_every_command_of_a_program_is_one_of_the_script():
    from backends.torch.__main__ import app as training

    found = {command.name or command.callback.__name__ for command in training.registered_commands}
    assert found == {name for name, command in COMMANDS.items() if command.module == "backends.torch"}
