"""Marks on the modules of an adapted model, so that a second adapter on it or on a part of it is refused; and its added
attributes."""

from torch import nn

from unilora_spec import LayerMapError

_MARK = "_unilora_part"


class _Mark:
    """A mark on a module; ``remove`` takes it off."""

    def __init__(self, module: nn.Module):
        self.module = module
        vars(module)[_MARK] = True

    def remove(self) -> None:
        vars(self.module).pop(_MARK, None)


def mark(model: nn.Module) -> list[_Mark]:
    """Marks every module of ``model``; returns handles with ``remove``."""
    return [_Mark(module) for module in model.modules()]


def refuse_marked(model: nn.Module) -> None:
    """Raises ``LayerMapError`` where ``model``, a part of it, or a model that it is a part of, has an adapter."""
    if hasattr(model, "unilora"):
        raise LayerMapError("the model has an adapter already; call model.detach() or model.merge() first")
    for name, module in model.named_modules():
        if _MARK in vars(module):
            what = f"its part {name} has an adapter" if name else "it is a part of a model that has an adapter"
            raise LayerMapError(f"{what} already; adapt the whole model once, or detach the other adapter first")


class Attribute:
    """An attribute that was set on a model; ``remove`` takes it off."""

    def __init__(self, model, name):
        self.model, self.name = model, name

    def remove(self):
        delattr(self.model, self.name)
