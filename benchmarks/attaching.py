"""What it takes to put an adapter on a model: bytes that stand for P, and time. Rows 1, 3 and 14."""

import gc
import itertools
import tempfile
from functools import partial
from pathlib import Path

from backends.torch import attach

from . import peers
from .measure import Rounds, alternate, compared, functions, row
from .models import D_TRAINED, LORA, MINILM, OURS, SEED, UNILORA, Case

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

    def alone():
        gc.collect()  # a model of a round before would share its P
        return (case.base(),)

    times = alternate(steps, rounds(15), prepare=alone)
    line = compared(str(case), times[OURS], times[UNILORA], 0.2, profile=f"Attach, {case}")
    return line, functions(partial(steps[OURS], case.base()))


def switching(rounds: Rounds) -> list[dict]:
    ours, theirs = ALL_LINEAR.adapt(ALL_LINEAR.base(), OURS), ALL_LINEAR.adapt(ALL_LINEAR.base(), LORA)
    theirs.add_adapter("b", peers.lora_config(ALL_LINEAR.rank, MINILM.targets[ALL_LINEAR.targets]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "b.unilora")
        ours.save_adapter(path)
        ours.unilora.add_adapter("b", path)
        by_name, of_lora = itertools.cycle(["b", "default"]), itertools.cycle(["b", "default"])
        steps = {
            "`set_adapter`, in memory": lambda: ours.unilora.set_adapter(next(by_name)),
            "`load_adapter`, from a file": lambda: ours.load_adapter(path),
            LORA: lambda: theirs.set_adapter(next(of_lora)),
        }
        times = alternate(steps, rounds(50))
    against = times.pop(LORA)
    lines = [compared(f"{name}, {ALL_LINEAR}", of, against) for name, of in times.items()]
    how = (
        f"d = {D_TRAINED:,}, one projection and layer map; the base's weights have been fingerprinted by the first load. PEFT's is"
        " `set_adapter` between two LoRA adapters in memory, for a file as well."
    )
    return [
        row(14, "Switch to another adapter", "`set_adapter` and `load_adapter`", "PEFT LoRA, `set_adapter`", how, lines)
    ]
