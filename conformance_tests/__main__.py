"""``python -m conformance_tests --impl "COMMAND" | --impl package.module``."""

import argparse
import contextlib
import json
import shlex
import signal
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from unilora_spec.command import program_name
from unilora_spec.command import run as run_command
from unilora_spec.errors import UniLoraError, WorkFailed
from unilora_spec.serialization import replacing

from . import report
from .answers import shown
from .client import Failed, GaveUp, Implementation, command_of
from .failed_requests import write_requests
from .rules import LEVELS, NOT_ASKED, Selection, chapters, spec_rules
from .run import EXAMPLES, FAILED, OUTCOMES, checks, run

LONGEST_TIMEOUT = 86_400  # seconds


def main() -> int:
    call = _call()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM ends the implementation too
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a terminal may have fewer characters than SPEC.md
    selection = Selection(frozenset(call.rule), frozenset(call.chapter), call.level)
    if call.list:
        return _list(call, selection)
    person = Console(stderr=str(call.json) == "-", highlight=False, markup=False, soft_wrap=True)
    implementation = _start(call)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with contextlib.ExitStack() as outputs:
        junit = outputs.enter_context(replacing(call.junit)) if call.junit else None
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            results = run(implementation, call.examples, call.seed, selection, junit, progress, call.first)
        _require_checks(results, selection)
    try:
        kept, trouble = write_requests(results, call.keep), None
    except OSError as error:
        kept, trouble = None, f"The requests that failed could not be kept: {error.strerror or error}."
    described, complete = implementation.described, selection.is_all and not call.first
    if call.json:
        _write_json(call, report.as_json(results, described, _call_to_repeat(call), complete))
    name, version = (shown(described[field], 80) for field in ("name", "version"))
    person.print(f"{name} {version} against SPEC.md, version 1\n")
    for line, style in report.table(results):
        person.print(line, style=style)
    person.print()
    served = implementation.command != shlex.split(call.impl)
    command = f"python -m conformance_tests.serve {call.impl}" if served else call.impl
    for line in report.failures(results, command, person.width if person.is_terminal else None):
        person.print(line)
    counts = Counter(result.outcome for result in results)
    said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])
    person.print(f"{len(results)} checks, {implementation.asked} requests: {said}.")
    if complete:
        reached, kinds = report.level(results, implementation.requests), implementation.kinds
        person.print(f"Level reached: {reached or 'none'}, with the kinds {shown(', '.join(kinds)) or '(none)'}.")
    if kept or trouble:
        person.print(trouble or f"The requests that failed are in {kept}, a file each.")
    if counts[FAILED]:
        person.print("Read from the top: what fails in an earlier chapter can make later ones fail as well.")
    return 1 if counts[FAILED] else 0


def _call():
    parser = argparse.ArgumentParser(
        prog=program_name("conformance_tests"),
        description="Test whether an implementation of Uni-LoRA is right, and which rules of SPEC.md it breaks if not. It is a "
        "command or a Python module that answers the requests of PROTOCOL.md.",
        epilog=f'Example: {program_name("conformance_tests")} --impl "./mine" --json report.json. '
        "Exit status: 0 all passed, 1 something failed, 2 the call was wrong.",
    )
    parser.add_argument("--impl", help="a command, or the name of a Python module with answer(request)")
    parser.add_argument(
        "--examples", type=int, default=EXAMPLES, help=f"examples for each property; by default {EXAMPLES}"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the examples, which gives the same requests again; by default 0"
    )
    parser.add_argument(
        "--rule", action="append", default=[], help="check this rule alone, such as 4.3; the option may be repeated"
    )
    parser.add_argument(
        "--chapter",
        action="append",
        default=[],
        metavar="N",
        help="check this chapter's rules alone; the option may be repeated",
    )
    parser.add_argument(
        "--level", choices=LEVELS, help="check this level of PROTOCOL.md and those before it alone; by default all"
    )
    parser.add_argument("--list", action="store_true", help="list the checks, without an implementation")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for one answer; by default 10")
    parser.add_argument("--first", action="store_true", help="stop at the first failure")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER",
        help="where the requests that failed are kept, in a new folder for each run; by default a temporary one",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON; - for standard output")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the report as JUnit XML")
    call = parser.parse_args()
    if not (call.impl is not None or call.list):
        raise UniLoraError('give --impl "COMMAND", or --list to see what is checked')
    if unknown := set(call.rule) - set(spec_rules()):
        raise UniLoraError(f"--rule {min(unknown)} is no rule of SPEC.md; give one such as 4.3")
    if unknown := set(call.chapter) - set(chapters()):
        raise UniLoraError(f"--chapter {min(unknown)} is no chapter of SPEC.md; give one of {', '.join(chapters())}")
    if call.examples < 1 or not 0 < call.timeout <= LONGEST_TIMEOUT:
        raise UniLoraError(f"--examples and --timeout must be above 0, and --timeout at most {LONGEST_TIMEOUT}")
    for option, path in (("--json", call.json), ("--junit", call.junit)):
        if path and not path.absolute().parent.is_dir():
            raise UniLoraError(f"{option} {path}: there is no folder {path.parent}; make it first")
    if call.keep and call.keep.exists() and not call.keep.is_dir():
        raise UniLoraError(f"--keep {call.keep} is no folder; give one, or the name of a new one")
    return call


def _start(call) -> Implementation:
    try:
        return Implementation(command_of(call.impl), call.timeout)
    except (Failed, GaveUp) as failure:
        reason = getattr(failure, "failure", failure).message
        raise WorkFailed(f"--impl {shlex.quote(call.impl)} does not answer the request describe: {reason}") from None
    except ValueError as error:
        raise UniLoraError(f"--impl {call.impl!r} is no command: {error}") from None


def _require_checks(results, selection):
    """Raises ``UniLoraError`` where the selection leaves no check."""
    if not results:
        reasons = [f"rule {rule} has none: {NOT_ASKED[rule]}" for rule in sorted(selection.rules) if rule in NOT_ASKED]
        raise UniLoraError("no check is left to be made; " + ("; ".join(reasons) or "name more rules, or no --level"))


def _list(call, selection) -> int:
    found = checks(selection)
    _require_checks(found, selection)
    if call.json:
        _write_json(call, [{"name": c.name, "rules": c.rules, "needs": c.needs, "says": c.says} for c in found])
    if str(call.json) != "-":
        person = Console(highlight=False, markup=False, soft_wrap=True)
        for line in report.listed(found):
            person.print(line)
    return 0


def _call_to_repeat(call) -> dict:
    """The options that make the same run again, for the report."""
    return {
        "impl": call.impl,
        "examples": call.examples,
        "seed": call.seed,
        "rules": call.rule,
        "chapters": call.chapter,
        "level": call.level,
    }


def _write_json(call, content):
    text = json.dumps(content, indent=1)  # in ASCII: an implementation's texts may have no UTF-8
    if str(call.json) == "-":
        print(text)
    else:
        with replacing(call.json) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
