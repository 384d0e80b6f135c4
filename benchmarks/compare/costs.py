"""What a step takes, of all methods at one budget: its time, in turns with balanced's, and its memory."""

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
    """By method, ``time``, a step's beside balanced's, a line as ``measure.compared`` makes it, and ``memory``, the bytes of a
    step's peak above that of the head alone's. ``arguments`` are those of each method, these two among them."""
    _, base, head, data, task = prepared(SEED, scale, HELD_OUT)
    by_length = sorted(data.train["text"][:], key=len)
    middle = (len(by_length) - PROTOCOL["batch"]) // 2
    batch = dict(task.tokenize(by_length[middle:][: PROTOCOL["batch"]], padding=True, return_tensors="pt"))
    batch["labels"] = torch.arange(PROTOCOL["batch"]) % 2
    batch.pop("token_type_ids")  # of one sentence, all zero

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
        own = copy.deepcopy(base)  # before anything is counted
        return allocated(lambda: step(own, name))["peak"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, about what is meant here
        times = alternate({name: step(copy.deepcopy(base), name) for name in arguments}, repeats)
        least = peak(HEAD)
        return {
            name: {"time": compared(name, times[name], times[REFERENCE]), "memory": peak(name) - least}
            for name in arguments
        }
