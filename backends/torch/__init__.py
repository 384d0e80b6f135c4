"""Uni-LoRA for PyTorch: ``attach`` a vector to a model, train it with any loop, save it, load it, merge it."""

from .attach import UniLora, attach, load_adapter
from .expansion import Expand
from .targets import plan

__all__ = ["Expand", "UniLora", "attach", "load_adapter", "plan"]
