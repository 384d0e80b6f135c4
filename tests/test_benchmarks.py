"""`python -m benchmarks`: it runs, its page is its numbers and nothing else, and what it counts is what is there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks import memory, report
from benchmarks.measure import alternate, compared, operators, row

DOCS = ROOT / "docs"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def bench(*options):
    command = [sys.executable, "-m", "benchmarks", *map(str, options)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_quick_rows_write_numbers_page_and_pictures_and_leave_docs_alone(tmp_path):
    before = contents(DOCS)
    only = [option for number in (1, 4, 10, 12) for option in ("--only", number)]
    done = bench("--quick", *only, "--threads", 1, "--json", tmp_path / "numbers.json", "--output", tmp_path / "docs")
    assert done.returncode == 0, done.stderr
    assert all(f"row {number}: " in done.stderr for number in (1, 4, 10, 12))
    measured = json.loads((tmp_path / "numbers.json").read_text())
    assert [one["row"] for one in measured["rows"]] == [1, 4, 10, 12] and measured["machine"]["threads"] == 1
    held = {line["name"]: line["measured"]["median"] for line in measured["rows"][0]["lines"]}
    assert held == {"P computed": 0, "P cached": 4}  # int32 an entry
    assert {line["against"]["median"] for line in measured["rows"][0]["lines"]} == {12}  # PEFT: int64 and float32
    texts = report.render(measured)
    written = {str(path.relative_to(tmp_path / "docs")): text for path, text in contents(tmp_path / "docs").items()}
    assert written == {path: text.encode() for path, text in texts.items()}
    assert set(written) > {"performance.md", "performance/measured.json", "performance/row-12.svg"}
    assert contents(DOCS) == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--only", 20), "error: --only: there is no row 20; rows are 1 to 19\n"),
        (("--quick", "--output", DOCS), "error: --output: a quick run's numbers mean nothing; give a folder other than docs\n"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_before_anything_runs(options, sentence):
    done = bench(*options)
    assert done.returncode == 2 and done.stderr.endswith(sentence)


def numbers(quick=False):
    """A small run as it would be: one row that keeps a bound and misses two, one that was not measured."""
    random = np.random.default_rng(0)
    times = {name: 0.3 * factor + 0.03 * random.random(9) for name, factor in (("a", 1), ("b", 2), ("c", 1.3))}
    lines = [
        compared("near", times["a"], times["b"], 0.6, profile="kept profile"),
        compared("far", times["c"], times["b"], 0.6, profile="missed profile"),
        compared("counted", [5], [12], 4, unit="bytes an entry", bounds="measured"),
        compared("beside", times["c"], times["a"]),
    ]
    profiles = {"missed profile": [["aten::mm", 12.0], ["aten::add", -1.5]], "kept profile": [["aten::mul", 3.0]]}
    machine = {
        "processor": "P",
        "cores": 2,
        "threads": 2,
        "memory": 2**34,
        "gpu": None,
        "load": 0.5,
        "versions": {"x": "1"},
    }
    return {
        "command": "python -m benchmarks",
        "quick": quick,
        "draws": 2000,
        "machine": machine,
        "seconds": 600.0,
        "rows": [
            row(6, "The cost", "our step", "another's", "One step.", lines, profiles=profiles),
            row(13, "On a GPU", "expand", "a copy", "", [], absent="No GPU was there."),
        ],
    }  # fmt: skip


def test_one_json_gives_the_same_bytes_twice():
    measured = numbers()
    once = report.render(measured)
    assert once == report.render(json.loads(once["performance/measured.json"]))
    assert sorted(once) == ["performance.md", "performance/measured.json", "performance/row-06.svg"]
    picture = once["performance/row-06.svg"]
    assert picture.startswith("<?xml") and "dc:date" not in picture  # two within a second would have the same


def test_a_bound_that_is_not_kept_is_told_with_its_profile():
    page = report.page(numbers())
    assert "1 of 3 bounds are kept. Not kept are:" in page
    assert "- The cost, far: 0.6" in page and "- The cost, counted: 5 bytes an entry, where 4 bytes an entry is" in page
    (near,) = [line for line in page.splitlines() if line.startswith("| near |")]
    (far,) = [line for line in page.splitlines() if line.startswith("| far |")]
    assert near.endswith("| 0.6 | kept |") and far.endswith("| 0.6 | **not kept** |")
    assert "### missed profile\n\nRows: 6." in page and "| aten::mm | 12.00 |" in page
    assert "kept profile" not in page
    assert "Row 13: No GPU was there." in page and "quick" not in page
    assert "Its times and intervals mean nothing" in report.page(numbers(quick=True))


@pytest.mark.parametrize(
    ("ratio", "low", "high", "words"),
    [
        (0.5, 0.4, 0.55, "kept"),
        (0.5, 0.4, 0.65, "kept, but not for the whole interval"),
        (0.7, 0.65, 0.8, "**not kept**"),
        (0.7, 0.55, 0.8, "**not kept**, though part of the interval is below"),
    ],
)
def test_a_verdict_says_where_the_interval_disagrees(ratio, low, high, words):
    line = compared("x", [1], [1], 0.6) | {"ratio": ratio, "low": low, "high": high}
    assert report.verdict(line) == words


def test_steps_take_turns_and_the_first_round_is_not_counted():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = alternate(steps, range(6))
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" + "cba" + "acb" + "bac"
    assert {name: seconds.shape for name, seconds in times.items()} == dict.fromkeys("abc", (6,))


def test_a_ratio_is_within_its_interval_which_narrows_with_rounds():
    random = np.random.default_rng(1)
    found = [compared("x", 2 + random.random(n), 4 + random.random(n)) for n in (9, 900)]
    few, many = (one["high"] - one["low"] for one in found)
    # Medians of 2.5 and 4.5. Those of 900 are off by 0.5 / √900 each, a ratio by 0.005; twice that and more is allowed.
    assert abs(found[1]["ratio"] - 2.5 / 4.5) < 0.02 and many < few / 3
    assert all(one["low"] <= one["ratio"] <= one["high"] for one in found)


def test_memory_of_a_step_is_counted_to_the_byte():
    """Held between steps: 1 MiB. In the step: 8 MiB beside it, and 2 MiB when those are gone."""

    def make_step():
        held = torch.empty(2**18)

        def step():
            torch.empty(2**21).fill_(held.numel())
            torch.empty(2**19).fill_(1)

        return step

    assert memory.allocated(make_step) == {"held": 2**20, "peak": 9 * 2**20}


def test_a_profile_is_the_step_less_the_base():
    a = torch.randn(300, 300)
    found = dict(operators(lambda: a @ a, lambda: a.exp(), range(3)))
    assert found["aten::mm"] > 0 > found["aten::exp"]


def test_the_page_in_docs_is_the_one_that_its_numbers_give():
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    assert page == report.page(json.loads((DOCS / report.NUMBERS).read_text(encoding="utf-8")))
