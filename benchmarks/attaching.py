"""What it takes to put an adapter on a model: bytes that stand for P, and time. Rows 1 and 3."""

from functools import partial

from backends.torch import attach

from .measure import Rounds, alternate, compared, functions, row
from .models import D_TRAINED, MINILM, OURS, SEED, UNILORA, Case

Q_V, ALL_LINEAR = Case(MINILM, "q, v", 64), Case(MINILM, "all linear layers", 64)


def bytes_held(rounds: Rounds) -> list[dict]:
    targets = MINILM.targets[Q_V.targets]
    ours = {
        name: attach(Q_V.base(), Q_V.rank, D_TRAINED, SEED, targets, storage=name).unilora
        for name in ("computed", "cached")
    }
    entries = ours["cached"].projection.D
    peft = Q_V.adapt(Q_V.base(), UNILORA)
    tables = [table for name, table in peft.named_buffers() if "unilora_indices" in name or "unilora_scales" in name]
    theirs = sum(table.nbytes for table in tables) / entries
    lines = [
        compared(f"P {name}", [one.storage.nbytes / entries], [theirs], bound, unit="bytes an entry", bounds="measured")
        for (name, one), bound in zip(ours.items(), (0, 4))
    ]
    how = (
        f"{Q_V}, D = {entries:,}, d = {D_TRAINED:,}, as they are after `attach` and `get_peft_model`. Counted are the"
        " arrays with an entry for each of θ_D: ours the index, where it is cached; PEFT's the indices and scales"
        " among the model's buffers. One scale for each number of θ, which we have in both, is no such array."
    )
    return [row(1, "Memory for P", "bytes held for each LoRA entry", "PEFT UniLora", how, lines)]


def attaching(rounds: Rounds) -> list[dict]:
    lines, profiles = [], {}
    for case in (Q_V, ALL_LINEAR):
        line, profile = _attached(case, rounds)
        lines.append(line)
        profiles[line["profile"]] = profile
    how = f"d = {D_TRAINED:,}; a model loaded anew for each, outside of the time."
    about = "Attach to a model", "`attach`, P cached", "PEFT UniLora, `get_peft_model`"
    return [row(3, *about, how, lines, profiles=profiles)]


def _attached(case, rounds):
    steps = {how: partial(case.adapt, how=how) for how in (OURS, UNILORA)}
    times = alternate(steps, rounds(15), prepare=lambda: (case.base(),))
    line = compared(str(case), times[OURS], times[UNILORA], 0.2, profile=f"Attach, {case}")
    return line, functions(partial(steps[OURS], case.base()))
