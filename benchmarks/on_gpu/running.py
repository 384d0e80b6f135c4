"""Runs a part in a process of its own: it may hang, crash or lack a package, and the next one begins all the same."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from unilora_spec.command import printable

from .findings import FAILED, LEFT_OUT, MEASURED, NOTED, PASSED, REHEARSED, Context, checked, finding, left_out

ROOT = Path(__file__).parents[2]
GRACE = 5  # seconds beyond its limit in which a part that leaves out the rest of its work may end by itself
LOOK = 0.2  # seconds between two looks at what a part has found


class Part(NamedTuple):
    """``module`` has the function ``findings``, which has to be done in so many ``seconds``."""

    name: str
    title: str
    seconds: float
    module: str


def run(
    part: Part,
    gpu: bool,
    folder: Path,
    files: Path | None = None,
    more: dict[str, str] | None = None,
    on_finding: Callable[[dict], None] = lambda found: None,
) -> dict:
    """What a part has found: ``name``, ``title``, ``status``, ``seconds``, ``findings``. What it prints is in ``folder``/NAME.log.

    ``on_finding`` is called with each finding as it comes; ``more`` are variables of the part's environment.
    """
    lines, log = folder / f"{part.name}.jsonl", folder / f"{part.name}.log"
    lines.write_text("")
    command = [sys.executable, "-m", "benchmarks.on_gpu.part", part.module, str(lines.resolve())]
    command += ["--seconds", str(part.seconds), *["--gpu"] * gpu, *(["--files", str(files.resolve())] if files else [])]
    start, found = time.monotonic(), []

    def listen():
        for line in lines.read_text(encoding="utf-8", errors="replace").split("\n")[
            len(found) : -1
        ]:  # the last one may be half written
            found.append(json.loads(line))
            on_finding(found[-1])

    with log.open("wb") as output, subprocess.Popen(
        command, cwd=ROOT, env=_environment(gpu, more), stdout=output, stderr=output, start_new_session=True
    ) as process:  # fmt: skip
        try:
            while process.poll() is None and time.monotonic() - start < part.seconds + GRACE:
                time.sleep(LOOK)
                listen()
        finally:
            status = process.poll()
            if status is None:
                os.killpg(process.pid, signal.SIGKILL)  # with the compilers that it may have started
    listen()
    if end := _end(status, part.seconds, log):
        found.append(finding("the process", FAILED, f"{end}; what it had found until then stands"))
        on_finding(found[-1])
    seconds = time.monotonic() - start
    return {"name": part.name, "title": part.title, "status": _status(found), "seconds": seconds, "findings": found}


def command(name: str, call: list[str], context: Context) -> Iterator[dict]:
    """One check: whether a command of Python's, ``python -m`` of ``call``, ends well in the time that is left."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", *call],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=max(context.left(), 1),
        )
    except subprocess.TimeoutExpired:
        yield left_out(name, "it was ended, as no time was left")
        return
    print(done.stdout, done.stderr)
    said = (done.stdout + done.stderr).strip().splitlines() or ["nothing was said"]
    yield checked(name, 1, [said[-1]] if done.returncode else [])


def _environment(gpu, more):
    """The environment of a part. Without a GPU Triton interprets its kernels, which it decides when it is first imported."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "PYTHONFAULTHANDLER": "1"}
    return environment | ({} if gpu else {"TRITON_INTERPRET": "1"}) | (more or {})


def _end(status, seconds, log):
    """The sentence on how a process ended that did not end well."""
    if status == 0:
        return ""
    if status is None:
        return f"it had not ended after {seconds:g} seconds"
    name = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"it ended {name}" + (f", and said last: {printable(said[-1])[:300]}" if said else "")


def _status(found):
    """The status of a part: failed if one finding failed, left out if nothing of it could be looked at."""
    statuses = {one["status"] for one in found}
    if FAILED in statuses:
        return FAILED
    if statuses & {PASSED, MEASURED, NOTED}:
        return PASSED
    return REHEARSED if REHEARSED in statuses else LEFT_OUT
