"""Checks that the modules of a model are still where they were when an adapter was attached."""

import warnings
from collections.abc import Iterable

from torch import nn

from unilora_spec import LayerMapError

# The parts under which wrappers hold the module that they wrap.
_WRAPPED = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


class Structure:
    """The path from ``model`` down to each of the ``adapted`` modules.

    ``check`` raises ``LayerMapError`` where another module stands on a path than at ``attach`` (a quantized one, say),
    as the adapter would not act there. It warns, once, of a module that was added beside an adapted one, as a fused
    projection is.
    """

    def __init__(self, model: nn.Module, adapted: Iterable[nn.Module]):
        names = {module: name for name, module in model.named_modules()}
        links = {}
        for module in adapted:
            parent, way = model, names[module].split(".") if names[module] else []
            for i, key in enumerate(way):
                child = parent._modules[key]
                links[id(parent), key] = parent._modules, key, child, ".".join(way[: i + 1])
                parent = child
        self._links = list(links.values())
        self._counts = {id(children): (children, len(children)) for children, *_ in self._links}

    def check(self) -> None:
        for i, (children, key, child, name) in enumerate(self._links):
            if children.get(key) is not child:
                self._links[i] = self._wrapped(children, key, child, name)
        for of, (children, count) in self._counts.items():
            if len(children) != count:
                self._counts[of] = children, len(children)
                warnings.warn(
                    f"a module was added beside {next(iter(children))} after attach: {', '.join(list(children)[count:]) or 'none is left'}; "
                    "where it does the work of an adapted one, the adapter does not act",
                    stacklevel=3,
                )

    @staticmethod
    def _wrapped(children, key, child, name):
        there = inner = children.get(key)
        while inner is not None and inner is not child:
            inner = next((inner._modules[part] for part in _WRAPPED if part in inner._modules), None)
        if inner is None:
            now = "nothing" if there is None else _described(type(there), type(child))
            raise LayerMapError(
                f"{name} was exchanged after attach, and {now} is in its place, on which the adapter does not act; put the module back, or "
                "attach after the exchange"
            )
        return children, key, there, name


def _described(there: type, before: type) -> str:
    """Names the class that is there now; with its module where the class before had the same name, as quantized layers
    may have."""
    if there is before:
        return f"another {there.__name__}"
    return f"a {there.__module__}.{there.__name__}" if there.__name__ == before.__name__ else f"a {there.__name__}"
