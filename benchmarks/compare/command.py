"""``python -m benchmarks compare``: what is to run, the processes that run it, and the search for learning rates."""

import itertools
import json
import math
import multiprocessing
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unilora_spec import UniLoraError, WorkFailed, replacing

from ..measure import machine
from . import page
from .costs import ROUNDS, costs
from .methods import HEAD, METHODS, OWN, RATES, REFERENCE, TARGETS
from .runs import FULL, PROTOCOL, QUICK, VALIDATION, Kept, Run, Scale, made, versions
from .told import MOST_SEEDS

DOCS = Path(__file__).parents[2] / "docs"
OTHERS = KEPT = Path("build/compare")
SEEDS, BUDGETS = 3, (192, 960, 5760, 36864)
# None of those that are compared. By one seed alone the best rate may be the last before training falls apart.
SEARCH_SEEDS = 1000, 1001
# From one learning rate that a search tries to the next; how many to either side of the first.
FACTOR, FARTHEST = 3.0, 4


def _budget(text: str) -> int | str:
    if text != OWN and not (text.isdecimal() and int(text)):
        raise typer.BadParameter(f"{text!r} is no budget; give a number of parameters above 0, or {OWN!r}")
    return text if text == OWN else int(text)


def compare(
    seeds: Annotated[int, typer.Option(min=1, max=MOST_SEEDS, help="Runs of each method at each budget.")] = SEEDS,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            parser=_budget,
            metavar="N",
            help=f"Trained parameters beside the head's, or {OWN!r}: each method's own. May be given again; by default "
            f"{', '.join(map(str, BUDGETS))}.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help=f"This method, beside {REFERENCE} and {HEAD}; may be given again. By default all."
        ),
    ] = None,
    search: Annotated[
        bool,
        typer.Option(
            "--search", help="Look for learning rates, on other sentences and another seed, and write them down."
        ),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few steps of each: to see that it runs, not to know.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at once, a thread each; by default one for each core.")
    ] = None,
    kept: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where finished runs are kept, for a call that goes on.")
    ] = KEPT,
    numbers: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="The numbers, once more.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help=f"Of the page; by default docs for all of the comparison, {OTHERS} for less."
        ),
    ] = None,
):
    """Train MiniLM on film reviews with every method at the same budgets, and write docs/comparison.md from the numbers.

    All of it takes under two hours on two cores. An interrupted call goes on where it stopped.
    """
    for name in method or ():
        if name not in METHODS:
            raise UniLoraError(f"--method: there is no {name!r}; methods are {', '.join(METHODS)}")
    everything = not method and not budget and seeds == SEEDS and not quick
    output = output or (DOCS if everything else OTHERS)
    if quick and (search or output.resolve() == DOCS):
        raise UniLoraError(
            "--quick: its numbers mean nothing; leave out --search, and give an --output other than docs"
        )
    budgets = list(dict.fromkeys(budget or BUDGETS))
    cells, left_out = planned(method or METHODS, budgets)
    with Work(Kept(kept), QUICK if quick else FULL, workers or len(os.sched_getaffinity(0))) as work:
        if search:
            rates = _recorded()
            for name, found in searched(work, cells, rates).items():
                rates[name] = rates.get(name, {}) | found
            _write(RATES, rates)
            print(RATES)
            return 0
        measured = {
            "command": _called(seeds, budget, method, quick),
            "quick": quick,
            "protocol": PROTOCOL | {"steps": work.scale.steps, "seeds": seeds, "targets": TARGETS},
            "versions": versions(),
            "budgets": budgets,
            "left_out": left_out,
            **compared(work, cells, seeds),
        }
    texts = {output / path: text for path, text in page.render(measured).items()}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if numbers:
        _write(numbers, measured)
    print(output / page.PAGE)
    return 0


def planned(names: Iterable[str], budgets: list) -> tuple[list[dict], list[dict]]:
    """The cells of the table, ``method``, ``budget`` and ``arguments``, and what is left out of it, with ``why``.

    The head alone is one cell, at budget 0; it and balanced are always there, as all others stand beside them.
    """
    cells, left_out = [{"method": HEAD, "budget": 0, "arguments": {}}], []
    for name, method in METHODS.items():
        if name == HEAD or name not in {REFERENCE, *names}:
            continue
        if not method.is_known:
            left_out.append({"method": name, "budget": None, "why": f"this version has no kind {method.kind}"})
            continue
        for budget in budgets:
            arguments = method.arguments(budget)
            if arguments:
                cells.append({"method": name, "budget": budget, "arguments": arguments})
            else:
                nearest = method.size(method.nearest(budget))
                left_out.append({"method": name, "budget": budget, "why": f"the nearest it can have is {nearest:,}"})
    return cells, left_out


class Work:
    """What has to be done, and what of it is kept already; how far it is, is shown on standard error."""

    def __init__(self, kept: Kept, scale: Scale, workers: int):
        self.kept, self.scale, self.workers = kept, scale, workers
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.bars = Progress(*columns, console=Console(file=sys.stderr), transient=True)

    def __enter__(self):
        self.bars.start()
        return self

    def __exit__(self, kind, *exception):
        self.bars.stop()
        if kind is KeyboardInterrupt:
            folder = self.kept.folder
            raise WorkFailed(f"stopped; what is finished is kept in {folder}, and the same call goes on") from None

    def say(self, line: str) -> None:
        self.bars.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def results(self, runs: list[Run]) -> list[dict]:
        """The results of these runs, in their order; those that are not kept are made, as many at once as there are workers."""
        found = [self.kept.read(run.what) for run in runs]
        missing = [number for number, result in enumerate(found) if result is None]
        self.say(f"{len(runs)} runs, {len(runs) - len(missing)} of them kept from before")
        bar, start = self.bars.add_task("runs", total=len(missing)), time.monotonic()
        for done, (place, result) in enumerate(self._made([runs[number] for number in missing]), 1):
            found[missing[place]] = result
            self.bars.advance(bar)
            left = (time.monotonic() - start) / done * (len(missing) - done) / 60
            accuracy = "the loss is no number" if result["accuracy"] is None else f"accuracy {result['accuracy']:.3f}"
            self.say(f"{done} of {len(missing)}: {runs[missing[place]]}: {accuracy}; {left:.0f} minutes left")
        self.bars.remove_task(bar)
        return found

    def _made(self, runs) -> Iterator[tuple[int, dict]]:
        """The number and the result of each run, as it ends."""
        if self.workers == 1:  # here, without the seconds that another process takes to start
            torch.set_num_threads(1)
            yield from ((number, made_and_kept(self.kept, run)) for number, run in enumerate(runs))
            return
        waiting, numbers = iter(enumerate(runs)), {}
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.workers, context, _alone) as pool:
            while True:
                # No more than run at once: an interruption, which they hear too, finds none in a queue.
                for number, run in itertools.islice(waiting, self.workers - len(numbers)):
                    numbers[pool.submit(made_and_kept, self.kept, run)] = number
                if not numbers:
                    return
                for future in wait(numbers, return_when=FIRST_COMPLETED).done:
                    yield numbers.pop(future), future.result()

    def costs(self, arguments: dict[str, dict]) -> dict:
        """Time and memory of a step of these methods, and the ``machine`` that took them: kept, or measured now."""
        torch.set_num_threads(len(os.sched_getaffinity(0)))  # whatever runs have had
        here = machine(torch.get_num_threads())
        rounds = 2 if self.scale == QUICK else ROUNDS
        what = {"arguments": arguments, "rounds": rounds, "machine": here}
        found = self.kept.read(what)
        if found is None:
            title = f"a step of {len(arguments)} methods in turns"
            found = costs(arguments, self.scale, self.bars.track(range(rounds), description=title))
            found = self.kept.write(what, {"machine": here, "costs": found})
        return found


def _alone() -> None:
    """In a process of its own, before its first run: one thread, and Ctrl-C ends it without a word."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, lambda *_: sys.exit(1))


def made_and_kept(kept: Kept, run: Run) -> dict:
    """Trains, and keeps the result."""
    return kept.write(run.what, made(run))


def compared(work: Work, cells: list[dict], seeds: int) -> dict:
    """The ``machine`` and the ``cells`` with all that is measured of them; the sentences they are ``judged`` by."""
    costs = {}
    for budget in dict.fromkeys(cell["budget"] for cell in cells[1:]):
        there = {cell["method"]: cell["arguments"] for cell in cells if cell["budget"] in (0, budget)}
        found = work.costs(there)
        costs[budget] = found["costs"]
        costs.setdefault(0, found["costs"])  # the head alone, in turns with the first of them
    rates = _recorded()
    cells = [cell | _rate(cell, rates) for cell in cells]
    runs = [
        Run(cell["method"], cell["budget"], cell["arguments"], cell["rate"], seed, work.scale)
        for seed in range(seeds)
        for cell in cells
    ]
    results = work.results(runs)
    for number, cell in enumerate(cells):
        own = results[number :: len(cells)]
        cell |= {"parameters": own[0]["parameters"], "bytes": own[0]["bytes"]}
        cell |= {name: [result[name] for result in own] for name in ("accuracy", "right", "seconds")}
        cell |= costs[cell["budget"]][cell["method"]]
    return {"machine": found["machine"], "judged": results[0]["judged"], "cells": cells}


def searched(work: Work, cells: list[dict], rates: dict) -> dict[str, dict]:
    """For each method and budget the learning rate that is best on the sentences for validation, and all that were tried.

    By the mean of ``SEARCH_SEEDS``: of the rate that the ``rates`` recorded so far give, and of one to either side, a factor of
    ``FACTOR`` apart; while the best is at an end, of one more there.
    """
    own = [cell for cell in cells if METHODS[cell["method"]].rates_of is None]
    starts = [_rate(cell, rates)["rate"] for cell in own]
    tried: list[dict[int, float | None]] = [{} for _ in own]

    def rate(number, place):
        return float(f"{starts[number] * FACTOR**place:.2g}")

    while places := [(number, place) for number in range(len(own)) for place in _next(tried[number])]:
        runs = [
            Run(**own[number], rate=rate(number, place), seed=seed, scale=work.scale, judged_on=VALIDATION)
            for seed in SEARCH_SEEDS
            for number, place in places
        ]
        results = work.results(runs)
        for count, (number, place) in enumerate(places):
            of_seeds = [result["accuracy"] for result in results[count :: len(places)]]
            tried[number][place] = None if None in of_seeds else sum(of_seeds) / len(of_seeds)
    found = {}
    for number, cell in enumerate(own):
        entry = {
            "rate": rate(number, _best(tried[number])),
            "tried": {str(rate(number, place)): tried[number][place] for place in sorted(tried[number])},
        }
        found.setdefault(cell["method"], {})[str(cell["budget"])] = entry
    return found


def _next(tried):
    """The places to try next, by the accuracy at each that was tried; 0 is the rate to start from."""
    if not tried:
        return [-1, 0, 1]
    best = _best(tried)
    return [place for place in (best - 1, best + 1) if place not in tried and abs(place) <= FARTHEST]


def _best(tried):
    """The place of the best accuracy, of equal ones that nearest to the start; where no loss was a number, the least rate."""

    def worth(place):
        accuracy = tried[place]
        return (True, place) if accuracy is None else (False, -accuracy, abs(place))

    return min(tried, key=worth)


def _rate(cell, rates) -> dict:
    """The learning rate of a cell, and what was tried to find it.

    Where a search has been at other budgets alone, the nearest says by what factor the rate to start from is wrong.
    """
    method, budget = METHODS[cell["method"]], cell["budget"]
    source = METHODS[method.rates_of or method.name]
    searched = rates.get(source.name, {})
    if str(budget) in searched:
        return {key: searched[str(budget)][key] for key in ("rate", "tried")}
    rate = method.rate(cell["arguments"])
    others = [int(other) for other in searched if other != OWN]
    if others and budget != OWN:
        nearest = min(others, key=lambda other: abs(math.log(other / budget)))
        rate *= searched[str(nearest)]["rate"] / source.rate(source.arguments(nearest))
    return {"rate": float(f"{rate:.2g}"), "tried": {}}


def _recorded() -> dict:
    return json.loads(RATES.read_text(encoding="utf-8")) if RATES.exists() else {}


def _write(path, content) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _called(seeds, budgets, methods, quick) -> str:
    words = ["python", "-m", "benchmarks", "compare"]
    words += ["--seeds", str(seeds)] * (seeds != SEEDS)
    words += [word for budget in budgets or () for word in ("--budget", str(budget))]
    words += [word for name in methods or () for word in ("--method", name)]
    return shlex.join(words + ["--quick"] * quick)
