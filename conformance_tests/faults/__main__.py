"""``python -m conformance_tests.faults``: sets each fault into a copy, and says which check finds it.

A fault that a boundary finds is judged once, as the inputs there do not depend on the seed; the others are judged with each seed.
"""

import argparse
import json
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor

from rich.console import Console
from rich.progress import track
from rich.table import Table

from unilora_spec.command import run as run_command

from . import FAULTS, caught_by


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m conformance_tests.faults",
        description=f"{len(FAULTS)} faults, each set into a copy of unilora_spec or of an example, and the check that finds it.",
        epilog="Example: python -m conformance_tests.faults --seeds 10. Exit status 1 where a fault stays unseen.",
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs of each fault, with the seeds 0, 1, …; by default 1")
    parser.add_argument("--only", default="", help="the faults whose names or files have this text")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="a sample: every Nth of these faults")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    call = parser.parse_args()
    asked = [fault for fault in FAULTS if call.only in fault.name or call.only in fault.file][:: max(call.every, 1)]
    faults = [fault for fault in asked if shutil.which(fault.tool)]
    if missing := sorted({fault.tool for fault in asked} - {fault.tool for fault in faults}):
        left_out = len(asked) - len(faults)
        Console(stderr=True).print(f"{left_out} faults are left out, for want of {', '.join(missing)}.")
    always = dict(zip(faults, _found("boundaries", [(fault, 0, False) for fault in faults]), strict=True))
    others = [fault for fault in faults if not always[fault]]
    drawn = iter(_found("seeds", [(fault, seed) for fault in others for seed in range(call.seeds)]))
    rows = [
        {
            "fault": fault.name,
            "file": fault.file,
            "rule": fault.rule,
            "seeds": call.seeds if always[fault] is None else "any",
            "by": [always[fault]] if always[fault] else [next(drawn) for _ in range(call.seeds)],
        }
        for fault in faults
    ]
    if call.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        table = Table("rule", "fault", "found", "by the check, for example", title="Faults set into an implementation")
        for row in rows:
            times = sum(check is not None for check in row["by"])
            first = next((check for check in row["by"] if check), "")
            told = "by any seed" if row["seeds"] == "any" else f"{times} of {call.seeds}"
            table.add_row(row["rule"], row["fault"], told, first.partition(":")[0])
        Console().print(table)
        Console().print(f"{sum(None not in row['by'] for row in rows)} of {len(rows)} faults found in every run.")
    return 1 if any(None in row["by"] for row in rows) else 0


def _found(what, jobs):
    """What ``caught_by`` returns for each of these calls, in order."""
    console = Console(stderr=True)
    with ProcessPoolExecutor() as pool:
        found = pool.map(caught_by, *zip(*jobs, strict=True)) if jobs else []
        if console.is_terminal:
            return list(track(found, what, len(jobs), console=console, transient=True))
        seen = []
        for each in found:
            seen.append(each)
            if len(seen) % max(1, len(jobs) // 20) == 0:
                print(f"{what}: {len(seen)} of {len(jobs)}", file=sys.stderr, flush=True)
        return seen


if __name__ == "__main__":
    run_command(main)
