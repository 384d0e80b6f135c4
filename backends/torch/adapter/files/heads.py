"""Finds parameters that a model of transformers has beside its base model and the checkpoint lacks: a head with random
values."""

import sys
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from unilora_spec import UniLoraError
from unilora_spec.base_model import tensors_of

from ..targets.names import first_parameters


def lacking(model: nn.Module) -> list[str]:
    """The names of the parameters outside of the base model that the checkpoint lacks, which is looked up by the folder
    or id that the model was loaded from. Empty where that is unknown, and where its files are not on this machine or
    not .safetensors."""
    transformers = sys.modules.get("transformers.modeling_utils")  # without it no model is of its class
    if transformers is None or not isinstance(model, transformers.PreTrainedModel) or not model.name_or_path:
        return []
    prefix = model.base_model_prefix
    if not prefix or not isinstance(getattr(model, prefix, None), nn.Module):
        return []
    # By their first names, as a parameter that is tied to the base model does not belong to a head.
    heads = [name for name in first_parameters(model) if not name.startswith(f"{prefix}.") and "." in name]
    if not heads or not (stored := _stored(model.name_or_path)):
        return []
    endings = {ending for name in stored for ending in _endings(name)}
    return [name for name in heads if name not in endings and not any(ending in stored for ending in _endings(name))]


def _endings(name) -> Iterator[str]:
    """The ends of a name, from the whole name to its last two parts: the last part alone, such as "weight", is in every
    model."""
    parts = name.split(".")
    for first in range(max(1, len(parts) - 1)):
        yield ".".join(parts[first:])


def _stored(where: str) -> set[str]:
    folder = Path(where) if Path(where).is_dir() else _in_cache(where)
    try:
        return set(tensors_of(folder)) if folder else set()
    except (UniLoraError, OSError):
        return set()


def _in_cache(identity):
    """The folder of a hub id in the cache, or None where it is not there: nothing is fetched."""
    from transformers.utils import cached_file

    try:
        file = cached_file(identity, "config.json", local_files_only=True)
    except (OSError, ValueError):
        return None
    return Path(file).parent if file else None
