"""Shows the original value of a parameter trained in full where the adapter is off, so that a reference model is the
base as it was."""

from collections.abc import Collection

from torch import Tensor, nn

from unilora_spec import LayerMapError

from ..sites.shown import Shown
from ..targets.names import modules, parameters


class Original(Shown):
    """Shows the value that the parameter ``name`` of ``model`` had before, where the adapter is off for the thread that reads it.

    The parameter itself keeps its values, so that the optimizer and other threads see no change.
    """

    def __init__(self, model: nn.Module, name: str):
        self.model, self.name = model, name

    @classmethod
    def of(cls, model: nn.Module, names: Collection[str]) -> list["Original"]:
        """One for each module that holds a parameter with one of these names: a tied parameter is held by several."""
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
        """The parameter, or its original value where the adapter is off for this thread, or the value of the adapter
        whose rows run."""
        parameter, calls = self.module._parameters[self.parameter], self.model.unilora.calls
        if calls.is_off:
            return self.original(parameter)
        if (rows := calls.rows) is not None and calls.is_in_call:
            of_adapter = rows.head(self.name)
            return self.original(parameter) if of_adapter is None else of_adapter.to(parameter)
        return parameter

    def parameter_now(self) -> nn.Parameter:
        """The parameter itself."""
        return self.module._parameters[self.parameter]

    def original(self, parameter: Tensor) -> Tensor:
        """The original value, on the device and in the dtype of ``parameter``."""
        originals = self.model.unilora.in_full.originals
        original = originals[self.name]
        if original.device != parameter.device:  # the model has moved
            original = originals[self.name] = original.to(parameter.device)
        return original.to(parameter.dtype)


def refuse_recurrent(model: nn.Module, names) -> None:
    """Raises ``LayerMapError`` where one of the parameters is a recurrent layer's, which reads it past the attribute
    that shows the original."""
    every = modules(model) if names else {}
    for name in names:
        module = every[name.rpartition(".")[0]]
        if isinstance(module, nn.RNNBase):
            raise LayerMapError(
                f"{name} was trained in full, and nn.{type(module).__name__} cannot use its value from before; "
                "detach() for the base's outputs"
            )
