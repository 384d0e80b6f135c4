"""What a model of transformers has beside its base model and the base's checkpoint lacks: a head with random values."""

import sys
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from unilora_spec import UniLoraError
from unilora_spec.base_model import tensors_of

from ..targets.names import first_parameters


def lacking(model: nn.Module) -> list[str]:
    """The names of the parameters outside of the base model that no file of the checkpoint has, by the folder or id that the model
    was loaded from; none where that is not known, or its files are not here or not .safetensors."""
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel) or not model.name_or_path:
        return []
    prefix = model.base_model_prefix
    if not prefix or not isinstance(getattr(model, prefix, None), nn.Module):
        return []
    # By their first names, as one that is tied to the base model is none of a head's.
    heads = [name for name in first_parameters(model) if not name.startswith(f"{prefix}.") and "." in name]
    if not heads or not (stored := _stored(model.name_or_path)):
        return []
    endings = {ending for name in stored for ending in _endings(name)}
    return [name for name in heads if name not in endings and not any(ending in stored for ending in _endings(name))]


def _endings(name) -> Iterator[str]:
    """A name without the parts before it, one by one; of two parts at least, as a "weight" is everywhere."""
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
    """The folder of a hub id in the cache, looked at and never fetched."""
    from transformers.utils import cached_file

    try:
        file = cached_file(identity, "config.json", local_files_only=True)
    except (OSError, ValueError):
        return None
    return Path(file).parent if file else None
