"""The same on a GPU, when there is one. Row 13."""

import torch

from backends.torch.adapter.theta.expansion import storage_of
from unilora_spec import Projection

from .measure import Rounds, alternate, compared, operators, row
from .models import D_TRAINED, LLAMA_ON_GPU, LORA, OURS, Case
from .projection import SEED, SIZES, D, d

CASE = Case(LLAMA_ON_GPU, "q, v", 64)
ABOUT = 13, "On a GPU", "expand, and our training step", "a copy of D floats, and PEFT LoRA's step"


def on_gpu(rounds: Rounds) -> list[dict]:
    if not torch.cuda.is_available():
        return [row(*ABOUT, "", [], absent="No GPU was there, and nothing of this row was measured.")]
    theta, x = (torch.randn(count, device="cuda") for count in (d, D))
    ways = {name: storage_of(Projection(D=D, d=d, seed=SEED), "cuda", name) for name in ("computed", "cached")}
    expansions = {name: finished(lambda storage=storage: storage.expand(theta)) for name, storage in ways.items()}
    with torch.no_grad():
        times = alternate(expansions | {"copy": finished(x.clone)}, rounds(200))
        profiles = {
            f"Expand on a GPU, {name}": operators(step, None, rounds(20), on_gpu=True)
            for name, step in expansions.items()
        }
    lines = [
        compared(f"expand, {name}", times[name], times["copy"], 1.2, profile=f"Expand on a GPU, {name}")
        for name in ways
    ]
    steps = {how: finished(CASE.step(CASE.adapt(CASE.base(), how))) for how in ("base", OURS, LORA)}
    times, name = alternate(steps, rounds(50)), f"{CASE}: our step less the base's"
    profiles[name] = operators(steps[OURS], steps["base"], rounds(5), on_gpu=True)
    lines.append(compared(f"step, {CASE}", times[OURS], times[LORA], 1.02, profile=name))
    how = (
        f"{torch.cuda.get_device_name()}. Expand: {SIZES}, float32, against `x.clone()`. Step: {CASE.model.rows} ×"
        f" {CASE.model.tokens} tokens, {D_TRAINED:,} numbers of θ. Each time is from a GPU at rest to a GPU at rest."
    )
    return [row(*ABOUT, how, lines, profiles=profiles)]


def finished(step):
    """``step``, and a wait until the GPU has done it."""

    def run():
        step()
        torch.cuda.synchronize()

    return run
