"""The numbers that were measured on a data set, call by call."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from unilora_spec import UniLoraError

from ..measure import machine
from .method import HEAD, OWN, REFERENCE
from .methods import METHODS
from .processes import Work
from .runs import DATA_SETS, TOMATOES, Run
from .search import rate_of, recorded_rates

NOT_RUN = "not run"


def in_order(budgets) -> list:
    """Each budget once, the least first, and each method's own last."""
    return sorted(set(budgets), key=lambda budget: (budget == OWN, 0 if budget == OWN else budget))


def compared(work: Work, cells: list[dict], seeds: int, data: str) -> dict:
    """The ``cells`` with all that is measured of them, the rows they are ``judged`` by, and the ``machine`` with its ``load``.

    What a step takes is measured with the sentences of Rotten Tomatoes alone.
    """
    costs, taken = {}, {"machine": machine(os.cpu_count()), "load": None}
    for budget in dict.fromkeys(cell["budget"] for cell in cells if cell["budget"] and data == TOMATOES):
        there = {HEAD: {}, REFERENCE: METHODS[REFERENCE].arguments(budget)}
        found = work.costs(there | {cell["method"]: cell["arguments"] for cell in cells if cell["budget"] == budget})
        costs[budget] = found["costs"]
        costs.setdefault(0, found["costs"])  # the head alone, in turns with the first of them
        taken = {name: found[name] for name in ("machine", "load")}
    rates = recorded_rates()
    cells = [cell | rate_of(cell, rates) for cell in cells]
    runs = [
        Run(cell["method"], cell["budget"], cell["arguments"], cell["rate"], seed, work.scale, data=data)
        for seed in range(seeds)
        for cell in cells
    ]
    results = work.results(runs)
    for number, cell in enumerate(cells):
        own = results[number :: len(cells)]
        cell |= {"parameters": own[0]["parameters"], "bytes": own[0]["bytes"]}
        cell |= {name: [result[name] for result in own] for name in ("accuracy", "right", "seconds")}
        cell |= costs.get(cell["budget"], {}).get(cell["method"], {})
    return {**taken, "judged": results[0]["judged"], "cells": cells}


def check(before: dict, protocol: dict, versions: dict, where) -> None:
    """Raises ``UniLoraError`` where the numbers ``before`` were measured in another way, so that none can be added to them."""
    for name, now in (("protocol", protocol), ("versions", versions)):
        if before[name] != now:
            raise UniLoraError(
                f"--add: {where} was measured with another {name}; leave out --add to measure all of it anew"
            )


def read(path: Path) -> dict[str, dict]:
    """The numbers of each data set in a file; none where there is no such file."""
    written = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {data: written[data] for data in DATA_SETS if data in written}


def lacking(
    before: dict, cells: list[dict], names: Iterable, budgets: list, seeds: int
) -> tuple[list[dict], list[dict]]:
    """Of the ``cells``, those of these methods at these ``budgets`` that the numbers ``before`` have with fewer seeds or not at all,
    which are to run; and what else they lack, as it is left out."""
    have = {(cell["method"], cell["budget"]): len(cell["accuracy"]) for cell in before["cells"]}
    run, left_out = [], []
    for cell in cells:
        of_seeds = have.get((cell["method"], cell["budget"]), 0)
        asked = cell["method"] in {HEAD, REFERENCE, *names} and cell["budget"] in (0, *budgets)
        if asked and of_seeds < seeds:
            run.append(cell)
        elif not of_seeds:
            left_out.append({"method": cell["method"], "budget": cell["budget"], "why": NOT_RUN})
    return run, left_out


def together(before: dict, now: dict) -> dict:
    """The numbers of a data set after one more call: its cells replace those with fewer seeds."""
    call = len(before["calls"])
    anew, names = _keys(now["cells"]), list(METHODS)
    cells = [cell for cell in before["cells"] if (cell["method"], cell["budget"]) not in anew]
    cells += [cell | {"call": call} for cell in now["cells"]]
    have = _keys(cells)
    left_out = {(one["method"], one["budget"]): one for one in [*before["left_out"], *now["left_out"]]}
    return before | {
        "budgets": now["budgets"],
        "left_out": [one for key, one in left_out.items() if key not in have],
        "calls": [*before["calls"], *now["calls"]],
        "cells": sorted(cells, key=lambda cell: names.index(cell["method"])),
    }


def _keys(cells):
    return {(cell["method"], cell["budget"]) for cell in cells}
