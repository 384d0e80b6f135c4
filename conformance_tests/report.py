"""The report of a run: for a person a line for each chapter and each failure in full, for a machine all of it as JSON."""

import base64
import json
import shlex
import textwrap
from dataclasses import asdict

from . import header
from .answers import shown
from .rules import LEVELS, NOT_ASKED, chapters, level_of, spec_rules
from .run import FAILED, NOT_SUPPORTED, PASSED, UNASKED, Result

LONGEST = 1000  # characters of a request that are shown; the kept file has all of it
STYLES = {PASSED: "green", FAILED: "bold red", NOT_SUPPORTED: "yellow", UNASKED: "yellow"}


def by_rule(results: list[Result]) -> dict[str, list[Result]]:
    """The results of each rule of SPEC.md, in its order."""
    return {rule: [result for result in results if rule in result.rules] for rule in spec_rules()}


def outcome_of(results: list[Result]) -> str:
    """The outcome of several: one failure makes it failed, one that was not asked not asked, one pass passed."""
    outcomes = {result.outcome for result in results}
    return next((outcome for outcome in (FAILED, UNASKED, PASSED, NOT_SUPPORTED) if outcome in outcomes), UNASKED)


def level(results: list[Result], requests: list[str]) -> str | None:
    """The highest level whose requests are all supported and whose checks have all passed; None below *projection*.

    ``results`` are those of all checks.
    """
    reached, wrong = None, {level_of(result.needs) for result in results if result.outcome in (FAILED, UNASKED)}
    for name, needed in LEVELS.items():
        if not set(needed) <= set(requests) or name in wrong:
            break
        reached = name
    return reached


def as_json(results: list[Result], described: dict, call: dict, complete: bool) -> dict:
    """The report for a machine; ``call`` is what makes the run again, ``complete`` whether it had all checks."""
    return {
        "implementation": {key: described[key] for key in ("name", "version", "requests", "kinds")},
        "specification": "1",
        "call": call,
        "level": level(results, described["requests"]) if complete else None,
        "rules": {rule: outcome_of(checks) for rule, checks in by_rule(results).items()},
        "checks": [asdict(result) for result in results],
    }


def table(results: list[Result]) -> list[tuple[str, str]]:
    """A line for each chapter that has checks, with its style."""
    rows, titles = [], chapters()
    width = max(map(len, titles.values()))
    for chapter, title in titles.items():
        rules = {rule: checks for rule, checks in by_rule(results).items() if rule.split(".")[0] == chapter}
        checks = [result for result in results if any(rule in rules for rule in result.rules)]
        if checks:
            outcome = outcome_of(checks)
            row = f"{chapter:>2} {title:<{width}}  {outcome:<13}  {_counts(checks, rules)}"
            rows.append((row, STYLES[outcome]))
    return rows


def _counts(checks, rules):
    said = [f"{_many(len(checks), 'check')} of {_many(sum(map(bool, rules.values())), 'rule')}"]
    for outcome in (FAILED, UNASKED, NOT_SUPPORTED):
        if number := sum(check.outcome == outcome for check in checks):
            said.append(f"{number} {outcome}")
    if failed := [rule for rule, of_rule in rules.items() if outcome_of(of_rule) == FAILED]:
        said[1] += f" (of {_many(len(failed), 'rule', alone=True)} {', '.join(failed)})"
    said += [
        f"{rule} has none: {NOT_ASKED[rule]}" for rule, of_rule in rules.items() if not of_rule and rule in NOT_ASKED
    ]
    return "; ".join(said)


def _many(number, what, alone=False):
    return f"{'' if alone else f'{number} '}{what}{'' if number == 1 else 's'}"


def failures(results: list[Result], command: str, width: int | None = None) -> list[str]:
    """Each failure: its rules and what they ask for, and for each way what was wrong, what was asked and what came.

    ``command`` is the command that answers a kept request; sentences are folded at ``width``, or not at all where it is None; requests and
    paths never are.
    """
    lines = []
    for result in results:
        if result.outcome != FAILED:
            continue
        lines += _folded(f"rule {', '.join(result.rules)}: {result.says}", width, "  ")
        name = shown(result.name)
        if not result.ways:
            lines += _folded(f"  {result.message}  [{name}]", width, "    ")
        for k, way in enumerate(result.ways):
            lines += _folded(f"  {way.message}{'' if k else f'  [{name}]'}", width, "    ")
            lines += [f"  {line}" for line in _asked(way, command)]
        if result.further:
            lines.append(f"  and in {result.further} more ways")
        lines.append("")
    return lines


def _asked(way, command):
    request, file = way.request, way.request.get("file")
    if way.kept and isinstance(file, str):
        request = request | {"file": shown(file, 60)}
    yield shown(json.dumps(request, ensure_ascii=False), LONGEST)
    if isinstance(file, str):
        yield from (f"  file: {line}" for line in header.lines(base64.b64decode(file)))
    if way.answer is not None:
        yield f"  answered: {way.answer}"
    if way.kept:
        yield f"  to ask again: {shown(f'{command} < {shlex.quote(way.kept)}', LONGEST)}"


def listed(results: list[Result]) -> list[str]:
    """What would be checked: a line for each check, with its rules, its level and its name."""
    width = max((len(", ".join(result.rules)) for result in results), default=0)
    return [
        f"{', '.join(result.rules):<{width}}  {level_of(result.needs):<10}  {shown(result.name)}: {result.says}"
        for result in results
    ]


def _folded(text, width, indent):
    if width is None:
        return [text]
    return textwrap.wrap(text, max(width, 40), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
