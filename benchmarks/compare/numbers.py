"""The numbers of a data set: what was measured of it, call by call."""

import os
from collections.abc import Collection

from unilora_spec import UniLoraError

from ..measure import machine
from .method import HEAD, OWN, REFERENCE
from .methods import METHODS
from .processes import Work
from .runs import TOMATOES, Run
from .search import rate_of, recorded

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
    rates = recorded()
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
    """Refuses to add to numbers that were measured in another way."""
    for name, now in (("protocol", protocol), ("versions", versions)):
        if before[name] != now:
            raise UniLoraError(
                f"--add: {where} was measured with another {name}; leave out --add to measure all of it anew"
            )


def lacking(before: dict, cells: list[dict], names: Collection, budgets: list) -> tuple[list[dict], list[dict]]:
    """Of the ``cells`` that the numbers ``before`` lack those of these methods at these ``budgets``; the others, which are left out."""
    have = _keys(before["cells"])
    missing = [cell for cell in cells if (cell["method"], cell["budget"]) not in have]
    run = [cell for cell in missing if cell["method"] in {HEAD, REFERENCE, *names} and cell["budget"] in (0, *budgets)]
    return run, [
        {"method": cell["method"], "budget": cell["budget"], "why": NOT_RUN} for cell in missing if cell not in run
    ]


def together(before: dict, now: dict) -> dict:
    """The numbers of a data set after one more call."""
    call = len(before["calls"])
    cells = [*before["cells"], *(cell | {"call": call} for cell in now["cells"])]
    names = list(METHODS)
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
