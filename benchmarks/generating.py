"""What a generated token costs while the adapter acts beside the weights, unmerged: the base's, ours, PEFT LoRA's. Row 15."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from transformers import DynamicCache

from .measure import Rounds, alternate, compared, operators, row
from .models import LORA, OURS, SEED, Case, Model, llama

LAYERS = {"q, v": ("q_proj", "v_proj")}
LAYERS["all linear layers"] = (*LAYERS["q, v"], "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BOUND = 1.1
PROMPT = 32


def generating(rounds: Rounds) -> list[dict]:
    lines, profiles = [], {}
    for dtype in (torch.float32, torch.bfloat16):
        for texts in (1, 4):
            model = Model(_name(dtype, texts), partial(llama, 512, 16), texts, 1, LAYERS, dtype=dtype)
            for targets in LAYERS if texts == 1 else ("q, v",):
                case = Case(model, targets, 4)
                line, profile = _of_case(case, rounds, BOUND if texts == 1 else None)
                lines += line
                profiles[str(case)] = profile
    how = (
        f"A Llama of 16 layers of width 512. One step is a forward of one token of each text after {PROMPT} others, with a cache"
        " of keys and values, in inference mode; nothing is merged. The bound is for one text;"
        " PEFT LoRA's token stands beside it."
    )
    about = "A generated token", "a token with the adapter", "the base's"
    return [row(15, *about, how, lines, profiles=profiles)]


def _of_case(case, rounds, bound):
    steps = {how: token(case, case.adapt(case.base(), how)) for how in ("base", OURS, LORA)}
    times = alternate(steps, rounds(100))
    lines = [
        compared(str(case), times[OURS], times["base"], bound, profile=str(case)),
        compared(f"{case}: {LORA}", times[LORA], times["base"]),
    ]
    return lines, operators(steps[OURS], steps["base"], rounds(8))


def token(case: Case, model: nn.Module) -> Callable[[], None]:
    """The next token of each text, whose cache is afterwards as it was."""
    random = torch.Generator().manual_seed(SEED)
    ids = torch.randint(1000, 8000, (case.model.rows, PROMPT + 1), generator=random)
    cache = DynamicCache()
    run = torch.inference_mode()(partial(model, past_key_values=cache, use_cache=True))
    run(input_ids=ids[:, :PROMPT])

    def step():
        run(input_ids=ids[:, PROMPT:])
        cache.crop(-1)

    return step


def _name(dtype, texts):
    return f"{str(dtype).removeprefix('torch.')}, {texts} text{'s' * (texts > 1)}"
