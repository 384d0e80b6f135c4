"""Folders that ``save_pretrained`` of an adapted model writes: the base as it was, and the adapter as ``unilora.safetensors``.

``from_pretrained`` of transformers and diffusers gives the base of such a folder with the adapter on it, once a model has been adapted in
this process; elsewhere it gives the base alone, and ``load_adapter(model, folder)`` the rest.
"""

import functools
import sys
from pathlib import Path

from torch import nn

from unilora_spec import UniLoraError
from unilora_spec.base_model import read_file

from .vector import THETA

FILE = "unilora.safetensors"
_LIBRARIES = (("transformers", "PreTrainedModel"), ("diffusers", "ModelMixin"))


def save_pretrained(unilora, folder, *args, **named):
    """What ``save_pretrained`` of an adapted model does; arguments are those of the model's own.

    A trainer of transformers, which says ``is_main_process`` and gives no state, gets a checkpoint of what is trained.
    """
    model, own = unilora.model, type(unilora.model).save_pretrained
    is_checkpoint = "is_main_process" in named and named.get("state_dict") is None
    if is_checkpoint or unilora.in_parts:
        return own(model, folder, *args, **named)
    unilora.refuse_merged()
    unilora.structure.check()
    adapter = unilora.adapter()  # before anything is written: it may be refused
    named.pop("state_dict", None)  # the trained state, which is not the base's
    with unilora.state.of_the_base():
        result = own(model, folder, *args, **named)
    if named.get("is_main_process", True):
        from unilora_spec import save_adapter

        save_adapter(adapter, Path(folder) / FILE)
    return result


def read_adapters(model: nn.Module, put_on) -> None:
    """Lets ``from_pretrained`` of the library that a model comes from read the adapter in a folder; ``put_on(model, file)`` loads it."""
    for library, name in _LIBRARIES:
        base = getattr(sys.modules.get(library), name, None)
        if base is not None and isinstance(model, base) and not hasattr(base.from_pretrained, "reads_adapters"):
            base.from_pretrained = classmethod(_reading(base.from_pretrained.__func__, put_on))


def _reading(own, put_on):
    @functools.wraps(own)
    def from_pretrained(cls, name=None, *args, **named):
        folder = Path(str(name), named.get("subfolder") or "")
        _refuse_checkpoint(folder)
        loaded = own(cls, name, *args, **named)
        if (folder / FILE).is_file():
            put_on(loaded[0] if isinstance(loaded, tuple) else loaded, folder / FILE)
        return loaded

    from_pretrained.reads_adapters = True
    return from_pretrained


def _refuse_checkpoint(folder):
    """Raises ``UniLoraError`` for a trainer's checkpoint of what was trained alone: the rest of the model would be random."""
    try:
        names = read_file(folder / "model.safetensors")[0]
    except (UniLoraError, OSError):
        return
    if THETA in names:
        raise UniLoraError(
            f"{folder} is the checkpoint of an adapter, and holds no base; load the base, and then load_adapter(model, {str(folder)!r})"
        )
