"""What a parameter trained in full was before, for whoever computes where the adapter is off: a reference model is the base as it was."""

from collections.abc import Collection

from torch import Tensor, nn

from unilora_spec import LayerMapError

from ..sites.shown import Shown
from ..targets.names import modules, parameters


class Original(Shown):
    """Shows the value that the parameter ``name`` of ``model`` had before, where the adapter is off for the thread that reads it.

    No value is copied, so that the parameter stays that of the optimizer and of the other threads.
    """

    def __init__(self, model: nn.Module, name: str):
        self.model, self.name = model, name

    @classmethod
    def of(cls, model: nn.Module, names: Collection[str]) -> list["Original"]:
        """One on each module that has a parameter of these names, as tied ones have it in several."""
        if not names:
            return []
        every, found = parameters(model), {}
        by_parameter = {id(module._parameters[key]): name for name in names for module, key in [every[name]]}
        for module, key in every.values():
            name = by_parameter.get(id(module._parameters[key]))
            if name is not None and (module, key) not in found:
                found[module, key] = cls(model, name)
                found[module, key].show(module, key)
        return list(found.values())

    def shown(self) -> Tensor:
        """The parameter, or its original."""
        parameter, doors = self.module._parameters[self.parameter], self.model.unilora.doors
        if doors.is_off:
            return self.value(parameter)
        if (rows := doors.rows) is not None and doors.is_open:
            of_row = rows.head(self.name)
            return self.value(parameter) if of_row is None else of_row.to(parameter)
        return parameter

    def parameter_now(self) -> nn.Parameter:
        """The parameter itself."""
        return self.module._parameters[self.parameter]

    def value(self, parameter: Tensor) -> Tensor:
        """The original where the parameter of now is, and of its dtype."""
        originals = self.model.unilora.in_full.originals
        original = originals[self.name]
        if original.device != parameter.device:  # the model has moved
            original = originals[self.name] = original.to(parameter.device)
        return original.to(parameter.dtype)


def refuse_unseen(model: nn.Module, names) -> None:
    """Raises ``LayerMapError`` where one of the parameters is read past the attribute that shows its original."""
    every = modules(model) if names else {}
    for name in names:
        module = every[name.rpartition(".")[0]]
        if isinstance(module, nn.RNNBase):
            raise LayerMapError(
                f"{name} was trained in full, and nn.{type(module).__name__} cannot compute with what it was before; "
                "detach() for the base's outputs"
            )
