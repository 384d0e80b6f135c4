"""How much a graph stands for, once the body of each function is in the place of its calls: a file of 7 kB can so ask for 2^40 nodes."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from .errors import UniLoraError

MOST_NODES = 2**18  # functions inlined; graphs of the largest models have 2^17
MOST_CALLS = 100  # of functions within each other


class Body(NamedTuple):
    """The ``nodes`` of a graph or of a function, those of graphs within them as well, and how often each function is called."""

    nodes: int
    calls: Counter[tuple[str, ...]]


def check_calls(graph: Body, functions: Mapping[tuple[str, ...], Body]) -> None:
    """Raises ``UniLoraError`` where functions call themselves, or where there are too many nodes with each call's own.

    ``functions`` has the body of each function by what it is called by, (domain, name, …).
    """
    sizes: dict[tuple[str, ...], int] = {}
    depths: dict[tuple[str, ...], int] = {}
    waiting, open_ = [(key, False) for key in functions], set()
    while waiting:
        key, done = waiting.pop()
        if key in sizes:
            continue
        own, calls = functions[key]
        if done:
            open_.discard(key)
            sizes[key] = own + sum(number * sizes[called] for called, number in calls.items())
            depths[key] = 1 + max((depths[called] for called in calls), default=0)
            if sizes[key] > MOST_NODES or depths[key] > MOST_CALLS:
                raise UniLoraError(
                    f"the function {key[1]!r:.200} stands for {min(sizes[key], 2**62):,} nodes in {depths[key]} functions within each "
                    f"other; {MOST_NODES:,} and {MOST_CALLS} are the most, so export the model without functions"
                )
            continue
        open_.add(key)
        waiting.append((key, True))
        for called in calls:
            if called in open_:
                raise UniLoraError(
                    f"the function {called[1]!r:.200} calls itself, which no run ends; export the model without functions"
                )
            waiting.append((called, False))
    own, calls = graph
    if (total := own + sum(number * sizes[key] for key, number in calls.items())) > MOST_NODES:
        raise UniLoraError(f"it stands for {total:,} nodes, its functions inlined; {MOST_NODES:,} is the most")
