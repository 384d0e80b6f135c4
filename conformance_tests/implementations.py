"""``python -m conformance_tests.implementations REPORT…``: who conforms, as a page, from the reports of conformance runs.

``python -m conformance_tests --impl … --json REPORT`` writes a report, and anybody may send one. What the page needs of it is kept in a
record, ``FOLDER/NAME.json``, with ``NAME.badge.json`` beside it for the README of the implementation. The page is made of the records alone.
"""

import argparse
import datetime
import json
import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from unilora_spec.command import printable, run
from unilora_spec.documents import read_json
from unilora_spec.errors import UniLoraError
from unilora_spec.placing import replacing

from .rules import KINDS, LEVELS
from .run import FAILED, OUTCOMES, UNASKED

MOST = 2**24  # bytes of a report: ours have half a million
MOST_VALUES = 2**20
LONGEST = 80  # characters of a name, a version or a note
PAGE = """# Who conforms

What each implementation of [SPEC.md](../unilora_spec/SPEC.md) has shown in a run of the [conformance tests](implementing.md#the-report). A *level* means
that every check of it, and of those before it, has passed: *projection* (chapters 1 to 6 of SPEC.md), *file* (7 and 8), *full* (all). An
implementation that does not answer all the requests of a level has none; the column then names the requests that it answers.

{table}

The columns of checks are *passed*, *failed* and *not supported*; with how many examples for each property, of which seed, stands in the records
beside this page ([implementations/](implementations)).

## Add yours

    python -m conformance_tests --impl "./mine" --json report.json
    python -m conformance_tests.implementations report.json --note "Zig, one file"

The second command writes a record, this page, and `mine.badge.json`, a badge for your README by way of
[shields.io](https://shields.io/badges/endpoint-badge): `![Uni-LoRA](https://img.shields.io/endpoint?url=ADDRESS-OF-mine.badge.json)`. Send the record,
or the report, and the page has you.
"""


def record_of(report: dict, note: str, date: str) -> dict:
    """What the page says of a report. Raises ``UniLoraError`` for what no run has written, and for a run that asked for a part alone."""
    try:
        described, call, checks = report["implementation"], report["call"], report["checks"]
        if call["rules"] or call["chapters"] or call["level"]:
            raise UniLoraError("it is of a part of the checks; run it without --rule, --chapter and --level")
        outcomes = Counter(check["outcome"] for check in checks)
        kinds, requests = set(described["kinds"]), set(described["requests"])
        record = {
            "name": _plain(described["name"]),
            "version": _plain(described["version"]),
            "note": _plain(note),
            "specification": _plain(report["specification"]),
            "level": report["level"],
            "kinds": [kind for kind in KINDS if kind in kinds],
            "requests": [name for names in LEVELS.values() for name in names if name in requests],
            "checks": {outcome: outcomes[outcome] for outcome in OUTCOMES},
            "examples": int(call["examples"]),
            "seed": int(call["seed"]),
            "tests": version("unilora"),
            "date": date,
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, UniLoraError):
            raise
        raise UniLoraError("it is no report of a run; give what --json has written") from None
    if record["level"] not in (None, *LEVELS) or sum(outcomes.values()) != sum(record["checks"].values()):
        raise UniLoraError("it is no report of a run; give what --json has written")
    return record


def badge(record: dict) -> dict:
    """A badge in the form of shields.io's endpoint: the level and the number of kinds, or what is wrong."""
    wrong = record["checks"][FAILED] + record["checks"][UNASKED]
    if wrong:
        message, color = f"{wrong} of {sum(record['checks'].values())} checks failed", "red"
    else:
        message = f"{record['level'] or 'a part'} · {_many(record['kinds'])}"
        color = {"full": "brightgreen", "file": "green"}.get(record["level"], "blue")
    return {"schemaVersion": 1, "label": "Uni-LoRA", "message": message, "color": color}


def page(records: list[dict]) -> str:
    """docs/implementations.md: the highest level first, then by name."""
    order = list(LEVELS)
    records = sorted(records, key=lambda r: (-order.index(r["level"]) if r["level"] else 1, r["name"]))
    lines = [
        "| implementation | version | level | kinds | passed | failed | not supported | tests | date |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in records:
        level = r["level"] or ", ".join(f"`{name}`" for name in r["requests"])
        kinds = "all" if len(r["kinds"]) == len(KINDS) else ", ".join(f"`{kind}`" for kind in r["kinds"])
        passed, failed, unsupported, unasked = (r["checks"][outcome] for outcome in OUTCOMES)
        note = f": {r['note']}" if r["note"] else ""
        row = (
            f"{r['name']}{note}",
            r["version"],
            level,
            kinds,
            passed,
            failed + unasked,
            unsupported,
            r["tests"],
            r["date"],
        )
        lines.append(f"| {' | '.join(map(str, row))} |")
    return PAGE.format(table="\n".join(lines))


def _many(kinds):
    return "all kinds" if len(kinds) == len(KINDS) else f"{len(kinds)} kind{'' if len(kinds) == 1 else 's'}"


def _plain(text: str) -> str:
    """A text of a stranger as one cell of a table, without characters that mean something in Markdown or HTML."""
    return printable(re.sub(r"[|`<>\[\]\\*]", " ", text))[:LONGEST].strip()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m conformance_tests.implementations",
        description="Write docs/implementations.md from the reports of conformance runs, and a badge for each implementation.",
        epilog='Example: python -m conformance_tests.implementations report.json --note "Zig, one file"',
    )
    parser.add_argument(
        "reports", type=Path, nargs="*", metavar="REPORT", help="a file that a run has written with --json"
    )
    parser.add_argument(
        "--note", default="", help="what the page says of the implementation: its language, where it is"
    )
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="date of the runs; by default today")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("docs/implementations"),
        help="folder of the records; the page is written beside it",
    )
    call = parser.parse_args()
    if not call.folder.parent.is_dir():
        raise UniLoraError(f"--folder {call.folder}: there is no folder {call.folder.parent}; make it first")
    call.folder.mkdir(exist_ok=True)
    for path in call.reports:
        report = read_json(path, MOST, MOST_VALUES)
        try:
            record = record_of(report, call.note, call.date)
        except UniLoraError as error:
            raise error.within(path) from None
        name = re.sub(r"[^a-z0-9]+", "-", record["name"].lower()).strip("-") or "unnamed"
        for suffix, content in ((".json", record), (".badge.json", badge(record))):
            _write(call.folder / f"{name}{suffix}", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    files = sorted(file for file in call.folder.glob("*.json") if not file.name.endswith(".badge.json"))
    _write(call.folder.with_suffix(".md"), page([read_json(file, MOST, MOST_VALUES) for file in files]))
    print(f"{call.folder.with_suffix('.md')} has {len(files)} implementations.")
    return 0


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(main)
