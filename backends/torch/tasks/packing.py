"""Packs several short rows into one, where none sees another: positions begin anew with each, and transformers makes
the mask of them.

transformers does so where it gets positions, no mask and no cache (``transformers.masking_utils``). Models that hand a
state from token to token, or take no positions, cannot hold rows apart; ``check_apart`` finds them.
"""

import bisect
import inspect
from collections import defaultdict
from collections.abc import Sequence

import datasets
import numpy as np
import torch

from unilora_spec import UniLoraError

from ...rows.order import longest_first
from ...tasks.losses import NOT_LEARNED


def packed(rows: datasets.Dataset, most: int) -> datasets.Dataset:
    """Packs ``rows`` into rows of at most ``most`` tokens: the longest first, each where it leaves the least room (best
    fit, decreasing).

    The column ``lengths`` has the number of tokens of each row in a pack. The first token of a row is not learned.
    """
    columns = {name: list(map(np.array, rows[name])) for name in ("input_ids", "labels")}
    lengths = list(map(len, columns["input_ids"]))
    # All packs; the packs by the room that is left in them; these rooms in order.
    packs, with_room, rooms = [], defaultdict(list), []
    for row in longest_first(lengths):
        place = bisect.bisect_left(rooms, lengths[row])
        if place < len(rooms):
            room = rooms[place]
            pack = with_room[room].pop()
            if not with_room[room]:
                del rooms[place]
        else:
            room, pack = most, []
            packs.append(pack)
        pack.append(row)
        room -= lengths[row]
        if not with_room[room]:
            bisect.insort(rooms, room)
        with_room[room].append(pack)
    for labels in columns["labels"]:
        labels[0] = NOT_LEARNED
    made = {name: [np.concatenate([cells[row] for row in pack]) for pack in packs] for name, cells in columns.items()}
    return datasets.Dataset.from_dict(made | {"lengths": [[lengths[row] for row in pack] for pack in packs]})


def as_batch(packs: Sequence[dict], padding: int) -> dict[str, torch.Tensor]:
    """The model's inputs and ``labels``, int64 (packs, longest), without a mask. Padding is held apart as a row of its
    own."""
    longest = max(len(pack["input_ids"]) for pack in packs)
    batch = {"input_ids": [], "position_ids": [], "labels": []}
    for pack in packs:
        room = longest - len(pack["input_ids"])
        batch["input_ids"].append([*pack["input_ids"], *[padding] * room])
        batch["labels"].append([*pack["labels"], *[NOT_LEARNED] * room])
        batch["position_ids"].append([place for length in (*pack["lengths"], room) for place in range(length)])
    return {name: torch.tensor(cells) for name, cells in batch.items()}


def check_apart(task, model) -> None:
    """Runs ``model`` on two short rows in one pack, and raises ``UniLoraError`` where the losses of the second depend
    on the first.

    Masked tokens have a gradient of exactly zero, however the rest is rounded. By itself, a row has the same losses up
    to rounding, as it is computed in other shapes.
    """
    name = type(model).__name__
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise UniLoraError(f"{name} takes no positions, so that rows cannot be held apart in it; leave --packing out")
    words = model.config.get_text_config().vocab_size
    before, row = ([(start + place) % words for place in range(8)] for start in (3, 17))
    embedded = []

    def record_embedded(module, inputs, output):
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    def losses(*rows):
        ids = [token for ids in rows for token in ids]
        labels = [NOT_LEARNED] * (len(ids) - 7) + ids[-7:]
        pack = {"input_ids": ids, "labels": labels, "lengths": list(map(len, rows))}
        batch = {key: value.to(model.device) for key, value in as_batch([pack], 0).items()}
        return task.loss(model, batch)[1].values

    hook = model.get_input_embeddings().register_forward_hook(record_embedded)
    try:
        behind, alone = losses(before, row), losses(row)
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(behind.sum(), embedded[0])
    rounding = torch.finfo(model.dtype).eps ** 0.5
    if gradient[:, : len(before)].any() or not torch.allclose(behind, alone, rtol=rounding, atol=rounding):
        raise UniLoraError(f"{name} cannot hold packed rows apart: a row sees those before it; leave --packing out")
