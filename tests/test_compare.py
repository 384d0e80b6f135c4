"""`python -m benchmarks compare`: it goes on where it stopped, its page is its numbers, and it tells what the spread allows."""

import copy
import csv
import dataclasses
import gc
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from typer.main import get_command

from benchmarks.__main__ import app
from benchmarks.compare import command, differences, page, processes, runs, search
from benchmarks.compare.method import HEAD, NEAR, OWN, RATES, REFERENCE
from benchmarks.compare.methods import METHODS
from benchmarks.compare.numbers import NOT_RUN
from benchmarks.compare.peers import PEERS
from benchmarks.compare.runs import HELD_OUT, TOMATOES, VALIDATION, Kept, Run, Scale
from benchmarks.measure import compared
from unilora_spec import UniLoraError, WorkFailed
from unilora_spec.projection import KINDS

DOCS = ROOT / "docs"
SMALL = Scale(steps=1, judged=16)
KNOWN = [method for method in METHODS.values() if method.is_known]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def compare(*options):
    return get_command(app).main(
        ["compare", *map(str, options)], prog_name="python -m benchmarks", standalone_mode=False
    )


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def few_rows(tmp_path_factory):
    """The first 150 rows of each label of each data set, in a file of their own."""
    path, found = tmp_path_factory.mktemp("rows") / "rows.csv", Counter()
    with runs.DATA.open(encoding="utf-8", newline="") as all_rows, path.open("w", encoding="utf-8", newline="") as few:
        rows = csv.DictReader(all_rows)
        written = csv.DictWriter(few, rows.fieldnames)
        written.writeheader()
        for row in rows:
            found[row["source"], row["label"]] += 1
            if row["source"] in runs.DATA_SETS and found[row["source"], row["label"]] <= 150:
                written.writerow(row)
    return path


@pytest.fixture
def small(monkeypatch, few_rows):
    """Runs of one step of eight short sentences, on one thread, of few rows."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(runs, "DATA", few_rows)
    monkeypatch.setattr(runs, "_LOADED", {})
    monkeypatch.setitem(runs.PROTOCOL, "max_length", 16)
    gc.freeze()  # accelerate collects garbage after each run, which takes a second among all that is imported here
    for module in (command, processes):
        monkeypatch.setattr(module, "QUICK", SMALL)
    monkeypatch.setattr(command.os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setitem(runs.PROTOCOL, "batch", 8)
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


def test_an_interrupted_call_goes_on_and_a_finished_one_does_nothing_again(small, tmp_path, monkeypatch, capsys):
    before, made = contents(DOCS), []
    options = ("--quick", "--seeds", 2, "--budget", 192, "--method", "PEFT UniLora", "--method", "identity")
    options += ("--workers", 1, "--kept", tmp_path / "kept", "--output", tmp_path / "docs")

    def counted(run, make=runs.train_and_judge):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(str(run))
        return make(run)

    monkeypatch.setattr(processes, "train_and_judge", counted)
    with pytest.raises(WorkFailed, match="what is finished is kept in .*, and the same call goes on"):
        compare(*options)
    kept = contents(tmp_path / "kept")
    assert len(kept) == 3 and not (tmp_path / "docs").exists()  # two runs, and what a step takes
    monkeypatch.setattr(processes, "train_and_judge", lambda run: made.append(str(run)) or runs.train_and_judge(run))
    assert compare(*options, "--json", tmp_path / "numbers.json") == 0
    assert "6 runs, 2 of them kept from before" in capsys.readouterr().err
    assert len(made) == len(set(made)) == 6  # three methods, two seeds, none twice
    assert contents(tmp_path / "kept").items() > kept.items()
    measured = json.loads((tmp_path / "numbers.json").read_text())
    written = contents(tmp_path / "docs")
    assert written == {path: text.encode() for path, text in page.render(measured).items()}
    cells = {cell["method"]: cell for cell in measured[TOMATOES]["cells"]}
    assert {name: cell["parameters"] for name, cell in cells.items()} == {HEAD: 0, REFERENCE: 192, "PEFT UniLora": 192}
    assert cells[HEAD]["memory"] == 0 < cells[REFERENCE]["memory"] and cells[HEAD]["bytes"] > 4 * 770
    assert cells[REFERENCE]["bytes"] > 4 * (192 + 770)
    assert "- `identity` at 192: the nearest it can have is 9,216" in written["comparison.md"].decode()

    def fail(*arguments):
        raise AssertionError("this was measured already")

    monkeypatch.setattr(processes, "train_and_judge", fail)
    monkeypatch.setattr(processes, "costs", fail)
    assert compare(*options) == 0
    assert contents(tmp_path / "docs") == written and contents(DOCS) == before


def pretended(run: Run) -> dict:
    """What a run might give, without a training: of each seed and method something else."""
    right = np.random.default_rng([run.seed, len(run.method)]).random(16) < 0.7
    result = {
        "accuracy": float(right.mean()),
        "right": np.packbits(right).tobytes().hex(),
        "judged": 16,
        "seconds": 1.0,
    }
    return result | {"parameters": 0 if run.method == HEAD else run.budget, "bytes": 5000}


def test_a_call_adds_what_is_lacking_and_leaves_the_rest_as_it_is(small, tmp_path, monkeypatch):
    """Here to 192 parameters of one day, with two seeds; what is added has one."""
    made, path = [], tmp_path / "docs" / page.NUMBERS
    steps = {"time": compared("x", [1.0, 1.1], [1.0, 1.2]), "memory": 8}
    monkeypatch.setattr(processes, "costs", lambda arguments, *_: dict.fromkeys(arguments, steps))
    monkeypatch.setattr(processes, "train_and_judge", pretended)
    common = ("--quick", "--workers", 1, "--kept", tmp_path / "kept", "--output", tmp_path / "docs", "--budget", 192)
    assert compare(*common, "--seeds", 2, "--method", "PEFT UniLora") == 0
    before = json.loads(path.read_text())
    before[TOMATOES]["calls"][0]["date"] = "2026-01-02"
    path.write_text(json.dumps(before))
    monkeypatch.setattr(
        processes, "train_and_judge", lambda run: made.append((run.data, run.method, run.seed)) or pretended(run)
    )
    add = (*common, "--add", "--seeds", 1)
    assert compare(*add, "--method", "PEFT FourierFT", "--method", "PEFT IA3", "--budget", 960) == 0
    after = json.loads(path.read_text())[TOMATOES]
    assert made == [(TOMATOES, "balanced", 0), (TOMATOES, "PEFT FourierFT", 0), (TOMATOES, "PEFT FourierFT", 0)]
    old, new = ([cell for cell in after["cells"] if cell["call"] == call] for call in (0, 1))
    assert old == before[TOMATOES]["cells"] and after["calls"][:1] == before[TOMATOES]["calls"]
    assert [(cell["method"], cell["budget"]) for cell in new] == [
        ("balanced", 960), ("PEFT FourierFT", 192), ("PEFT FourierFT", 960),
    ]  # fmt: skip
    text = (tmp_path / "docs" / page.PAGE).read_text()
    today = after["calls"][1]["date"]
    for line in text.splitlines():
        if line.startswith("| `PEFT") and ", rank 4 |" in line or "a few frequencies |" in line and line.count("|") > 6:
            assert line.endswith("| 2026-01-02 |" if "UniLora" in line else f"| {today} |")
    assert "2 seeds, but of `balanced` at 960 1, `PEFT FourierFT` at 192 1, `PEFT FourierFT` at 960 1." in text
    assert "- `PEFT UniLora` at 960: not run" in text
    assert "- `PEFT IA3` at 192, 960: the nearest it can have is 4,608" in text

    made.clear()
    assert compare(*add, "--method", "PEFT FourierFT") == 0 and not made
    more = (*common, "--add", "--seeds", 2, "--method", "PEFT FourierFT")
    assert compare(*more) == 0 and made == [(TOMATOES, "PEFT FourierFT", 1)]  # the first seed is kept
    found = json.loads(path.read_text())[TOMATOES]["cells"]
    (one,) = [cell for cell in found if cell["method"] == "PEFT FourierFT" and cell["budget"] == 192]
    assert len(one["accuracy"]) == 2 and one["call"] == 2 and len(found) == len(after["cells"])
    after, made[:] = json.loads(path.read_text())[TOMATOES], []
    assert compare(*add, "--method", "PEFT FourierFT", "--data", "imdb") == 0
    assert made == [("imdb", name, 0) for name in (HEAD, REFERENCE, "PEFT FourierFT")]
    both = json.loads(path.read_text())
    assert list(both) == [TOMATOES, "imdb"] and both[TOMATOES] == after
    assert all("time" not in cell for cell in both["imdb"]["cells"])
    assert "## IMDB" in (tmp_path / "docs" / page.PAGE).read_text()

    both["imdb"]["protocol"]["steps"] += 1
    path.write_text(json.dumps(both))
    with pytest.raises(UniLoraError, match="--add: .*numbers.json was measured with another protocol; leave out --add"):
        compare(*add, "--data", "imdb")


def test_a_result_is_kept_by_all_that_determines_it(tmp_path, monkeypatch):
    run, kept = Run("balanced", 192, {"rank": 4, "d": 192}, 0.05, 0, SMALL), Kept(tmp_path)
    kept.write(run.what, {"accuracy": 0.5})
    others = {
        "arguments": {"rank": 4, "d": 193},
        "rate": 0.06,
        "seed": 1,
        "scale": Scale(2, 16),
        "judged_on": VALIDATION,
    }
    for name, value in others.items():
        assert kept.read(dataclasses.replace(run, **{name: value}).what) is None
    assert kept.read(run.what) == {"accuracy": 0.5}
    monkeypatch.setitem(runs.PROTOCOL, "batch", 16)
    assert kept.read(run.what) is None
    monkeypatch.undo()
    monkeypatch.setattr(runs, "versions", lambda: {"unilora": "another"})
    assert kept.read(run.what) is None


@pytest.mark.parametrize(("data_set", "count"), [(TOMATOES, 1058), ("imdb", 975)])
def test_rows_to_train_on_to_search_by_and_to_judge_by_are_three_sets(data_set, count):
    texts = {}
    for judged_on in (HELD_OUT, VALIDATION):
        settings, _, _, data, _ = runs.prepared(0, runs.FULL, judged_on, data_set)
        texts["train"] = set(data.train["text"])
        texts[judged_on] = set(data.held_out["text"])
        assert len(data.train) == 80 * 32 and len(data.held_out) == count and settings.max_length == 128
        assert set(data.train["source"]) == {data_set}
    assert not texts["train"] & texts[HELD_OUT] and not texts["train"] & texts[VALIDATION]
    assert not texts[HELD_OUT] & texts[VALIDATION]


@pytest.mark.parametrize("method", PEERS, ids=lambda method: method.name)
def test_a_peer_begins_as_the_base_does_and_its_seed_draws_what_is_random(method):
    base, head = runs.prepared(0, runs.FULL, HELD_OUT)[1:3]
    ids = torch.arange(1000, 1016)[None]
    arguments, moved = method.arguments(36864) or method.arguments(5760), []
    with torch.no_grad():
        start = base.eval()(input_ids=ids).logits
        for seed in (0, 0, 1):
            torch.manual_seed(0)
            model = method.adapt(copy.deepcopy(base), arguments, seed, head).eval()
            # IA3's numbers multiply; that its product is rounded is all that may differ.
            assert torch.allclose(model(input_ids=ids).logits, start, atol=1e-6)
            for parameter in runs.trained(model)[0].values():
                parameter.add_(0.01)
            moved.append(model(input_ids=ids).logits)
    assert not torch.equal(moved[0], start) and torch.equal(moved[0], moved[1])
    assert torch.equal(moved[0], moved[2]) == (method.name in ("PEFT IA3", "PEFT MiSS"))  # which draw nothing


@pytest.mark.parametrize("method", KNOWN, ids=lambda method: method.name)
@pytest.mark.filterwarnings("ignore")
def test_a_method_trains_as_many_parameters_as_its_arguments_say(method):
    base, head = runs.prepared(0, runs.FULL, HELD_OUT)[1:3]
    for budget in (0,) if method.name == HEAD else (*command.BUDGETS, OWN):
        arguments = method.arguments(budget)
        if arguments is None:
            continue
        model = method.adapt(copy.deepcopy(base), arguments, 0, head)
        adapter, in_head = runs.trained(model)
        count = sum(parameter.numel() for parameter in adapter.values())
        assert count == method.size(arguments) and sum(p.numel() for p in in_head.values()) == 770
        assert budget == OWN or abs(count - budget) <= NEAR * budget
        assert method.rate(arguments) > 0


def test_every_kind_that_one_training_makes_is_compared():
    """A table's index comes from elsewhere, and a chain's links are trained one after the other."""
    assert {method.kind for method in METHODS.values()} >= set(KINDS) - {"table", "chain"}


def peaked(best, calls):
    """A run whose accuracy falls with its learning rate's distance from ``best``; far above, the loss is no number."""

    def made(run):
        calls.append(run)
        apart = abs(np.log(run.rate / best))
        return {"accuracy": None if run.rate > 30 * best else 0.8 - 0.01 * apart}

    return made


def searched(folder, *methods):
    """What a search finds for these methods where no rate is recorded."""
    threads = torch.get_num_threads()
    with command.Work(Kept(folder), SMALL, workers=1) as work:
        cells = [{"method": name, "budget": 36864, "arguments": {"rank": 4}} for name in methods]
        found = search.searched(work, cells, {})
    torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize(("best", "tried"), [(5e-3, 3), (5e-1, 6), (5e-5, 6), (1e-9, 6)])
def test_a_search_climbs_to_the_best_rate_and_goes_no_farther_than_it_may(tmp_path, monkeypatch, best, tried):
    """From 0.005, by factors of 3, four of them at most to either side."""
    calls = []
    monkeypatch.setattr(processes, "train_and_judge", peaked(best, calls))
    found = searched(tmp_path, "identity", "PEFT LoRA")
    assert list(found) == ["identity"]  # PEFT LoRA takes these
    entry = found["identity"]["36864"]
    rates = [5e-3 * 3.0**place for place in range(-4, 5)]
    assert entry["rate"] == pytest.approx(min(rates, key=lambda rate: abs(np.log(rate / best))), rel=0.05)  # two digits
    assert len(calls) == 2 * len(entry["tried"]) == 2 * tried
    assert {run.judged_on for run in calls} == {VALIDATION} and {run.seed for run in calls} == set(search.SEARCH_SEEDS)


def test_a_rate_at_which_one_seed_falls_apart_is_not_the_best(tmp_path, monkeypatch):
    def made(run):
        best = {0.0017: 0.70, 0.005: 0.75, 0.015: 0.78}.get(run.rate, 0.5)
        return {"accuracy": best if run.seed == search.SEARCH_SEEDS[0] or run.rate < 0.01 else 0.5}

    monkeypatch.setattr(processes, "train_and_judge", made)
    entry = searched(tmp_path, "identity")["identity"]["36864"]
    assert entry == {"rate": 0.005, "tried": {"0.0017": 0.70, "0.005": 0.75, "0.015": 0.64}, "seeds": 2}


def test_rates_that_a_search_found_are_those_that_runs_take(tmp_path, monkeypatch):
    path = tmp_path / "rates.json"
    monkeypatch.setattr(search, "RATES", path)
    cells = [{"method": name, "budget": 192, "arguments": {"rank": 4, "d": 192}} for name in ("uniform", "partition")]
    rates = [search.rate_of(cell, search.recorded_rates())["rate"] for cell in cells]
    assert rates == [0.055, 0.77]  # 4e-3 √(36864 / 192), 8e-3 √(12 · 384² / 192)
    path.write_text(json.dumps({"balanced": {"192": {"rate": 0.17, "tried": {"0.17": 0.7}, "seeds": 1}, "960": {}}}))
    found = [search.rate_of(cell, search.recorded_rates()) for cell in cells]
    assert found == [
        {"rate": 0.17, "tried": {"0.17": 0.7}, "search_seeds": 1},
        {"rate": 0.77, "tried": {}, "search_seeds": 0},
    ]


def test_a_rate_that_was_not_searched_for_is_as_wrong_as_the_nearest_that_was(tmp_path, monkeypatch):
    path = tmp_path / "rates.json"
    monkeypatch.setattr(search, "RATES", path)
    threefold = {str(d): {"rate": 3 * 4e-3 * (36864 / d) ** 0.5, "tried": {}, "seeds": 2} for d in (960, 5760)}
    tenfold = {name: {"rate": rate, "tried": {}, "seeds": 2} for name, rate in (("36864", 4e-2), ("own", 9.0))}
    path.write_text(
        json.dumps({"balanced": threefold | tenfold, "identity": {"36864": {"rate": 5e-4, "tried": {}, "seeds": 2}}})
    )
    cells, _ = command.planned(["uniform", "PEFT LoRA"], [192, 30000, "own"])
    found = {(cell["method"], cell["budget"]): search.rate_of(cell, search.recorded_rates())["rate"] for cell in cells}
    for name in ("balanced", "uniform"):
        assert [found[name, budget] for budget in (192, 30000)] == [0.17, 0.044]
    assert found["uniform", "own"] == 9 and found["PEFT LoRA", "own"] == 5e-3


def test_recorded_rates_are_the_best_of_those_tried():
    for name, budgets in (json.loads(RATES.read_text()) if RATES.exists() else {}).items():
        for entry in budgets.values():
            assert METHODS[name].rates_of is None
            assert entry["tried"][str(entry["rate"])] == max(accuracy or 0 for accuracy in entry["tried"].values())


def test_students_t_covers_95_in_a_hundred():
    """Of 200,000 draws, the share that is covered is known to 0.0005; four times that is allowed."""
    random = np.random.default_rng(0)
    for count, t in differences.T.items():
        drawn = random.standard_normal((200_000, count))
        covered = abs(drawn.mean(1)) <= t * drawn.std(1, ddof=1) / count**0.5
        assert covered.mean() == pytest.approx(0.95, abs=0.002)


def judged(seeds, accuracy, by_seed=0.0, start=0):
    """bool[600] for each seed: sentences of equal difficulty for all who ask, and an accuracy that differs by seed."""
    difficulty = np.random.default_rng(99).random(600)
    random = np.random.default_rng(start)
    noise = 0.03 * random.standard_normal((seeds, 600))
    return list(difficulty + noise < accuracy + by_seed * random.standard_normal((seeds, 1)))


def test_without_a_difference_hardly_any_is_told_and_a_large_one_always_is():
    """Two intervals of 95 % leave at most 5 % of 400 to chance: 20, with a deviation of 4.4; 38 would be four of those."""
    same = [differences.difference(judged(3, 0.7, 0.01, 2 * n), judged(3, 0.7, 0.01, 2 * n + 1)) for n in range(400)]
    assert sum(one.is_significant for one in same) <= 38
    apart = [differences.difference(judged(3, 0.8, 0.001, 2 * n), judged(3, 0.7, 0.001, 2 * n + 1)) for n in range(50)]
    assert all(one.is_significant and one.mean > 0 for one in apart)
    assert differences.difference(judged(1, 0.8), judged(1, 0.7)) is None


def test_both_intervals_have_to_leave_out_zero():
    """One seed in three that stands alone, or few sentences that all seeds have right, tell nothing."""
    others = [np.zeros(600, bool)] * 3
    one_seed = [np.ones(600, bool), *others[1:]]
    few = np.zeros(600, bool)
    few[:3] = True
    by_seed, by_sentence = differences.difference(one_seed, others), differences.difference([few] * 3, others)
    assert by_seed.mean == pytest.approx(1 / 3) and by_seed.of_sentences == 0 and not by_seed.is_significant
    assert by_sentence.mean == 3 / 600 and by_sentence.of_seeds == 0 and not by_sentence.is_significant


def numbers(seeds=3, quick=False, lost=False):
    """A small comparison as it would be: the verdict on each is known."""
    accuracies = {HEAD: (0.5, 0), REFERENCE: (0.7, 0), "uniform": (0.8, 0), "identity": (0.6, 0), "vera": (0.72, 0.1)}
    cells = []
    for number, (name, (accuracy, by_seed)) in enumerate(accuracies.items()):
        right = judged(seeds, accuracy, by_seed, number)
        cells.append({
            "method": name, "budget": 0 if name == HEAD else 192, "arguments": {} if name == HEAD else {"rank": 4},
            "call": 0, "rate": 0.01, "tried": {"0.003": None, "0.01": 0.7}, "search_seeds": 2, "parameters": 0 if name == HEAD else 200 + number, "bytes": 5000,
            "accuracy": [float(one.mean()) for one in right], "right": [np.packbits(one).tobytes().hex() for one in right],
            "seconds": [60.0] * seeds, "time": compared(name, [0.1, 0.12, 0.11], [0.1, 0.1, 0.1]), "memory": 10**6 * number,
        })  # fmt: skip
    if lost:
        cells[-1] |= {"accuracy": [0.7, None, 0.7], "right": [cells[-1]["right"][0], "", ""]}
    return {
        "quick": quick, "protocol": {"steps": 80, "batch": 32, "max_length": 128}, "versions": {"x": "1"}, "budgets": [192],
        "judged": 600, "cells": cells,
        "left_out": [{"method": "xs", "budget": None, "why": "this version has no kind xs"}],
        "calls": [{
            "date": "2026-01-02", "command": "python -m benchmarks compare", "load": 0.5,
            "machine": {"processor": "P", "cores": 2, "threads": 2, "memory": 2**34, "gpu": None},
        }],
    }  # fmt: skip


def test_one_json_gives_the_same_bytes_twice():
    measured = {TOMATOES: numbers()}
    once = page.render(measured)
    assert once == page.render(json.loads(once[page.NUMBERS]))
    assert sorted(once) == ["comparison.md", "comparison/accuracy.svg", "comparison/numbers.json"]
    picture = once[page.picture_of(TOMATOES)]
    assert picture.startswith("<?xml") and "dc:date" not in picture


def test_a_page_tells_what_the_spread_allows_and_no_more():
    text = page.page({TOMATOES: numbers()})
    told_of = text.split("**At 192 parameters, beside balanced**")[1].split("**")[0].split("\n- ")
    verdicts = dict(line.strip().split(": ", 1) for line in told_of[1:])
    assert {verdict: names.split(" (")[0] for verdict, names in verdicts.items()} == {
        "higher": "uniform", "lower": "identity", "no significant difference": "vera",
    }  # fmt: skip
    assert "- `xs`: this version has no kind xs" in text and "quick" not in text
    assert "its numbers mean nothing" in page.page({TOMATOES: numbers(quick=True)})
    alone = page.page({TOMATOES: numbers(seeds=1)})
    assert "None can be: one seed has no spread." in alone and "±" not in alone.split("## At")[1]


def test_a_gap_says_whether_a_method_was_not_run_or_cannot_be_there():
    measured = numbers()
    measured["budgets"] = [192, 960]
    measured["cells"].append(measured["cells"][1] | {"budget": 960})
    measured["left_out"] += [
        {"method": "uniform", "budget": 960, "why": NOT_RUN},
        {"method": "vera", "budget": 960, "why": "the nearest it can have is 4,620"},
    ]
    lines = page.page({TOMATOES: measured}).splitlines()
    (uniform, vera) = [next(line for line in lines if line.startswith(f"| `{name}`,")) for name in ("uniform", "vera")]
    assert uniform.endswith("| not run |") and vera.endswith("|  |") and "- `uniform` at 960: not run" in lines


def test_a_loss_that_was_no_number_is_told_and_compared_with_nothing():
    text = page.page({TOMATOES: numbers(lost=True)})
    (row,) = [line for line in text.splitlines() if line.startswith("| `vera` | VeRA, rank 4 |")]
    assert "| the loss is no number | 0.700, –, 0.700 |" in row
    assert "vera (" not in text and text.count("`vera`, VeRA | the loss is no number |") == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--method", "xz"), "--method: there is no 'xz'; methods are head alone, balanced, uniform"),
        (("--data", "yelp"), "--data: there is no 'yelp'; data sets are rotten_tomatoes, imdb"),
        (("--search", "--data", "imdb"), "--search: rates are looked for on rotten_tomatoes alone; leave out --data"),
        (("--quick", "--search"), "--quick: its numbers mean nothing; leave out --search"),
        (("--quick", "--output", DOCS), "--quick: its numbers mean nothing; leave out --search"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(options, sentence, monkeypatch):
    monkeypatch.setattr(command, "Work", None)
    with pytest.raises(UniLoraError, match="^" + sentence):
        compare(*options)


@pytest.mark.skipif(not (DOCS / page.PAGE).exists(), reason="not recorded yet: make compare")
def test_the_page_in_docs_is_the_one_that_its_numbers_give():
    measured = json.loads((DOCS / page.NUMBERS).read_text(encoding="utf-8"))
    for path, text in page.render(measured).items():
        assert path.endswith(".svg") or (DOCS / path).read_text(encoding="utf-8") == text
