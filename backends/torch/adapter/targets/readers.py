"""Finds modules above adapted weights: those by which calls come in, and those that read another module's weight
without calling it, as Mamba's mixers read that of their convolution."""

import inspect
import linecache
import re
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType

from torch import nn

from unilora_spec import LayerMap

# Attributes that only look at a weight; everything else computes with it.
_LOOKS = "dtype|device|shape|size|dim|ndim|numel|requires_grad|is_floating_point|is_cuda|is_meta|element_size"
_READING = re.compile(rf"\bself\.(?:\w+\.)*(\w+)\.weight\b(?!\s*\.\s*(?:{_LOOKS})\b)")
# torch's encoder reads the weights of its layers on a fast path that it does not take where it sees a hook.
_EXEMPT = (nn.Module, nn.TransformerEncoder, nn.TransformerEncoderLayer, object)


def readers_of(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """Yields the modules above the owner of the weight ``name`` whose source computes with its ``self.….weight``."""
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
    """The names of modules whose weights the methods of a class compute with; methods that initialize weights do not
    count."""
    found = set()
    for each in cls.__mro__:
        if each not in _EXEMPT:
            for function in _functions(each):
                if "init" not in function.__name__:
                    found |= set(_READING.findall(_source(function)))
    return frozenset(found)


def parts_of(model: nn.Module, layer_map: LayerMap) -> Iterator[nn.Module]:
    """Yields the modules with adapted weights beneath them, from the model down to its lists of layers, which are not
    called."""
    for name in layer_map.by_weight():
        module = model
        for part in name.split(".")[:-2]:
            module = getattr(module, part, None)
            if module is None or isinstance(module, nn.ModuleList | nn.ModuleDict):
                break
            yield module
            if isinstance(module, nn.Sequential):
                break


def _functions(cls) -> Iterator[FunctionType]:
    """Yields the functions that a class itself defines, unwrapped from decorators that say what they wrap."""
    for value in vars(cls).values():
        value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        value = inspect.unwrap(value) if callable(value) else value
        if isinstance(value, FunctionType):
            yield value


def _source(function) -> str:
    """The source lines that a function runs; "" where its file is not there. inspect.getsource would parse the whole
    file, which takes a second for a model's."""
    file = linecache.getlines(function.__code__.co_filename, function.__globals__)
    return "".join(file[number - 1] for number in sorted(_numbers(function.__code__)) if number <= len(file))


def _numbers(code: CodeType) -> set[int]:
    within = [_numbers(const) for const in code.co_consts if isinstance(const, CodeType)]
    return {number for _, _, number in code.co_lines() if number}.union(*within)
