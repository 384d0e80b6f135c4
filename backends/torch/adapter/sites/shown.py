"""Lets an attribute of a module give something else than its parameter, while the parameter stays where it is.

Code that loads, counts, saves or steps parameters reads ``module._parameters`` and finds the parameter; code that
computes reads the attribute and gets what is shown. The module gets a class of the same name, derived from its own, as
with torch's parametrizations.
"""

from abc import ABC, abstractmethod
from functools import cache

from torch import Tensor, nn

_SITES = "_unilora_sites"  # of a module, by parameter


class Shown(ABC):
    """From ``show`` to ``remove``, the attribute ``parameter`` of ``module`` gives ``shown()``."""

    def show(self, module: nn.Module, parameter: str) -> None:
        """From here on, the attribute gives ``shown()``."""
        self.module, self.parameter = module, parameter
        sites = vars(module).setdefault(_SITES, {})
        plain = type(module).unilora_plain if sites else type(module)
        sites[parameter] = self
        module.__class__ = _showing(plain, tuple(sorted(sites)))

    def remove(self) -> None:
        """The attribute gives the parameter again; the module gets its own class back once nothing is shown on it."""
        sites = vars(self.module)[_SITES]
        plain = type(self.module).unilora_plain
        del sites[self.parameter]
        if sites:
            self.module.__class__ = _showing(plain, tuple(sorted(sites)))
        else:
            delattr(self.module, _SITES)
            self.module.__class__ = plain

    @abstractmethod
    def shown(self) -> Tensor:
        """The value that the attribute gives now."""


def shows(module, parameter) -> bool:
    """Whether a module shows something else as this parameter."""
    return parameter in vars(module).get(_SITES, ())


@cache
def _showing(plain: type, parameters: tuple[str, ...]) -> type:
    def attribute(parameter):
        return property(lambda module: vars(module)[_SITES][parameter].shown())

    shown = {parameter: attribute(parameter) for parameter in parameters}
    own = {
        "unilora_plain": plain,
        "__module__": plain.__module__,
        "__qualname__": plain.__qualname__,
        "__reduce_ex__": _reduced,
    }
    return type(plain.__name__, (plain,), shown | own)


def _reduced(module, protocol):
    """For copies and pickles: the class is made anew, as no module has it."""
    cls = type(module)
    return _empty, (cls.unilora_plain, tuple(sorted(vars(module)[_SITES]))), module.__dict__.copy()


def _empty(plain, parameters):
    cls = _showing(plain, parameters)
    return cls.__new__(cls)
