"""Parameters that are trained in full beside θ: which, and what they were before."""

import warnings

import numpy as np
import torch
from torch import nn

from unilora_spec import FileError, LayerMap, LayerMapError

from .heads import lacking
from .targets import matching
from .vector import THETA


class InFull:
    """The parameters of ``model`` that are trained in full.

    ``originals``  those that ``attach`` or a file named, with the values that they had before, by name
    ``new``        those that the checkpoint of the base lacks, of whose values a file has to say something
    """

    def __init__(self, model: nn.Module):
        self.model, self.originals, self.new = model, {}, lacking(model)

    def names(self) -> list[str]:
        """Those that were named, and those that somebody has unfrozen since."""
        trained = [name for name, p in self.model.named_parameters() if p.requires_grad and name != THETA]
        return list(dict.fromkeys([*self.originals, *trained]))

    def keep(self, names) -> None:
        """Trains the named parameters in full; their values of now come back with ``restore``."""
        parameters = {name: self.model.get_parameter(name) for name in names}
        self.originals = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        for parameter in parameters.values():
            parameter.requires_grad_(True)

    @torch.no_grad()
    def set(self, values: dict[str, np.ndarray]) -> None:
        """Gives parameters the ``values`` by name."""
        for name, value in values.items():
            self.model.get_parameter(name).copy_(torch.from_numpy(value))

    def check(self) -> None:
        """Raises ``LayerMapError`` where a parameter that was named is no longer there in its shape: it could not be given back."""
        parameters = dict(self.model.named_parameters())
        for name, value in self.originals.items():
            if name not in parameters or parameters[name].shape != value.shape:
                raise LayerMapError(
                    f"{name} was exchanged after attach, and has no value of before; put its module back"
                )

    @torch.no_grad()
    def restore(self) -> None:
        """Gives the parameters the values that they had before, and freezes them."""
        self.check()
        if unknown := [name for name in self.names() if name not in self.originals]:
            warnings.warn(
                f"{', '.join(unknown)} was unfrozen after attach, and keeps its value; name it in train_in_full",
                stacklevel=4,
            )
        for name, value in self.originals.items():
            self.model.get_parameter(name).requires_grad_(False).copy_(value)
        self.originals = {}

    def forgotten(self) -> list[str]:
        """The new parameters that nobody trains."""
        return [name for name in self.new if name not in self.names()]

    def refuse_forgotten(self) -> None:
        """Raises ``FileError`` where a new parameter is in nobody's file: elsewhere it would be another random one."""
        if forgotten := self.forgotten():
            raise FileError(
                f"{', '.join(forgotten)}: the base's checkpoint lacks them, and they are not trained, so that no file would hold them; "
                "name them in train_in_full, or in untrained where their values do not matter"
            )


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
