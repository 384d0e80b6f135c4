"""Parameters that are trained in full beside θ: which, and what they were before."""

import torch
from torch import nn

from unilora_spec import LayerMap, LayerMapError

from .targets import matching


class InFull:
    """The parameters of ``model`` that are trained in full; ``originals`` holds by name the values that they had before."""

    def __init__(self, model: nn.Module):
        self.model, self.originals = model, {}

    def keep(self, names) -> None:
        """Trains the named parameters in full; their values of now come back with ``restore``."""
        parameters = {name: self.model.get_parameter(name) for name in names}
        self.originals = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        for parameter in parameters.values():
            parameter.requires_grad_(True)

    @torch.no_grad()
    def set(self, values) -> None:
        """Gives parameters the ``values``, arrays by name."""
        for name, value in values.items():
            self.model.get_parameter(name).copy_(torch.from_numpy(value))

    @torch.no_grad()
    def restore(self) -> None:
        """Gives the parameters the values that they had before, and freezes them."""
        for name, value in self.originals.items():
            self.model.get_parameter(name).requires_grad_(False).copy_(value)
        self.originals = {}


def names_in_full(model: nn.Module, patterns, layer_map: LayerMap) -> list[str]:
    """The names of the parameters that ``patterns`` name, themselves or by their modules, each once. Raises ``LayerMapError``."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    canonical = {id(parameter): name for name, parameter in model.named_parameters()}
    every = [name for name, _ in model.named_modules()]
    every += [name for name, _ in model.named_parameters(remove_duplicate=False)]
    named, names = matching(patterns, every), []
    for pattern in patterns:
        found = [
            parameter
            for name, module in model.named_modules()
            for parameter in (module.parameters() if name in named[pattern] else _own(module, name, named[pattern]))
        ]
        if not found:
            raise LayerMapError(f"train_in_full: {pattern!r} matches no module or parameter of the model")
        names += [canonical[id(parameter)] for parameter in found]
    for name in names:
        if name in layer_map.by_weight():
            raise LayerMapError(f"{name} is both a target and trained in full; choose one")
    return list(dict.fromkeys(names))


def _own(module, name, named):
    return [p for key, p in module.named_parameters(name, recurse=False) if key in named]
