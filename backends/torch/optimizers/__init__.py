"""Optimizers that step θ by what the step does to the weights, through A and B, and not number by number."""

from .lora_pro import LoraPro
from .lora_rite import LoraRite

__all__ = ["LoraPro", "LoraRite"]
