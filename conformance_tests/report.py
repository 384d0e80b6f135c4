"""What a run says: a table by rule for a person, the same as JSON for a machine."""

import json

from rich.table import Table

from unilora_spec.command import printable

from .rules import LEVELS, NOT_ASKED, chapters, level_of, spec_rules
from .run import FAILED, NOT_SUPPORTED, PASSED, Result

LONGEST = 3000  # characters of a request that are still shown
STYLES = {PASSED: "green", FAILED: "bold red", NOT_SUPPORTED: "yellow", "not asked": "dim"}


def by_rule(results: list[Result]) -> dict[str, list[Result]]:
    """The results of each rule of SPEC.md, in its order."""
    return {rule: [result for result in results if rule in result.rules] for rule in spec_rules()}


def outcome_of(results: list[Result]) -> str:
    """A rule's outcome: one failure makes it failed, one pass more than not supported."""
    outcomes = {result.outcome for result in results}
    return next((outcome for outcome in (FAILED, PASSED, NOT_SUPPORTED) if outcome in outcomes), "not asked")


def level(results: list[Result], requests: list[str]) -> str | None:
    """The highest level whose requests are all supported and whose checks have all passed; None below *projection*.

    ``results`` are those of all checks.
    """
    reached, failed = None, {level_of(result.needs) for result in results if result.outcome == FAILED}
    for name, needed in LEVELS.items():
        if not set(needed) <= set(requests) or name in failed:
            break
        reached = name
    return reached


def as_json(results: list[Result], described: dict, call: dict) -> dict:
    """The report for a machine; ``call`` is what makes the run again."""
    return {
        "implementation": {key: described[key] for key in ("name", "version", "requests", "kinds")},
        "specification": "1",
        "call": call,
        "level": None if call["rules"] else level(results, described["requests"]),
        "rules": {rule: outcome_of(checks) for rule, checks in by_rule(results).items()},
        "checks": [vars(result) for result in results],
    }


def table(results: list[Result], described: dict) -> Table:
    """A row for each rule."""
    title = printable(f"{described['name']} {described['version']} against SPEC.md, version 1")
    shown = Table("rule", "chapter", "outcome", "checks", title=title)
    titles, last = chapters(), None
    for rule, checks in by_rule(results).items():
        outcome, chapter = outcome_of(checks), titles[rule.split(".")[0]]
        counts = [f"{len(checks)}"] if checks else [NOT_ASKED.get(rule, "left out of this run")]
        for what in (FAILED, NOT_SUPPORTED):
            if number := sum(check.outcome == what for check in checks):
                counts.append(f"{number} {what}")
        shown.add_row(rule, chapter if chapter != last else "", f"[{STYLES[outcome]}]{outcome}", ", ".join(counts))
        last = chapter
    return shown


def failures(results: list[Result]) -> list[str]:
    """Each failure as lines to read and a line to paste."""
    lines = []
    for result in results:
        if result.outcome == FAILED:
            lines += [f"rule {', '.join(result.rules)}: {result.says}", f"  {result.message}  [{result.name}]"]
            if result.request:
                request = json.dumps(result.request, ensure_ascii=False)
                fits = len(request) <= LONGEST
                lines.append(
                    f"  {request if fits else f'{request[:100]} … {len(request)} characters; --json keeps all'}"
                )
            lines.append("")
    return [printable(line) for line in lines]
