"""``python -m benchmarks.on_gpu``: every part, each in a process of its own; one JSON and one page."""

import argparse
import json
import shlex
import sys
import tempfile
import time
from pathlib import Path

from unilora_spec import UniLoraError, WorkFailed
from unilora_spec.command import run as run_command
from unilora_spec.command import say
from unilora_spec.placing import replacing

from . import page, running
from .exported import modes_in
from .findings import FAILED, LEFT_OUT, left_out
from .parts.names import MACHINE, PARTS, SECONDS

OUTPUT = Path("build/gpu")
SLOWER = 3  # times as long a limit for a rehearsal, which has no GPU to do the work
LEAST = 5  # seconds that have to be left for another part to begin


def main() -> int:
    call = _call()
    call.output.mkdir(parents=True, exist_ok=True)
    machine = running.run(MACHINE, False, call.output)
    if any(one["status"] in (FAILED, LEFT_OUT) for one in machine["findings"]):
        raise WorkFailed(f"torch does not run here: {machine['findings'][-1]['says']}")
    gpu = any(one["name"] == "GPU" for one in machine["findings"])
    for one in machine["findings"]:
        say(f"{one['name']}: {one['says']}")
    if not gpu:
        say("there is no GPU: this is a rehearsal, on small sizes, in Triton's interpreter; no time is measured")
    found = {"command": _command(), "rehearsal": not gpu, "seconds": 0.0, "parts": [machine]}
    parts = [part for part in PARTS if not call.only or part.name in call.only]
    try:
        with tempfile.TemporaryDirectory() as exported:  # files that one part writes and another reads
            _run_all(found, parts, call.output, call.files or Path(exported))
    except KeyboardInterrupt:
        raise WorkFailed(f"stopped; what was found until then is in {call.output / 'gpu.md'}") from None
    print(json.dumps(found, indent=1) if call.json else call.output / "gpu.md")
    failed = [part["title"] for part in found["parts"] if part["status"] == FAILED]
    if failed:
        raise WorkFailed(f"{len(failed)} of {len(found['parts'])} parts failed: {', '.join(failed)}; the page says why")
    return 0


def _call():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.on_gpu",
        description="What the kernels, the training step and exported graphs do on this machine's GPU, in eight minutes at most. "
        "Nothing is installed: a part that needs a package that is not here says so, and the others go on. Without a GPU "
        "this is a rehearsal.",
        epilog="Exit status: 0 nothing failed, 1 something failed, 2 the call was wrong.",
    )
    names = ", ".join(part.name for part in PARTS)
    parser.add_argument(
        "--only", action="append", metavar="PART", help=f"run this part alone; the option may be repeated: {names}"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FOLDER", help=f"by default {OUTPUT}")
    parser.add_argument(
        "--files", type=Path, metavar="FOLDER",
        help="folder of ONNX files, written by `python -m benchmarks.on_gpu.exported FOLDER` where the exporter runs",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    call = parser.parse_args()
    if unknown := set(call.only or ()) - {part.name for part in PARTS}:
        raise UniLoraError(f"--only {min(unknown)} is no part; give one of {names}")
    if call.files and not modes_in(call.files):
        raise UniLoraError(
            f"--files {call.files} has no file of benchmarks.on_gpu.exported; write it with that command"
        )
    return call


def _command():
    return " ".join(["python -m benchmarks.on_gpu", *map(shlex.quote, sys.argv[1:])])


def _run_all(found, parts, folder, files):
    """Adds what each part finds, and writes everything after each part, so that nothing is lost if this call ends early."""
    start, slower = time.monotonic(), SLOWER if found["rehearsal"] else 1
    _write(found, folder)
    for part in parts:
        left = slower * (SECONDS - MACHINE.seconds) - (time.monotonic() - start)
        limited = part._replace(seconds=min(slower * part.seconds, left))
        found["parts"].append(_run(limited, not found["rehearsal"], folder, files))
        found["seconds"] = time.monotonic() - start
        _write(found, folder)


def _run(part, gpu, folder, files):
    if part.seconds < LEAST:
        found = left_out("all of it", "no time was left")
        return {"name": part.name, "title": part.title, "status": LEFT_OUT, "seconds": 0.0, "findings": [found]}
    say(f"{part.name}: at most {part.seconds:.0f} s …")
    found = running.run(
        part, gpu, folder, files, on_finding=lambda one: say(f"  {one['status']}: {one['name']}: {one['says']}")
    )
    say(f"{part.name}: {found['status']}, {found['seconds']:.0f} s")
    return found


def _write(found, folder):
    for name, text in (("gpu.json", json.dumps(found, indent=1) + "\n"), ("gpu.md", page.page(found))):
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
