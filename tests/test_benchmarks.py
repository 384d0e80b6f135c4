"""`python -m benchmarks`: it runs, its page is its numbers and nothing else, and what it counts is what is there."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from typer.main import get_command

from benchmarks import lines, memory, quiet, report
from benchmarks.__main__ import app
from benchmarks.measure import Repeats, alternate, clocks, compared, operators, row
from unilora_spec import UniLoraError

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
    only = [option for number in (1, 10, 12) for option in ("--only", number)]
    done = bench("--quick", *only, "--threads", 1, "--json", tmp_path / "numbers.json", "--output", tmp_path / "docs")
    assert done.returncode == 0, done.stderr
    assert all(f"row {number}: " in done.stderr for number in (1, 10, 12))
    measured = json.loads((tmp_path / "numbers.json").read_text())
    assert [one["row"] for one in measured["rows"]] == [1, 10, 12] and measured["machine"]["threads"] == 1
    held = {line["name"]: line["measured"]["median"] for line in measured["rows"][0]["lines"]}
    assert held == {"P computed": 0, "P cached": 2}  # uint16 an entry
    assert {line["against"]["median"] for line in measured["rows"][0]["lines"]} == {12}  # PEFT: int64 and float32
    texts = report.render(measured)
    written = {str(path.relative_to(tmp_path / "docs")): text for path, text in contents(tmp_path / "docs").items()}
    assert written == {path: text.encode() for path, text in texts.items()}
    assert set(written) > {"performance.md", "performance/measured.json", "performance/row-12.svg"}
    assert contents(DOCS) == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--only", 21), "--only: there is no row 21; give one of 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20"),
        (("--quick", "--output", DOCS), "--output: a quick run's numbers mean nothing; give a folder other than docs"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_before_anything_runs(options, sentence):
    with pytest.raises(UniLoraError) as refused:
        get_command(app).main([*map(str, options)], prog_name="python -m benchmarks", standalone_mode=False)
    assert str(refused.value) == sentence


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
    assert "Of 3 bounds 1 are kept, 2 not kept, and 0 open.\n\nNot kept are:" in page
    assert "- The cost, far: 0.6" in page and "- The cost, counted: 5 bytes an entry, where 4 bytes an entry is" in page
    (near,) = [line for line in page.splitlines() if line.startswith("| near |")]
    (far,) = [line for line in page.splitlines() if line.startswith("| far |")]
    assert near.endswith("| 0.6 | kept |") and far.endswith("| 0.6 | **not kept** |")
    assert "### missed profile\n\nRows: 6." in page and "| aten::mm | 12.00 |" in page
    assert "kept profile" not in page
    assert "Row 13: No GPU was there." in page and "quick" not in page
    assert "Its times and intervals mean nothing" in report.page(numbers(quick=True))


@pytest.mark.parametrize(
    ("ratio", "low", "high", "words", "met"),
    [
        (0.5, 0.4, 0.55, "kept", True),
        (0.5, 0.4, 0.65, "open: the bound is within the interval", None),
        (0.7, 0.65, 0.8, "**not kept**", False),
        (0.7, 0.55, 0.8, "open: the bound is within the interval", None),
    ],
)
def test_a_bound_is_decided_by_the_whole_interval(ratio, low, high, words, met):
    line = compared("x", [1], [1], 0.6) | {"ratio": ratio, "low": low, "high": high}
    assert lines.verdict(line) == words and lines.is_met(line) is met
    assert lines.is_open(line) == (met is None)


@pytest.mark.parametrize(
    ("busy", "processor", "words"),
    [
        (False, (0.7, 0.65, 0.75), "kept"),  # several threads may take less time, and more of the processors'
        (True, (0.7, 0.65, 0.75), "open: other programs ran, and processor time says otherwise"),
        (True, (0.6, 0.55, 0.65), "open: the bound is within the interval"),
        (True, (0.5, 0.45, 0.55), "kept"),
        (True, None, "kept"),
    ],
)
def test_beside_other_programs_processor_time_has_to_agree(busy, processor, words):
    processor = processor and dict(zip(("ratio", "low", "high"), processor))
    line = compared("x", [1], [2], 0.6) | {"busy": busy, "processor": processor}
    assert lines.verdict(line) == words and lines.is_open(line) == words.startswith("open")


def test_an_open_bound_is_told_as_such():
    measured = numbers()
    measured["rows"][0]["lines"][0] |= {"low": 0.5, "high": 0.7}
    page = report.page(measured)
    assert "Of 3 bounds 0 are kept, 2 not kept, and 1 open." in page
    assert "Open are:\n\n- The cost, near: " in page


def test_steps_take_turns_and_the_first_round_is_not_counted():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = alternate(steps, Repeats(6))
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" + "cba" + "acb" + "bac"
    assert {name: seconds.shape for name, seconds in times.items()} == dict.fromkeys("abc", (6, 2))


def timed(random, spread):
    """A clock for ``alternate`` in which a step takes what it says, and a part of it more by chance."""
    return lambda step: step() * (1 + spread * random.random())


@pytest.mark.parametrize(("spread", "rounds"), [(0.001, 5), (0.2, 40)])
def test_uncertain_ratios_take_more_rounds_until_they_are_narrow(spread, rounds):
    """0.1 % of noise is narrow at once; with 20 % the medians of five are far apart, and a multiple of them is needed."""
    numbers = []
    repeats = Repeats(5, seconds=60, tick=numbers.append)
    times = alternate({"a": lambda: 1.0, "b": lambda: 2.0}, repeats, seconds=timed(np.random.default_rng(0), spread))
    assert numbers == list(range(len(times["a"]))) and len(numbers) % 5 == 0
    assert len(numbers) == 5 if rounds == 5 else len(numbers) >= rounds
    line = compared("x", times["b"], times["a"])
    assert line["high"] - line["low"] <= 0.04 * line["ratio"] and line["processor"] is None


def test_rounds_end_with_the_time_that_they_have():
    """However uncertain: here each round is twice or half the one before."""
    values = iter([1.0, 1.0, *[2.0 ** (n % 2) for n in range(10**6)]])
    times = alternate(
        {"a": lambda: None, "b": lambda: None}, Repeats(3, seconds=0.05), seconds=lambda step: next(values)
    )
    assert len(times["a"]) % 3 == 0 and len(times["a"]) >= 3
    assert (
        len(alternate({"a": lambda: None, "b": lambda: None}, Repeats(3), seconds=lambda step: next(values))["a"]) == 3
    )


def test_the_processors_time_is_taken_beside_the_clocks():
    def sleeps():
        time.sleep(0.05)

    def works():
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass

    wall, processor = clocks(sleeps)
    assert wall >= 0.05 > 5 * processor  # a call of sleep takes microseconds of a processor
    wall, processor = clocks(works)
    assert wall >= processor * 0.99 and 0.05 <= processor < 0.1  # two clocks; one more look at them is far below 50 ms
    line = compared("x", [(1.0, 0.5), (1.0, 0.5)], [(2.0, 2.0), (2.0, 2.0)])
    assert line["ratio"] == 0.5 and line["processor"] == {"ratio": 0.25, "low": 0.25, "high": 0.25}
    assert "| 0.500 | 0.500 to 0.500 | 0.500 | 0.250 (0.250 to 0.250) |" in lines.table([line])


def test_lower_quartiles_see_less_of_the_noise():
    """Three of five rounds of one step met another program: their median is off by ten times, their lower quartile is not."""
    line = compared("x", [1.0, 1.0, 10.0, 10.0, 10.0], [1.0] * 5)
    assert line["ratio"] == 10 and "| 1.000 to 10.000 | 1.000 |" in lines.table([line])


class Machine:
    """A clock, and what others have: half a processor until ``quiet`` seconds are over, then nothing."""

    def __init__(self, quiet):
        self.now, self.quiet = 0.0, quiet

    def sleep(self, seconds):
        self.now += seconds

    def busy(self):
        return 0.5 * min(self.now, self.quiet)


@pytest.mark.parametrize(("quiet_at", "waited", "met"), [(0, 1, 0.0), (4, 5, 0.0), (100, 10, 0.5)])
def test_a_row_waits_for_a_quiet_machine_but_not_for_ever(quiet_at, waited, met):
    machine = Machine(quiet_at)
    others = quiet.Others(lambda: machine.now, machine.busy)
    assert quiet.wait(10, others, machine.sleep) == met and machine.now == waited


def test_what_this_process_does_is_not_the_others():
    """A busy loop of a fifth of a second moves the whole machine's count, and not the others', but for the clock's ticks of 10 ms."""
    if quiet.of_others() == 0:
        pytest.skip("this machine tells nothing of its processors")
    end, others = time.process_time() + 0.2, quiet.of_others()
    total, start = others + time.process_time(), time.monotonic()
    while time.process_time() < end:
        pass
    assert quiet.of_others() + time.process_time() - total >= 0.15
    assert quiet.of_others() - others <= (time.monotonic() - start) * os.cpu_count() - 0.15


def test_a_row_tells_what_others_had():
    measured = numbers()
    measured["rows"][0]["others"] = 0.25
    assert "While this was measured, other programs had 0.25 processors." in report.page(measured)


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
    found = dict(operators(lambda: a @ a, lambda: a.exp(), Repeats(3)))
    assert found["aten::mm"] > 0 > found["aten::exp"]


def test_the_page_in_docs_is_the_one_that_its_numbers_give():
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    assert page == report.page(json.loads((DOCS / report.NUMBERS).read_text(encoding="utf-8")))
