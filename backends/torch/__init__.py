"""Uni-LoRA for PyTorch: ``attach`` a vector to a model, train it with any loop, save it, load it, merge it."""

import unilora_spec  # noqa: F401  before torch: its first import lets Ctrl-C end in a sentence

from .adapter.attach import attach, load_adapter
from .adapter.reference import reference
from .adapter.targets.plan import plan
from .adapter.theta.expansion import Expand
from .adapter.unilora import UniLora

__all__ = ["Expand", "UniLora", "attach", "load_adapter", "plan", "reference"]
