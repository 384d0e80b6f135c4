"""Uni-LoRA for PyTorch: ``attach`` a vector to a model, train it with any loop, save it, load it, merge it."""

import importlib
from typing import TYPE_CHECKING, Any

import unilora_spec  # noqa: F401  before torch: its first import lets Ctrl-C end in a sentence

if TYPE_CHECKING:
    from .adapter.attach import attach, load_adapter
    from .adapter.reference import reference
    from .adapter.targets.plan import plan
    from .adapter.theta.expansion import Expand
    from .adapter.unilora import UniLora

_WHERE = {
    "Expand": ".adapter.theta.expansion",
    "UniLora": ".adapter.unilora",
    "attach": ".adapter.attach",
    "load_adapter": ".adapter.attach",
    "plan": ".adapter.targets.plan",
    "reference": ".adapter.reference",
}
__all__ = ["Expand", "UniLora", "attach", "load_adapter", "plan", "reference"]


def __getattr__(name: str) -> Any:  # torch is imported when it is needed: --help answers at once
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
