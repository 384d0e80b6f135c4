"""A training step of a Llama beside PEFT's LoRA and UniLora and the frozen base, in float32 and bfloat16.

The parts ``graphs`` and ``compiled`` measure the same steps as CUDA graphs and under torch.compile.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from ...models import LORA, OURS, UNILORA, Case, Model, llama
from ..figures import Pair, figures
from ..findings import FAILED, PASSED, Context, finding, guarded, left_out

DTYPES = (torch.float32, torch.bfloat16)
WAYS = ("base", OURS, UNILORA, LORA)
RANK = 64
BOUND = 1.02  # of LoRA's step
ROUNDS = 12
LARGE = 32 * 2**30  # bytes of a GPU that the larger model is for: four of them are held in float32
LEAST = 15  # seconds that have to be left for another precision
FAR = 0.25
"""How far two of θ's gradients may be from each other, as a part of the largest entry: other kernels round otherwise, in bfloat16 by
2^-8 at each operation, while the gradient of another θ or another batch is off by 1 and more."""

Makes = Callable[[Case, nn.Module], Callable[[], None]]  # a step from a model


def findings(context: Context) -> Iterator[dict]:
    yield from race(context, "eager", lambda case, model: case.step(model), layers=8)


def race(context: Context, how: str, makes: Makes, layers: int) -> Iterator[dict]:
    """The steps in turns, in each precision while time is left."""
    for dtype in DTYPES:
        case = case_of(context, dtype, layers)
        name = f"{case}, {how}"
        if context.left() < LEAST:
            yield left_out(name, "no time was left")
        else:
            yield from guarded(name, _raced(context, name, case, makes))


def case_of(context: Context, dtype: torch.dtype, layers: int) -> Case:
    """A Llama as large as the GPU allows, or a tiny one for a rehearsal."""
    if context.gpu:
        large = torch.cuda.get_device_properties(0).total_memory >= LARGE
        width, rows, tokens = (2048, 8, 512) if large else (1024, 4, 256)
    else:
        width, layers, rows, tokens = 64, 1, 2, 8
    name = f"Llama of {layers} × {width} in {str(dtype).removeprefix('torch.')}, {rows} × {tokens} tokens"
    build = partial(built, context.device, width, layers)
    return Case(Model(name, build, rows, tokens, {"q, v": ("q_proj", "v_proj")}, context.device, dtype), "q, v", RANK)


def built(device, width, layers) -> nn.Module:
    """A Llama on ``device``, where its numbers are drawn, as a CPU would take seconds for them."""
    with torch.device(device):
        return llama(width, layers)


def _raced(context, name, case, makes):
    base, steps = case.base(), {}
    for who in WAYS:
        made = guarded(f"{name}, {who}", _keep_step(case, base, who, makes, steps), of_others=who != OURS)
        yield from made
    if OURS in steps:
        against = [(who, BOUND if who == LORA else None) for who in WAYS if who != OURS and who in steps]
        pairs = [Pair(f"{name}, beside {who}", OURS, who, bound) for who, bound in against]
        yield from figures(context, steps, pairs, ROUNDS)


def _keep_step(case, base, who, makes, steps):
    model = case.adapt(copy.deepcopy(base), who)
    step = makes(case, model)
    step()
    steps[who] = step
    yield from ()


def gradients_agree(name: str, case: Case, makes: Callable[[Callable, nn.Module], Callable]) -> Iterator[dict]:
    """θ's gradient as ``makes`` has it, of a loss and its model, against the eager one."""
    model = case.adapt(case.base(), OURS)
    theta = model.unilora.theta
    loss = case.loss(model)

    def backward(of=loss):
        theta.grad = None
        of().backward()

    backward()
    eager = theta.grad.clone()
    makes(backward, model)()
    off = float((theta.grad - eager).abs().max() / eager.abs().max())
    says = f"off by {off:.2g} of the largest entry, where {FAR} is allowed"
    yield finding(f"{name}: θ's gradient beside the eager one", PASSED if off <= FAR else FAILED, says)
