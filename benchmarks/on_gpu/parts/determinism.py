"""The same bits in a hundred runs: index, expand, adjoint, and θ's gradient through autograd."""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from backends.torch.adapter.theta import triton_kernels as kernels
from backends.torch.adapter.theta.expansion import storage_of
from unilora_spec import Projection

from ..findings import Context, checked, guarded
from ..kernels import bits

SIZES = ((20_000_000, 524_288), (10**8, 1000), (36_864, 5760))


def findings(context: Context) -> Iterator[dict]:
    runs = 100 if context.gpu else 2
    for D, d in SIZES if context.gpu else [(300, 37)]:
        for name, call in calls(D, d, context.device).items():
            yield from guarded(name, _same(f"{name}, D = {D:,}, d = {d:,}, {runs} runs", call, runs))


def calls(D: int, d: int, device: str) -> dict[str, Callable[[], torch.Tensor]]:
    """Each call by its name."""
    random = torch.Generator().manual_seed(0)
    theta, g = (torch.randn(count, generator=random).to(device) for count in (d, D))
    storage = storage_of(Projection("balanced", D=D, d=d, seed=0), device, "computed")

    def gradient():
        trained = theta.clone().requires_grad_()
        storage.expand(trained).backward(g)
        return trained.grad

    found = {"index": partial(kernels.index, D, d, 0, device), "θ's gradient": gradient}
    for dtype in (torch.float32, torch.bfloat16):
        found[f"expand to {dtype}"] = partial(kernels.expand, theta, D, 0, dtype)
        found[f"adjoint of {dtype}"] = partial(kernels.adjoint, g.to(dtype), d, D, 0)
    return found


def _same(name, call, runs):
    first = bits(call()).to(call().device)
    width = first.dtype
    different = sum(not torch.equal(call().view(width), first) for _ in range(runs))
    yield checked(name, runs, [f"{different} of {runs} runs gave other bits than the first"] * different)
