"""The names of a model's parts as its base has them: what wraps the model, or a part of it, is left out.

``torch.compile`` and a checkpoint wrapper put a module around another one, and a part such as ``_orig_mod`` into the names of all that
is below. A file with such names would fit no plain base, so that everything here and in the file goes by the names without them.
"""

import sys
from collections.abc import Iterator

from torch import nn

from unilora_spec import LayerMapError

# Class by module and name, and the attribute that holds what it wraps. The modules are looked at where they are imported already: no
# object of theirs exists where they are not, and each takes its time to import.
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
    """The model inside of what ``torch.compile`` or a checkpoint wrapper has put around it, or ``model`` itself.

    Raises ``LayerMapError`` where the model, or any part of it, is one that an adapter cannot be attached to: wrapped by
    DistributedDataParallel, DataParallel, FSDP1 or AveragedModel, or adapted by PEFT.
    """
    modules = named_modules(model)
    _, inner = next(modules)
    for _ in modules:  # the walk refuses
        pass
    return inner


def modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by each of its names: the model is "", a module that stands in two places has two, a wrapper none.

    Raises ``LayerMapError`` as ``unwrapped`` does.
    """
    return dict(named_modules(model))


def parameters(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Of every parameter, by each of its names, the module that owns it and its key there: ``module._parameters[key]``.

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
    """``modules`` one by one, each before what it holds. It computes nothing: of a parametrized module no ``weight`` is read."""
    yield from _below(model, name, _present(_LEFT_OUT), tuple(_present(_REFUSED)))


def base_name(name: str) -> str:
    """A name without the parts of wrappers, also of those that an adapter cannot be attached to.

    >>> base_name("_orig_mod.layer.0._checkpoint_wrapped_module.query")
    'layer.0.query'
    >>> base_name("base_model.model.layer.0.query")
    'layer.0.query'
    """
    for first in _FIRST_PARTS:
        name = name.removeprefix(first)
    return without_wrappers(name)


def without_wrappers(name: str) -> str:
    """A name in a state of the model without the parts of the wrappers that are left out."""
    return ".".join(part for part in name.split(".") if part not in _PARTS)


def joined(name: str, key: str) -> str:
    """The name of what a module holds under ``key``."""
    return f"{name}.{key}" if name else key


def _present(classes):
    """Those of the classes that can have objects, each with the attribute that holds what it wraps, where there is one."""
    found = {}
    for place in classes:
        of_module, of_class = place
        if of_module in sys.modules and hasattr(sys.modules[of_module], of_class):
            found[getattr(sys.modules[of_module], of_class)] = classes[place] if isinstance(classes, dict) else None
    return found


def _below(module, name, left_out, refused):
    while kind := next((kind for kind in left_out if isinstance(module, kind)), None):
        module = module._modules[left_out[kind]]
    if isinstance(module, refused):
        where = f"{name} is" if name else "the model is"
        raise LayerMapError(f"{where} a {type(module).__name__}; attach to the plain model first, then wrap it")
    yield name, module
    for key, child in module._modules.items():
        if child is not None:
            yield from _below(child, joined(name, key), left_out, refused)
