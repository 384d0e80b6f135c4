"""Commands killed at any moment: what is left is the old output, the new one, or nothing, whole; and the next call clears the rest.

    python tests/kills.py --kills 200        or: make kills
    python tests/kills.py --only resume --seed 1

Each call is a copy of this process, which has imported everything: no time goes into that, and the kills fall into the work, spread
evenly over it; then one after each rename. Linux and macOS: it forks.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = "1"  # a copy has the thread that forked, and no other

from killed import JOBS
from killed.job import BROKEN, FINISHED, MIXED, NEW, NOTHING, OLD, Job
from killed.sources import sources
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import export.onnx


def at_moments(job: Job, kills: int, seed: int, advance=lambda: None) -> Counter:
    """How often what was left: kills spread evenly over a run, a call that nobody kills after every tenth."""
    found, moments, tries = Counter(), random.Random(seed), 0
    number, longest = 0, job.seconds
    while number < kills and tries < 4 * kills + 20:
        tries += 1
        job.back(number)
        state = job.kill(longest * (number + moments.random()) / kills)
        if state == FINISHED:
            longest *= 0.95  # the machine has become faster
            continue
        number += 1
        found[state] += 1
        found["leftovers"] += job.litter() > 0
        if number % 10 == 0 or number == kills:  # at times several kills come before a call that nobody kills
            found["again"] += 1
            found["again and clean"] += job.again()
        advance()
    found["kills"] = number + at_renames(job, found)
    return found


def at_renames(job: Job, found: Counter) -> int:
    """Kills right after the first rename of a run, the second, and so on: moments too short to be met by chance."""
    for number in range(1, 100):
        job.back(0)
        state = job.kill(None, lambda: _kill_after(number))  # noqa: B023  called before the next
        if state == FINISHED:
            break
        found[state] += 1
        found["leftovers"] += job.litter() > 0
        found["again"] += 1
        found["again and clean"] += job.again()
    return number - 1


def _kill_after(renames: int) -> None:
    rename, left = os.replace, renames

    def renaming(*places):
        nonlocal left
        rename(*places)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = renaming


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="of each command by chance; by default 200")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=JOBS, action="append", help="this command alone; may be given again")
    parser.add_argument("--json", action="store_true", help="for machines")
    call_ = parser.parse_args()
    console, rows = Console(stderr=True), {}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sources(work)
        bars = stack.enter_context(Progress(*columns, console=console))
        for name in call_.only or JOBS:
            task = bars.add_task(name, total=call_.kills)
            largest = export.onnx.LARGEST_FILE
            job = JOBS[name](work)
            rows[name] = at_moments(job, call_.kills, call_.seed, lambda task=task: bars.advance(task))
            export.onnx.LARGEST_FILE = largest
            if not console.is_terminal:
                console.print(f"{name}: {dict(rows[name])}", highlight=False, soft_wrap=True)
    if call_.json:
        print(json.dumps(rows))
    else:
        show(rows)
    return int(any(row[BROKEN] or row["again"] != row["again and clean"] for row in rows.values()))


def show(rows: dict) -> None:
    table = Table("command", "kills", OLD, NEW, NOTHING, MIXED, BROKEN, "left something", "cleared by the next call")
    for name, row in rows.items():
        counts = [row[state] for state in ("kills", OLD, NEW, NOTHING, MIXED, BROKEN, "leftovers")]
        table.add_row(name, *map(str, counts), f"{row['again and clean']} of {row['again']}")
    Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(main())
