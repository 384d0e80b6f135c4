"""Modules above adapted weights: those that are parts of a call, and those that read the weight of another without calling it, as the mixers of Mamba do with that of their convolution."""

import inspect
import re
from collections.abc import Iterator
from functools import cache

from torch import nn

from unilora_spec import LayerMap

# What is read of a weight to look at it; everything else computes with it.
_LOOKS = "dtype|device|shape|size|dim|ndim|numel|requires_grad|is_floating_point|is_cuda|is_meta|element_size"
_READING = re.compile(rf"\bself\.(?:\w+\.)*(\w+)\.weight\b(?!\s*\.\s*(?:{_LOOKS})\b)")
# torch's encoder reads the weights of its layers on a fast path that it does not take where it sees a hook.
_EXEMPT = (nn.Module, nn.TransformerEncoder, nn.TransformerEncoderLayer, object)


def readers_of(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The modules above the one that owns the weight ``name`` that compute with ``self.….weight`` of it, as their source says."""
    *above, owner, parameter = ["", *name.split(".")]
    module = model
    for part in above:
        module = getattr(module, part, None) if part else model
        if module is None or parameter != "weight":
            return
        if owner in _read(type(module)):
            yield module


@cache
def _read(cls: type) -> frozenset[str]:
    """The names of modules whose weights the methods of a class compute with, those aside that give weights their start."""
    found = set()
    for each in cls.__mro__:
        if each in _EXEMPT:
            continue
        try:
            methods = re.split(r"\n    def (?=\w)", inspect.getsource(each))
        except (OSError, TypeError):  # made in a console, or built in
            continue
        for method in methods:
            if "init" not in method.partition("(")[0]:
                found |= set(_READING.findall(method))
    return frozenset(found)


def parts_of(model: nn.Module, layer_map: LayerMap) -> Iterator[nn.Module]:
    """The modules with adapted weights beneath them, from the model down to its lists of layers, which nobody calls."""
    for name in layer_map.by_weight():
        module = model
        for part in name.split(".")[:-2]:
            module = getattr(module, part, None)
            if module is None or isinstance(module, nn.ModuleList | nn.ModuleDict):
                break
            yield module
            if isinstance(module, nn.Sequential):
                break
