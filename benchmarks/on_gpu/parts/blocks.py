"""Other block sizes and warps than those that the kernels are launched with: the same bits, and which are the fastest here."""

from collections.abc import Callable, Iterator
from unittest import mock

import torch

from backends.torch.adapter.theta import triton_kernels as kernels

from ..figures import CALLS, Pair, figures
from ..findings import NOTED, Context, checked, finding, guarded
from ..kernels import bits

WARP = 32  # lanes
WAYS = [
    (block, warps) for warps in (1, 2, 4, 8) for block in (64, 128, 256, 512, 1024) if 2 <= block // (warps * WARP) <= 8
]
BETTER = 0.95  # of the default's time, for the whole interval: a smaller gain is not worth another default


def findings(context: Context) -> Iterator[dict]:
    D, d = (20_000_000, 524_288) if context.gpu else (150, 20)
    theta, g = (torch.randn(count, device=context.device) for count in (d, D))
    calls = {
        "expand": lambda: kernels.expand(theta, D, 0),
        "expand to bfloat16": lambda: kernels.expand(theta, D, 0, torch.bfloat16),
        "adjoint": lambda: kernels.adjoint(g, d, D, 0),
    }
    for name, call in calls.items():
        yield from guarded(name, _tuned(context, name, call))


def launched(way: tuple[int, int], call: Callable) -> Callable:
    """``call`` with kernels of this block size and number of warps."""
    block, warps = way
    options = kernels.OPTIONS | {"num_warps": warps}

    def run():
        with mock.patch.multiple(kernels, BLOCK=block, OPTIONS=options):
            return call()

    return run


def _tuned(context, name, call):
    today = (kernels.BLOCK, kernels.OPTIONS["num_warps"])
    ways = {shown(way): launched(way, call) for way in dict.fromkeys([today, *(WAYS if context.gpu else WAYS[:2])])}
    expected = bits(call())
    others = [way for way, run in ways.items() if not torch.equal(bits(run()), expected)]
    yield checked(f"{name}: the bits do not depend on the block", len(ways), [f"{way} gives others" for way in others])
    names = {f"{name}, {way}": way for way in ways if way != shown(today)}
    pairs, found = [Pair(pair, way, shown(today)) for pair, way in names.items()], []
    for figure in figures(context, ways, pairs, 20, CALLS):
        found.append(figure)
        yield figure
    yield from best(name, shown(today), [figure["line"] for figure in found if figure["line"]])


def shown(way: tuple[int, int]) -> str:
    block, warps = way
    return f"BLOCK {block}, {warps} warp{'s' * (warps > 1)}"


def best(name: str, today: str, lines: list[dict]) -> Iterator[dict]:
    """A finding on whether the default is still the best by these figures; none where there are no figures."""
    if lines:
        first = min(lines, key=lambda line: line["ratio"])
        if first["high"] < BETTER:
            says = f"**a better default is there**: {first['name']} takes {first['ratio']:.3f} of {today}"
            says += f" ({first['low']:.3f} to {first['high']:.3f})"
        else:
            says = f"{today}, the default, may stay: the best other takes {first['ratio']:.3f} of it ({first['name']})"
        yield finding(f"{name}: the default", NOTED, says)
