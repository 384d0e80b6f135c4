"""Parameters that are trained in full beside θ: which, and what they were before."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from unilora_spec import FileError, LayerMap, LayerMapError

from ..several.rows import ByRow
from ..targets.names import first_parameters, modules, parameters
from ..targets.plan import matching
from ..theta.vector import THETA
from .originals import Original


class InFull:
    """The parameters of ``model`` that are trained in full.

    ``originals``  those that ``attach`` or a file named, with the values that they had before, by name
    ``new``        those that the checkpoint of the base lacks, of whose values a file has to say something

    The parameters keep the trained values. Whoever computes where the adapter is off reads the original ones: originals.py.
    """

    def __init__(self, model: nn.Module, new: Sequence[str]):
        self.model, self.originals, self.new, self._shown = model, {}, list(new), []

    def names(self) -> list[str]:
        """Those that were named, and those that somebody has unfrozen since, as the base names them."""
        trained = [name for name, p in self.parameters().items() if p.requires_grad and name != THETA]
        return list(dict.fromkeys([*self.originals, *trained]))

    def parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter of the model once, by its first name."""
        return first_parameters(self.model)

    def keep(self, names) -> None:
        """Trains the named parameters in full; their values of now come back with ``restore``."""
        trained = self.parameters_of(names)
        self.originals = {name: parameter.detach().clone() for name, parameter in trained.items()}
        for parameter in trained.values():
            parameter.requires_grad_(True)
        self._shown = Original.of(self.model, self.originals)
        self._shown += [ByRow(module, self.model, name) for module, name in self.shown_on().items()]

    def shown_on(self) -> dict[nn.Module, str]:
        """The modules with named parameters, and the name of one of each."""
        return {shown.module: shown.name for shown in self._shown}

    def named(self) -> dict[str, torch.Tensor]:
        """Copies of the values of now of those that were named."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters_of(self.originals).items()}

    def parameters_of(self, names) -> dict[str, nn.Parameter]:
        """The parameters of these names, without a walk through the model where nothing wraps a part of it."""
        found = {name: _at(self.model, name) for name in names}
        every = self.parameters() if None in found.values() else {}
        return {name: every[name] if parameter is None else parameter for name, parameter in found.items()}

    @torch.no_grad()
    def set(self, values: dict[str, np.ndarray | torch.Tensor]) -> None:
        """Gives parameters the ``values`` by name."""
        every = self.parameters_of(values)
        for name, value in values.items():
            every[name].copy_(torch.as_tensor(value))

    def become(self, values: dict[str, torch.Tensor]) -> None:
        """Trains the parameters that ``values`` names in place of those of now, and gives them the values."""
        if values.keys() != self.originals.keys():
            self.restore()
            self.keep(values)
        self.set(values)

    def check(self) -> None:
        """Raises ``LayerMapError`` where a parameter that was named is no longer there in its shape: it could not be given back."""
        every = self.parameters()
        for name, value in self.originals.items():
            if name not in every or every[name].shape != value.shape:
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
        every = self.parameters()
        self.remove()
        for name, value in self.originals.items():
            every[name].requires_grad_(False).copy_(value)
        self.originals = {}

    def remove(self) -> None:
        """Leaves the parameters as they are, and no longer shows others where the adapter is off."""
        for shown in self._shown:
            shown.remove()
        self._shown = []

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
    if not patterns:
        return []
    every, names = parameters(model), []
    first = {id(parameter): name for name, parameter in first_parameters(model).items()}
    named = matching(patterns, [*modules(model), *every])
    for pattern in patterns:
        inside = tuple(f"{name}." if name else "" for name in named[pattern])
        found = [name for name in every if name in named[pattern] or name.startswith(inside)]
        if not found:
            raise LayerMapError(f"train_in_full: {pattern!r} matches no module or parameter of the model")
        names += [first[id(every[name][0]._parameters[every[name][1]])] for name in found]
    for name in names:
        if name in layer_map.by_weight():
            raise LayerMapError(f"{name} is both a target and trained in full; choose one")
    return list(dict.fromkeys(names))


def _at(model, name):
    """The parameter of this name, or None where the way to it is another one."""
    *way, key = name.split(".")
    for part in way:
        model = model._modules.get(part)
        if model is None:
            return None
    return model._parameters.get(key)
