"""docs/implementations.md: made of the records beside it, and records of reports, which strangers send."""

import copy
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from conformance_tests.implementations import badge, page, record_of
from conformance_tests.rules import KINDS
from unilora_spec import UniLoraError

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/implementations"
REPORT = {
    "implementation": {"name": "mine", "version": "0", "requests": ["describe", "mix", "keys"], "kinds": ["uniform", "balanced"]},
    "specification": "1",
    "call": {"impl": "./mine", "examples": 40, "seed": 0, "rules": [], "chapters": [], "level": None},
    "level": None,
    "rules": {},
    "checks": [{"outcome": "passed"}, {"outcome": "passed"}, {"outcome": "not supported"}],
}  # fmt: skip


def record(**changed):
    return record_of(REPORT | changed, "Zig", "2026-11-30")


def test_the_page_is_that_of_its_records():
    """And it has ours and both examples, of which nothing has failed."""
    files = [file for file in sorted(FOLDER.glob("*.json")) if not file.name.endswith(".badge.json")]
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    assert (ROOT / "docs/implementations.md").read_text(encoding="utf-8") == page(records)
    assert {"unilora_spec", "backends.torch", "export", "unilora.c", "unilora.mjs"} <= {
        each["name"] for each in records
    }
    for file, each in zip(files, records):
        assert each["checks"]["failed"] == each["checks"]["not asked"] == 0
        assert json.loads(file.with_suffix(".badge.json").read_text(encoding="utf-8")) == badge(each)


def test_a_record_has_what_the_page_says():
    found = record()
    assert (found["kinds"], found["requests"]) == (["balanced", "uniform"], ["keys", "mix"])
    assert found["checks"] == {"passed": 2, "failed": 0, "not supported": 1, "not asked": 0}
    assert (
        f"| mine: Zig | 0 | `keys`, `mix` | `balanced`, `uniform` | 2 | 0 | 1 | {version('unilora')} | 2026-11-30 |"
        in page([found])
    )


def test_a_badge_says_the_level_or_what_is_wrong():
    everything = copy.deepcopy(REPORT["implementation"]) | {"kinds": list(KINDS)}
    assert badge(record(level="full", implementation=everything))["message"] == "full · all kinds"
    assert badge(record(level="file"))["message"] == "file · 2 kinds"
    wrong = badge(record(checks=[*REPORT["checks"], {"outcome": "failed"}]))
    assert (wrong["message"], wrong["color"]) == ("1 of 4 checks failed", "red")


def test_the_highest_level_stands_first():
    lines = page([record(level=level) for level in (None, "file", "full", "projection")]).splitlines()
    assert [line.split(" | ")[2] for line in lines if line.startswith("| mine")] == [
        "full",
        "file",
        "projection",
        "`keys`, `mix`",
    ]


def test_a_name_makes_nothing_of_the_page():
    hostile = REPORT["implementation"] | {"name": "x|y\n# z <script> [a](b) \x1b[31m" + "n" * 500, "kinds": ["<b>"]}
    found = record(implementation=hostile)
    row = next(line for line in page([found]).splitlines() if line.startswith("| x"))
    assert row.count("|") == 10 and len(found["name"]) <= 80 and not set("<>[]\x1b") & set(row) and found["kinds"] == []


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"call": REPORT["call"] | {"rules": ["4.3"]}}, "it is of a part of the checks"),
        ({"level": "perfect"}, "it is no report of a run"),
        ({"checks": [{"outcome": "great"}]}, "it is no report of a run"),
        ({"checks": 3}, "it is no report of a run"),
        ({"implementation": {"name": 5}}, "it is no report of a run"),
        ({"call": []}, "it is no report of a run"),
        ({"call": REPORT["call"] | {"examples": float("inf")}}, "it is no report of a run"),
    ],
)
def test_what_is_no_report_is_refused(changed, sentence):
    with pytest.raises(UniLoraError, match=sentence):
        record(**changed)


def test_the_command(tmp_path):
    """It writes a record, a badge and the page, and names the file that is no report."""
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    (tmp_path / "other.json").write_text("{}")

    def call(*arguments):
        command = [
            sys.executable,
            "-m",
            "conformance_tests.implementations",
            *arguments,
            "--folder",
            str(tmp_path / "all"),
        ]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)

    assert call(str(tmp_path / "report.json"), "--note", "Zig").returncode == 0
    assert sorted(file.name for file in (tmp_path / "all").iterdir()) == ["mine.badge.json", "mine.json"]
    assert "| mine: Zig |" in (tmp_path / "all.md").read_text(encoding="utf-8")
    wrong = call(str(tmp_path / "other.json"))
    assert wrong.returncode == 2 and wrong.stderr.startswith(f"error: {tmp_path}/other.json: it is no report of a run")
