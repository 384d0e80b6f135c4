"""Every door of doors/ under attack: each seed and mutations of it end in a result or in one sentence, soon and within memory.

    python tests/attack.py --inputs 200 --seed 0        or: make attack

Each input goes through its command in a process of its own, a copy of one that has imported what commands need: so the time and the
memory are those of the command itself. Linux only: a process's memory is read from /proc.
"""

import argparse
import gc
import json
import os
import random
import resource
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from fuzz_mutations import changed
from rich.console import Console
from rich.table import Table

MOST_SECONDS, MOST_MEMORY = 5.0, 500 * 2**20  # of one command beyond its imports
HANG, CEILING = 60, 4 * 2**30  # seconds after which a process is ended; bytes that it cannot have
FOLDER = Path("build/attack")


def prepare() -> None:
    """Imports what the commands import, so that no process pays for it."""
    import datasets  # noqa: F401
    import gguf  # noqa: F401
    import onnxruntime  # noqa: F401
    import pydantic
    import typer._adapters  # noqa: F401  what typer itself imports at a call
    from transformers import (  # noqa: F401
        AutoModelForSequenceClassification,
        BertConfig,
        BertForSequenceClassification,
        GPT2LMHeadModel,
    )

    import backends.onnx.commands
    import backends.onnx.evaluation
    import backends.onnx.training
    import backends.torch.building
    import backends.torch.commands.hub
    import backends.torch.commands.training
    import backends.torch.commands.using
    import backends.torch.planning
    import backends.torch.training.train
    import backends.torch.using.conversation  # noqa: F401
    import conformance_tests.implementations  # noqa: F401
    import export.commands.folders
    import export.commands.models
    import export.folders.from_peft
    import export.folders.gguf
    import export.folders.merge
    import export.kernels.nodes
    import export.onnx_base.folder
    import export.onnx_base.from_file
    import export.torch_base.from_torch  # noqa: F401

    pydantic.TypeAdapter(int)  # at its first call it looks for plugins in all that is installed


def attempt(door, content, keep: Path) -> tuple[str, str, float, int]:
    """(how it ended, standard error, seconds of computing, bytes beyond those of an idle process) of one content of a door's file."""
    shutil.rmtree(keep, ignore_errors=True)
    for name, data in {**door.files, door.file: content}.items():
        path = keep / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        data(path) if callable(data) else path.write_bytes(data)
    os.mkfifo(keep / "pipe")
    child = os.fork()
    if not child:
        _child(door, keep)
    deadline = time.monotonic() + HANG
    while not (ended := os.wait4(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            ended = os.wait4(child, 0)
            break
        time.sleep(0.003)
    _, status, usage = ended
    errors = (keep / "stderr").read_text("utf-8", "replace")
    memory = int((keep / "memory").read_text() or 0) if (keep / "memory").exists() else 0
    return _judged(os.waitstatus_to_exitcode(status), errors), errors, usage.ru_utime + usage.ru_stime, memory


def _child(door, folder):
    os.chdir(folder)
    for number, name in ((0, os.devnull), (1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), number)
    sys.stdout, sys.stderr = (open(number, "w", encoding="ascii") for number in (1, 2))  # noqa: SIM115
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    most = _memory("VmSize") + CEILING
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.argv = list(door.call)
    status = 70
    try:
        runpy.run_module(door.call[0], run_name="__main__", alter_sys=True)
    except SystemExit as error:
        status = error.code or 0
    except BaseException as error:  # noqa: BLE001  it is what is looked for
        print(f"traceback: {error!r}", file=sys.stderr)
    Path(folder, "memory").write_text(str(_memory("VmHWM") - before))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 70)


def _memory(field) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024


def _judged(status, errors) -> str:
    said = [line for line in errors.splitlines() if line.startswith(("error: ", "traceback: "))]
    if status == 0 or (status == 1 and not errors):  # a verdict, such as that of verify on another base
        return "accepted"
    if (
        status not in (1, 2)
        or len(said) != 1
        or said[0].startswith("error: unexpected ")
        or said[0].startswith("traceback")
    ):
        return f"FINDING: status {status}, {errors[-300:]!r}"
    return "refused" if errors.splitlines()[-1] == said[0] else f"FINDING: more than a sentence, {errors[-300:]!r}"


def inputs(door, count: int, seed: int):
    """(name, content, words that are expected): the seeds, and ``count`` mutations of them."""
    for name, content in door.seeds.items():
        yield name, content.content, content.says
    mutable = [
        each.content for each in door.seeds.values() if isinstance(each.content, bytes) and len(each.content) < 2**16
    ]
    for i in range(count if mutable else 0):
        rng = random.Random(f"{seed}/{door.name}/{i}")
        data = rng.choice(mutable)
        for _ in range(1 + int(rng.expovariate(1))):
            data = changed(rng, data, rng.choice(mutable))
        yield f"mutation {i}", data, ""


def attack(doors, count: int, seed: int, folder: Path, say=lambda line: None) -> list[dict]:
    """A row for each door: tried, refused, accepted, findings, peak memory, longest time."""
    rows = []
    for door in doors:
        ends, findings, seconds, memory = Counter(), [], 0.0, 0
        for name, content, words in inputs(door, count, seed):
            how, errors, took, grown = attempt(door, content, folder / "door")
            if words is None and how == "refused":
                how = f"FINDING: it is sound, and refused: {errors[-300:]!r}"
            elif words and (words not in errors or how == "accepted"):
                how = f"FINDING: {words!r} is not said: {how}, {errors[-300:]!r}"
            elif took > MOST_SECONDS or grown > MOST_MEMORY:
                how = f"FINDING: {took:.1f} s of computing, {grown / 2**20:.0f} MiB"
            if how.startswith("FINDING"):
                findings.append(f"{door.name}, {name}: {how}")
                say(findings[-1])
                FOLDER.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    (FOLDER / f"{door.name}-{name}".replace("/", " ")).write_bytes(content)
            ends[how.partition(":")[0]] += 1
            seconds, memory = max(seconds, took), max(memory, grown)
        row = {"door": door.name, "tried": ends.total(), "refused": ends["refused"], "accepted": ends["accepted"]}
        rows.append(row | {"findings": findings, "memory": memory, "seconds": round(seconds, 3)})
    return rows


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=100, help="mutations of each door's seeds, beside these (100)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other mutations (0)")
    parser.add_argument("--door", action="append", help="this door alone; may come again")
    parser.add_argument("--json", action="store_true", help="for machines")
    call = parser.parse_args(arguments)
    console = Console(stderr=True, markup=False, soft_wrap=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": f"{folder}/cache"}
        prepare()
        from doors import DOORS  # their seeds take seconds to make

        gc.freeze()  # or each process would copy the pages of all objects, as its collector marks them
        doors = [door for door in DOORS if not call.door or door.name in call.door]
        rows = attack(doors, call.inputs, call.seed, Path(folder), console.print)
    if call.json:
        print(json.dumps(rows, indent=2))
    else:
        table = Table("door", "tried", "refused", "accepted", "findings", "peak memory", "longest time")
        for row in rows:
            counts = (str(row[name]) for name in ("tried", "refused", "accepted"))
            table.add_row(
                row["door"],
                *counts,
                str(len(row["findings"])),
                f"{row['memory'] / 2**20:.0f} MiB",
                f"{row['seconds']:.2f} s",
            )
        Console(width=120).print(table)
    return 1 if any(row["findings"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
