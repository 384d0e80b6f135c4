"""Optimizers that choose a step of θ by what it does to the weights through A and B, and not entry by entry."""

from .lora_pro import LoraPro
from .lora_rite import LoraRite

__all__ = ["LoraPro", "LoraRite"]
