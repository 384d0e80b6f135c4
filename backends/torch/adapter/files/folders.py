"""Folders that ``save_pretrained`` of an adapted model writes: the base as it was, and the adapter as ``unilora.safetensors``.

Once a model of transformers, diffusers or sentence-transformers has been adapted in a process, its library loads the
base of such a folder with the adapter on it. In another process it loads the base alone, and ``load_adapter(model,
folder)`` puts the adapter on.
"""

import functools
import inspect
import sys
from pathlib import Path

from torch import nn

from unilora_spec import UniLoraError, load_adapter, save_adapter
from unilora_spec.base_model import read_file

from ..targets.names import parameters
from ..theta.vector import THETA

FILE = "unilora.safetensors"
# For each library, the module and the class of its models, and the method that makes a model of a folder. (Naming transformers itself would
# import the module, which takes seconds.)
_LIBRARIES = (
    ("transformers.modeling_utils", "PreTrainedModel", "from_pretrained"),
    ("diffusers", "ModelMixin", "from_pretrained"),
    ("sentence_transformers.base.model", "BaseModel", "__init__"),
)
_MODULES = "modules.json"  # of a folder of sentence-transformers


def save_pretrained(unilora, folder, *args, **named):
    """Takes the place of an adapted model's ``save_pretrained``, with the same arguments.

    A trainer of transformers, which gives ``is_main_process`` and no state, gets a checkpoint of what is trained.
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
        save_adapter(adapter, Path(folder) / FILE)
    return result


def read_adapters(model: nn.Module, put_on) -> None:
    """Makes the library of ``model`` read the adapter in a folder when it loads a model from there; ``put_on(model,
    file)`` loads it."""
    makers = [(getattr(sys.modules[library], name), how) for library, name, how in _LIBRARIES if library in sys.modules]
    if not isinstance(model, tuple(cls for cls, _ in makers)):
        return
    for cls, how in makers:
        own = inspect.getattr_static(cls, how)
        own = getattr(own, "__func__", own)
        if not hasattr(own, "reads_adapters"):
            wrapped = (
                _init_with_adapter(own, put_on) if how == "__init__" else _from_pretrained_with_adapter(own, put_on)
            )
            wrapped.reads_adapters = True
            setattr(cls, how, wrapped if how == "__init__" else classmethod(wrapped))


def _from_pretrained_with_adapter(own, put_on):
    @functools.wraps(own)
    def from_pretrained(cls, name=None, *args, **named):
        folder = Path(str(name), named.get("subfolder") or "")
        _refuse_checkpoint(folder)
        loaded = own(cls, name, *args, **named)
        model, file = loaded[0] if isinstance(loaded, tuple) else loaded, folder / FILE
        if file.is_file() and not ((folder / _MODULES).is_file() and _is_of_another(file, model)):
            put_on(model, file)
        return loaded

    return from_pretrained


def _init_with_adapter(own, put_on):
    """``own`` of sentence-transformers, then ``put_on``, unless ``from_pretrained`` has already given the encoder
    within an adapter."""

    @functools.wraps(own)
    def __init__(self, model_name_or_path=None, *args, **named):
        own(self, model_name_or_path, *args, **named)
        file = Path(str(model_name_or_path), FILE)
        if file.is_file() and not any(hasattr(module, "unilora") for module in self.modules()):
            put_on(self, file)

    return __init__


def _is_of_another(file, model) -> bool:
    """Whether the adapter in ``file`` is that of the model around this one: none of its weights is this model's."""
    return not load_adapter(file).layer_map.by_weight().keys() & parameters(model).keys()


def _refuse_checkpoint(folder):
    """Raises ``UniLoraError`` for a trainer's checkpoint that holds only what was trained: the rest of the model would
    be random."""
    try:
        names = read_file(folder / "model.safetensors")[0]
    except (UniLoraError, OSError):
        return
    if THETA in names:
        raise UniLoraError(
            f"{folder} is the checkpoint of an adapter, and holds no base; load the base, and then load_adapter(model, {str(folder)!r})"
        )
