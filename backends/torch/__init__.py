"""Uni-LoRA for PyTorch: ``attach`` a vector to a model, train it with any loop, save it, load it, merge it."""

import unilora_spec  # noqa: F401  before torch: its first import lets Ctrl-C end in a sentence

from .attach import UniLora, attach, load_adapter
from .expansion import Expand
from .targets import plan

__all__ = ["Expand", "UniLora", "attach", "load_adapter", "plan"]
