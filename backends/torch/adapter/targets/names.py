"""The names of a model's parts as its base has them, without the parts that wrappers of the model or of a module add.

``torch.compile`` and a checkpoint wrapper put a module around another one, and a part such as ``_orig_mod`` into the
names of everything below it. A file with such names would fit no plain base, so that all names here and in the file are
those without them.
"""

import sys
from collections.abc import Iterator

from torch import nn

from unilora_spec import LayerMapError

# Wrapper classes by module and name, each with the attribute that holds what it wraps. They are looked up only in
# modules that are imported already: elsewhere no such object can exist, and the imports take time.
_LEFT_OUT = {
    ("torch._dynamo.eval_frame", "OptimizedModule"): "_orig_mod",
    ("torch.distributed.algorithms._checkpoint.checkpoint_wrapper", "ActivationWrapper"): "_checkpoint_wrapped_module",
}
_REFUSED = (
    ("torch.nn.parallel.distributed", "DistributedDataParallel"),
    ("torch.nn.parallel.data_parallel", "DataParallel"),
    ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel"),
    ("torch.optim.swa_utils", "AveragedModel"),
    ("peft.peft_model", "PeftModel"),
    ("peft.tuners.tuners_utils", "BaseTuner"),
    ("peft.tuners.tuners_utils", "BaseTunerLayer"),
    ("peft.utils.other", "AuxiliaryTrainingWrapper"),
)
_PARTS = {*_LEFT_OUT.values(), "_fsdp_wrapped_module"}
_FIRST_PARTS = ("module.", "base_model.model.")  # DistributedDataParallel's and PEFT's


def unwrapped(model: nn.Module) -> nn.Module:
    """The model that ``torch.compile`` or a checkpoint wrapper has wrapped, or ``model`` itself where nothing wraps it.

    Raises ``LayerMapError`` where the model, or any part of it, is one that an adapter cannot be attached to: wrapped by
    DistributedDataParallel, DataParallel, FSDP1 or AveragedModel, or adapted by PEFT.
    """
    modules = named_modules(model)
    _, inner = next(modules)
    for _ in modules:  # the walk raises where a part cannot be adapted
        pass
    return inner


def modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by each of its names: the model has the name "", a module in two places has two names, a wrapper has
    none.

    Raises ``LayerMapError`` as ``unwrapped`` does.
    """
    return dict(named_modules(model))


def parameters(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """The module and key of every parameter, by each of its names: the parameter is ``module._parameters[key]``.

    A tied parameter stands under all of its names. Raises ``LayerMapError`` as ``unwrapped`` does.

    >>> list(parameters(nn.Sequential(nn.Linear(2, 2), nn.ReLU())))
    ['0.weight', '0.bias']
    """
    return {
        joined(name, key): (module, key)
        for name, module in named_modules(model)
        for key, parameter in module._parameters.items()
        if parameter is not None
    }


def first_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter once, by the first of its names. Raises ``LayerMapError`` as ``unwrapped`` does."""
    first = {}
    for name, (module, key) in parameters(model).items():
        first.setdefault(id(module._parameters[key]), (name, module._parameters[key]))
    return dict(first.values())


def named_modules(model: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yields the entries of ``modules``, each module before those that it holds. Nothing is computed: the ``weight`` of
    a parametrized module is not read."""
    left_out, refused = _present(_LEFT_OUT), tuple(_present(_REFUSED))
    waiting = [(name, model)]
    while waiting:
        name, module = waiting.pop()
        while kind := next((kind for kind in left_out if isinstance(module, kind)), None):
            module = module._modules[left_out[kind]]
        if isinstance(module, refused):
            where = f"{name} is" if name else "the model is"
            raise LayerMapError(f"{where} a {type(module).__name__}; attach to the plain model first, then wrap it")
        yield name, module
        waiting += [(joined(name, key), child) for key, child in reversed(module._modules.items()) if child is not None]


def base_name(name: str) -> str:
    """A name without the parts that wrappers add, including wrappers that an adapter cannot be attached to.

    >>> base_name("_orig_mod.layer.0._checkpoint_wrapped_module.query")
    'layer.0.query'
    >>> base_name("base_model.model.layer.0.query")
    'layer.0.query'
    """
    for first in _FIRST_PARTS:
        name = name.removeprefix(first)
    return without_wrappers(name)


def without_wrappers(name: str) -> str:
    """A name in a model's state without the parts that wrappers add."""
    return ".".join(part for part in name.split(".") if part not in _PARTS)


def joined(name: str, key: str) -> str:
    """The name of the parameter or module that the module ``name`` holds under ``key``."""
    return f"{name}.{key}" if name else key


def _present(classes):
    """The classes whose modules are imported, each with the attribute that holds what it wraps, or None."""
    found = {}
    for place in classes:
        of_module, of_class = place
        if of_module in sys.modules and hasattr(sys.modules[of_module], of_class):
            found[getattr(sys.modules[of_module], of_class)] = classes[place] if isinstance(classes, dict) else None
    return found
