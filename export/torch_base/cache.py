"""A decoder's cache of keys and values as plain tensors: ``past_key_values.0.key`` in, ``present.0.key`` out.

These are the names that other exporters and runtimes of decoders use; each tensor is (batch, heads, positions, head size).
A layer keeps all positions here, also one that attends to a window of them: the mask leaves out what is too far back.
"""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from unilora_spec import UniLoraError

if TYPE_CHECKING:  # elsewhere where it is used, as a module of one's own is exported without transformers
    from transformers.cache_utils import DynamicCache

PAST, PRESENT = "past_key_values", "present"


def split(model, batch: Mapping[str, torch.Tensor], past: int) -> dict[str, torch.Tensor]:
    """Whole sequences as what follows the first ``past`` positions, and the cache that the model makes of these.

    Raises ``UniLoraError`` for a model whose cache is not keys and values of a decoder.
    """
    takes = inspect.signature(model.forward).parameters
    cache = _empty(model, takes)
    ids = batch["input_ids"]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **batch}
    mask = batch["attention_mask"]
    if "position_ids" in takes:
        batch["position_ids"] = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)  # as transformers' generate counts
    some = max(past, 1)  # no model runs on nothing
    model(**{name: value[:, :some] for name, value in batch.items()}, past_key_values=cache, use_cache=True)
    if not cache.layers:
        raise _refused(model)
    after = {name: value[:, past:] for name, value in batch.items()}
    before = {name: value[:, :, :past] for name, value in flat(cache, PAST).items()}
    return {**after, "attention_mask": mask, **before}


def _empty(model, takes):
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    config = getattr(model, "config", None)
    if PAST not in takes or "input_ids" not in takes or config is None or config.is_encoder_decoder:
        raise _refused(model)
    if getattr(config, "is_decoder", None) is False and not model.can_generate():  # an encoder that could be a decoder
        raise _refused(model)
    if {type(layer) for layer in DynamicCache(config=config).layers} - {DynamicLayer, DynamicSlidingWindowLayer}:
        raise _refused(model)
    return DynamicCache()


def _refused(model):
    return UniLoraError(
        f"{type(model).__name__} has no cache of keys and values alone, as most decoders have; export it without a past"
    )


def flat(cache: "DynamicCache", prefix: str) -> dict[str, torch.Tensor]:
    """The tensors of a cache by name."""
    layers = ((i, (("key", layer.keys), ("value", layer.values))) for i, layer in enumerate(cache.layers))
    return {f"{prefix}.{i}.{part}": tensor for i, parts in layers for part, tensor in parts}


def cache_of(batch: Mapping[str, torch.Tensor]) -> "DynamicCache":
    """The cache whose tensors are in a batch."""
    from transformers.cache_utils import DynamicCache

    layers = sum(name.startswith(f"{PAST}.") for name in batch) // 2
    return DynamicCache([(batch[f"{PAST}.{i}.key"], batch[f"{PAST}.{i}.value"]) for i in range(layers)])
