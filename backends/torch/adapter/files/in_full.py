"""Parameters that are trained in full beside θ: which ones they are, and their values from before."""

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

    ``originals``  the values from before, by name, of the parameters that ``attach`` or a file named
    ``new``        the names of those that the base's checkpoint lacks, so that a file has to hold their values

    The parameters hold the trained values. Where the adapter is off, a computation reads the original ones:
    originals.py.
    """

    def __init__(self, model: nn.Module, new: Sequence[str]):
        self.model, self.originals, self.new, self._shown = model, {}, list(new), []

    def names(self) -> list[str]:
        """The names of the parameters that were named and of those that somebody has unfrozen since, as the base has
        them."""
        trained = [name for name, p in self.parameters().items() if p.requires_grad and name != THETA]
        return list(dict.fromkeys([*self.originals, *trained]))

    def parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter of the model once, by its first name."""
        return first_parameters(self.model)

    def train(self, names) -> None:
        """Trains the named parameters in full, and keeps their current values for ``restore``."""
        trained = self.parameters_of(names)
        self.originals = {name: parameter.detach().clone() for name, parameter in trained.items()}
        for parameter in trained.values():
            parameter.requires_grad_(True)
        self._shown = Original.of(self.model, self.originals)
        self._shown += [ByRow(module, self.model, name) for module, name in self.shown_on().items()]

    def shown_on(self) -> dict[nn.Module, str]:
        """The modules that hold named parameters, each with the name of one of them."""
        return {shown.module: shown.name for shown in self._shown}

    def trained_values(self) -> dict[str, torch.Tensor]:
        """Copies of the current values of the parameters that were named, by name."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters_of(self.originals).items()}

    def parameters_of(self, names) -> dict[str, nn.Parameter]:
        """The parameters with these names, found without a walk through the model where nothing wraps a part of it."""
        found = {name: _parameter_at(self.model, name) for name in names}
        every = self.parameters() if None in found.values() else {}
        return {name: every[name] if parameter is None else parameter for name, parameter in found.items()}

    @torch.no_grad()
    def set(self, values: dict[str, np.ndarray | torch.Tensor]) -> None:
        """Gives the parameters named in ``values`` these values."""
        every = self.parameters_of(values)
        for name, value in values.items():
            every[name].copy_(torch.as_tensor(value))

    def switch_to(self, values: dict[str, torch.Tensor]) -> None:
        """Trains the parameters named in ``values`` in place of the current ones, and gives them these values."""
        if values.keys() != self.originals.keys():
            self.restore()
            self.train(values)
        self.set(values)

    def check(self) -> None:
        """Raises ``LayerMapError`` where a named parameter is no longer there in its shape, so that ``restore`` could
        not give its value back."""
        every = self.parameters()
        for name, value in self.originals.items():
            if name not in every or every[name].shape != value.shape:
                raise LayerMapError(
                    f"{name} was exchanged after attach, so that its value cannot be given back; put its module back"
                )

    @torch.no_grad()
    def restore(self) -> None:
        """Gives the parameters their values from before, and freezes them."""
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
        """Leaves the parameters as they are, and no longer shows their original values where the adapter is off."""
        for shown in self._shown:
            shown.remove()
        self._shown = []

    def forgotten(self) -> list[str]:
        """The new parameters that are not trained."""
        return [name for name in self.new if name not in self.names()]

    def refuse_forgotten(self) -> None:
        """Raises ``FileError`` where no file would hold a new parameter: wherever the file is loaded, its values would
        be other random ones."""
        if forgotten := self.forgotten():
            raise FileError(
                f"{', '.join(forgotten)}: the base's checkpoint lacks them, and they are not trained, so that no file would hold them; "
                "name them in train_in_full, or in untrained where their values do not matter"
            )


def names_in_full(model: nn.Module, patterns, layer_map: LayerMap) -> list[str]:
    """The names of the parameters that ``patterns`` match, by their own names or by those of their modules, each once.
    Raises ``LayerMapError`` for a pattern that matches nothing, and for a parameter that is a target."""
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


def _parameter_at(model, name):
    """The parameter with this name, or None where no module or parameter has it."""
    *way, key = name.split(".")
    for part in way:
        model = model._modules.get(part)
        if model is None:
            return None
    return model._parameters.get(key)
