"""Measures what a step of each method takes at one budget: its time, in turns with balanced's, and its memory."""

import copy
import warnings
from collections.abc import Callable

import torch
import transformers

from ..measure import Repeats, alternate, compared
from ..memory import allocated
from .method import HEAD, REFERENCE
from .methods import METHODS
from .runs import HELD_OUT, PROTOCOL, Scale, prepared, trained

SEED, ROUNDS = 0, 10


def costs(arguments: dict[str, dict], scale: Scale, repeats: Repeats) -> dict[str, dict]:
    """For each method ``time``, the time of a step beside balanced's as a line of ``measure.compared``, and ``memory``, the bytes by which
    the peak of a step is above that of the head alone. ``arguments`` has those of each method, these two among them."""
    _, base, head, data, task = prepared(SEED, scale, HELD_OUT)
    by_length = sorted(data.train["text"][:], key=len)
    middle = (len(by_length) - PROTOCOL["batch"]) // 2
    batch = dict(task.tokenize(by_length[middle:][: PROTOCOL["batch"]], padding=True, return_tensors="pt"))
    batch["labels"] = torch.arange(PROTOCOL["batch"]) % 2
    batch.pop("token_type_ids")  # all zero, as each row is one sentence

    def step(base, name) -> Callable[[], None]:
        transformers.set_seed(SEED)
        model = METHODS[name].adapt(base, arguments[name], SEED, head).train()
        optimizer = torch.optim.AdamW([parameter for some in trained(model) for parameter in some.values()])

        def run():
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    def peak(name):
        own = copy.deepcopy(base)  # copied before memory is counted
        return allocated(lambda: step(own, name))["peak"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns about what is intended here
        times = alternate({name: step(copy.deepcopy(base), name) for name in arguments}, repeats)
        least = peak(HEAD)
        return {
            name: {"time": compared(name, times[name], times[REFERENCE]), "memory": peak(name) - least}
            for name in arguments
        }
