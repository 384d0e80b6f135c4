"""Times on a GPU, in turns; without a GPU each step runs once, so that it is seen to run, and no time is given."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from ..measure import Repeats, alternate, compared
from .findings import MEASURED, REHEARSED, Context, finding

CALLS = 10  # calls of a short step that are measured together
REHEARSAL = "not measured, as there is no GPU; it ran once"


class Pair(NamedTuple):
    """Two steps to compare, by their names; ``at_most`` is a bound on the ratio of their times, ``bytes`` is what the first one moves."""

    name: str
    measured: str
    against: str
    at_most: float | None = None
    bytes: int | None = None


def figures(
    context: Context,
    steps: dict[str, Callable],
    pairs: list[Pair],
    rounds: int,
    calls: int = 0,
    seconds: Callable[[Callable], float] | None = None,
) -> Iterator[dict]:
    """A finding for each of the pairs; ``seconds`` takes the time of a step, ``at_rest`` where it is None.

    Of short steps, so many ``calls`` are captured as one CUDA graph, so that the GPU does not wait for the CPU between them and
    what is measured is the GPU's time of a call. Otherwise it is the time of a step with what the CPU does to start it.
    """
    if not context.gpu:
        for step in steps.values():
            step()
        yield from (finding(pair.name, REHEARSED, REHEARSAL) for pair in pairs)
        return
    graphs = {name: captured(step, calls) for name, step in steps.items()} if calls else steps
    times = {
        name: found / (calls or 1)
        for name, found in alternate(graphs, Repeats(rounds), seconds=seconds or at_rest).items()
    }
    for pair in pairs:
        line = compared(pair.name, times[pair.measured], times[pair.against], pair.at_most)
        says = f"{line['ratio']:.3f} of {pair.against} ({line['low']:.3f} to {line['high']:.3f})"
        if pair.bytes:
            says += f", {pair.bytes / line['measured']['median'] / 1e9:,.0f} GB/s"
        yield finding(pair.name, MEASURED, says, line)


def captured(step: Callable, calls: int = 1) -> Callable:
    """``calls`` calls of a step as one CUDA graph; whatever the step compiles is compiled before."""
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(
        stream
    ):  # torch requires a stream of its own: what the first call sets up must not be part of a graph
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            step()
    return graph.replay


def at_rest(step: Callable) -> float:
    """Seconds from a GPU at rest to a GPU at rest, by the GPU's clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3
