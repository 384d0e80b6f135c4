"""Training steps in turns: the frozen base's, ours, PEFT UniLora's, PEFT LoRA's. Rows 6, 7, 8."""

from collections.abc import Callable

import torch
from torch import nn

from .measure import Rounds, alternate, compared, operators, row
from .models import D_TRAINED, LLAMA, LORA, MINILM, OURS, UNILORA, Case

CASES = {str(case): case for case in (Case(MINILM, "q, v", 4), Case(MINILM, "q, v", 64), Case(LLAMA, "q, v", 64))}
HOW = (
    "One step is forward, backward and AdamW on what is trained, without dropout, float32, all threads; the models"
    " take turns within each round, on one batch. Gradients flow through the whole depth for all of them"
    " (`enable_input_require_grads`), for the base's own step too, which trains nothing."
)
PRODUCTS = "the four products for the gradients of every A and B"


def training(rounds: Rounds) -> list[dict]:
    lines, profiles, sizes = {6: [], 7: [], 8: []}, {}, []
    for name, case in CASES.items():
        models = {how: case.adapt(case.base(), how) for how in ("base", OURS, UNILORA, LORA)}
        steps = {how: case.step(model) for how, model in models.items()}
        times = alternate(steps | {PRODUCTS: products(case, models[OURS])}, rounds(60))
        more = {how: times[how] - times["base"] for how in (OURS, UNILORA, LORA)}
        profile = f"{name}: our step less the base's"
        profiles[profile] = operators(steps[OURS], steps["base"], rounds(8))
        lines[6].append(compared(name, more[OURS], more[UNILORA], 0.6, profile=profile))
        lines[7].append(compared(name, more[OURS], more[LORA], 0.5 if case.rank < 64 else 1.0, profile=profile))
        lines[7].append(compared(f"{name}: {PRODUCTS}", times[PRODUCTS], more[LORA]))
        for peer, bound in ((UNILORA, 0.98), (LORA, 0.96)):
            lines[8].append(compared(f"{name}, {peer}", times[OURS], times[peer], bound, profile=profile))
        sizes.append(_size(case, models["base"]))
    how = f"{HOW} {' '.join(sizes)} θ has {D_TRAINED:,} numbers."
    less = "The base's step of the same round is taken off on both sides."
    floor = (
        f" A line beside each bound has {PRODUCTS}, measured by themselves in the same rounds: (x Aᵀ), gᵀ(x Aᵀ), g B,"
        " (g B)ᵀx. A step that takes gradients so, matrix by matrix, is longer than the base's by this at least. LoRA's step has"
        " these four, one more for the output, and one more for the gradient of x, so that at r = 64, where products are what"
        " costs, nothing takes half of its time, and the bound is 1."
    )
    rows = (
        (6, "The cost of adapting", "our step less the base's", "PEFT UniLora's", f"{how} {less}"),
        (7, "The cost of adapting, beside LoRA", "our step less the base's", "PEFT LoRA's", f"As row 6. {less}{floor}"),
        (8, "The whole step", "our step", "the peer's", "As row 6, with the base's step in it."),
    )
    return [row(*about, lines[about[0]], profiles=profiles) for about in rows]


def products(case: Case, model: nn.Module) -> Callable[[], None]:
    """The matrix products for the gradients of all A and B of ``model``, on random numbers of the batch's shape."""
    tokens, operands = case.model.rows * case.model.tokens, []
    for segment in model.unilora.layer_map.segments:
        shapes = {
            "x": (tokens, segment.in_features),
            "g": (tokens, segment.out_features),
            "A": (segment.rank, segment.in_features),
            "B": (segment.out_features, segment.rank),
        }
        operands.append({name: torch.randn(shape) for name, shape in shapes.items()})

    def run():
        for o in operands:
            o["g"].T @ (o["x"] @ o["A"].T)
            (o["g"] @ o["B"]).T @ o["x"]

    return run


def _size(case, model):
    config, count = model.config, sum(parameter.numel() for parameter in model.parameters())
    return (
        f"{case}: {config.num_hidden_layers} layers of width {config.hidden_size}, {count / 1e6:.0f} M parameters,"
        f" {case.model.rows} × {case.model.tokens} tokens."
    )
