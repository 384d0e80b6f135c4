"""``python -m conformance_tests --impl "COMMAND" | --impl package.module``."""

import argparse
import json
import shlex
import signal
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from unilora_spec.command import run as run_command
from unilora_spec.errors import UniLoraError, WorkFailed
from unilora_spec.serialization import replacing

from . import report
from .client import Failed, GaveUp, Implementation, command_of
from .rules import spec_rules
from .run import EXAMPLES, FAILED, OUTCOMES, run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m conformance_tests",
        description="Whether an implementation of Uni-LoRA is right, and which rules of SPEC.md it breaks if not. It is a "
        "command or a Python module that answers the requests of PROTOCOL.md.",
        epilog='Example: python -m conformance_tests --impl "./mine" --json report.json. '
        "Exit status: 0 all passed, 1 something failed, 2 the call was wrong.",
    )
    parser.add_argument("--impl", required=True, help="a command, or the name of a Python module with answer(request)")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help=f"for each property; by default {EXAMPLES}")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the examples: the same seed, the same requests; by default 0"
    )
    parser.add_argument(
        "--rule", action="append", default=[], help="check this rule alone, such as 4.3; may come again"
    )
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for one answer; by default 10")
    parser.add_argument("--first", action="store_true", help="stop at the first failure")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the report for a machine; - for standard output"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the report as JUnit XML")
    call = parser.parse_args()
    if unknown := set(call.rule) - set(spec_rules()):
        raise UniLoraError(f"--rule {min(unknown)} is no rule of SPEC.md; give one such as 4.3")
    if call.examples < 1 or call.timeout <= 0:
        raise UniLoraError("--examples and --timeout must be above 0")
    for option, path in (("--json", call.json), ("--junit", call.junit)):
        if path and not path.absolute().parent.is_dir():
            raise UniLoraError(f"{option} {path}: there is no folder {path.parent}; make it first")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the implementation is ended then too
    person = Console(stderr=str(call.json) == "-")
    implementation = _start(call)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        results = run(implementation, call.examples, call.seed, call.rule, call.junit, progress, call.first)
    described = implementation.described
    again = {"impl": call.impl, "examples": call.examples, "seed": call.seed, "rules": call.rule}
    text = json.dumps(report.as_json(results, described, again), indent=1, ensure_ascii=False)
    if str(call.json) == "-":
        print(text)
    elif call.json:
        with replacing(call.json) as temporary:
            temporary.write_text(text, encoding="utf-8")
    person.print(report.table(results, described))
    for line in report.failures(results):
        person.print(line, markup=False, highlight=False, soft_wrap=True)
    counts = Counter(result.outcome for result in results)
    said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])
    person.print(f"{len(results)} checks, {implementation.asked} requests: {said}.")
    if not (call.rule or call.first):
        reached = report.level(results, implementation.requests)
        person.print(
            f"Level reached: {reached or 'none'}, with the kinds {', '.join(implementation.kinds)}.", markup=False
        )
    if counts[FAILED]:
        person.print("Read from the top: what fails in an earlier chapter fails in the later ones as well.")
    return 1 if counts[FAILED] else 0


def _start(call) -> Implementation:
    try:
        return Implementation(command_of(call.impl), call.timeout)
    except (Failed, GaveUp) as failure:
        reason = getattr(failure, "failure", failure).message
        raise WorkFailed(f"--impl {shlex.quote(call.impl)} does not answer the request describe: {reason}") from None
    except ValueError as error:
        raise UniLoraError(f"--impl {call.impl!r} is no command: {error}") from None


if __name__ == "__main__":
    run_command(main)
