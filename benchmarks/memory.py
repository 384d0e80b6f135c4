"""Peak memory of a training step above the frozen base's, each step in a process of its own. Row 9.

Two ways to count. ``allocated`` adds up every allocation and release of torch's allocator as its profiler reports
them; it repeats to the byte. ``resident`` is the process's peak with Python, NumPy and the work space of libraries in
it; it repeats to some hundred kilobytes once glibc gives freed blocks back at once (``ENVIRONMENT``).
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from unilora_spec import WorkFailed

from .measure import Rounds, compared, row
from .models import OURS, UNILORA
from .training import CASES

# Blocks from 64 KiB on are mapped one by one, and returned when they are freed.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
STEP = "the measured step"


def memory(rounds: Rounds) -> list[dict]:
    lines = []
    for case in [case for case in CASES.values() if case.rank == 64]:
        for way, bound in (("allocated", 0.6), ("resident", None)):
            base, ours, peft = (_measured(case, how, way) for how in ("base", OURS, UNILORA))
            peaks = ([one["peak"] - base["peak"]] for one in (ours, peft))
            lines.append(compared(f"{case}, {way}", *peaks, bound, unit="bytes"))
            if way == "allocated":
                held = ([one["held"] - base["held"]] for one in (ours, peft))
                lines.append(compared(f"{case}, of it held between steps", *held, unit="bytes"))
    how = (
        "The third step in a fresh process; what it takes includes P's tables, θ_D, activations kept for the backward"
        " pass, gradients and AdamW's state. “Allocated” adds up every allocation and release of torch since before"
        " the adapter was there, and repeats to the byte: the bound is on it. “Resident” is the peak that Linux"
        " reports (VmHWM, reset before the step), with malloc told to map blocks from 64 KiB on one by one, so that"
        " what is freed is gone."
    )
    about = "Peak memory of a step", "our step's peak above the base's", "PEFT UniLora's"
    return [row(9, *about, how, lines)]


def _measured(case, how, way) -> dict:
    command = [sys.executable, "-m", "benchmarks.memory", str(case), how, way, str(torch.get_num_threads())]
    environment = os.environ | (ENVIRONMENT if way == "resident" else {})
    root = Path(__file__).parents[1]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=root, check=False)
    if done.returncode:
        raise WorkFailed(f"{case}: the memory of a step could not be measured: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def resident(make_step: Callable[[], Callable]) -> dict:
    """Bytes of the process, at most, during the third step."""
    step = make_step()
    step()
    step()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    step()
    return {"peak": 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])}


def allocated(make_step: Callable[[], Callable]) -> dict:
    """Bytes of torch's since before the step was made: at the start of the third step, and at most during it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step = make_step()
        step()
        step()
        with torch.profiler.record_function(STEP):
            step()
    events = profiler.profiler.kineto_results.events()
    (mark,) = [event for event in events if event.name() == STEP]
    live = held = peak = 0
    for time, size in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        live += size
        if time < mark.start_ns():
            held = live
        elif time <= mark.end_ns():
            peak = max(peak, live)
    return {"held": held, "peak": peak}


WAYS = {"resident": resident, "allocated": allocated}

if __name__ == "__main__":
    name, how, way, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    case = CASES[name]
    base = case.base()
    print(json.dumps(WAYS[way](lambda: case.step(case.adapt(base, how)))))
