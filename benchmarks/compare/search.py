"""Learning rates: those that ``--search`` found, and the search.

The search is on Rotten Tomatoes, and its rates are used for every data set.
"""

import json
import math
from collections.abc import Sequence

from .method import OWN, RATES
from .methods import METHODS
from .runs import VALIDATION, Run

# Seeds that the comparison does not use. By one seed alone the best rate may be the last before training diverges.
SEARCH_SEEDS = 1000, 1001
# The factor from one learning rate that a search tries to the next; how many it tries to either side of the first.
FACTOR, FARTHEST = 3.0, 4


def recorded_rates() -> dict:
    """The rates of rates.json: method → budget → the entry that ``searched`` gave."""
    return json.loads(RATES.read_text(encoding="utf-8")) if RATES.exists() else {}


def searched(work, cells: list[dict], rates: dict, seeds: Sequence[int] = SEARCH_SEEDS) -> dict[str, dict]:
    """For each method and budget the learning rate that is best on the sentences for validation, and all that were tried.

    A rate is judged by its mean accuracy over ``seeds``. The search tries the rate that the ``rates`` recorded so far give and one to
    either side, ``FACTOR`` apart; while the best is at an end, it tries one more there.
    """
    own = [cell for cell in cells if METHODS[cell["method"]].rates_of is None]
    starts = [rate_of(cell, rates)["rate"] for cell in own]
    tried: list[dict[int, float | None]] = [{} for _ in own]

    def rate(number, place):
        return float(f"{starts[number] * FACTOR**place:.2g}")

    while places := [(number, place) for number in range(len(own)) for place in _next(tried[number])]:
        runs = [
            Run(**own[number], rate=rate(number, place), seed=seed, scale=work.scale, judged_on=VALIDATION)
            for seed in seeds
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
            "seeds": len(seeds),
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
    """The place of the best accuracy, of equal ones the nearest to the start; where every loss was NaN, the least rate."""

    def worth(place):
        accuracy = tried[place]
        return (True, place) if accuracy is None else (False, -accuracy, abs(place))

    return min(tried, key=worth)


def rate_of(cell: dict, rates: dict) -> dict:
    """The learning rate of a cell, what was tried to find it, and with how many seeds each.

    Where a search was made at other budgets alone, the rate to start from is multiplied by the factor that the nearest one found.
    """
    method, budget = METHODS[cell["method"]], cell["budget"]
    source = METHODS[method.rates_of or method.name]
    searched = rates.get(source.name, {})
    if str(budget) in searched:
        entry = searched[str(budget)]
        return {"rate": entry["rate"], "tried": entry["tried"], "search_seeds": entry["seeds"]}
    rate = method.rate(cell["arguments"])
    others = [int(other) for other in searched if other != OWN]
    if others and budget != OWN:
        nearest = min(others, key=lambda other: abs(math.log(other / budget)))
        rate *= searched[str(nearest)]["rate"] / source.rate(source.arguments(nearest))
    return {"rate": float(f"{rate:.2g}"), "tried": {}, "search_seeds": 0}
