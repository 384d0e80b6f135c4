"""The peers: Hugging Face PEFT's UniLora and LoRA, set to what this project does, s = 1 and no dropout."""

from collections.abc import Sequence

from peft import LoraConfig, PeftModel, UniLoraConfig, get_peft_model
from torch import nn


def unilora(model: nn.Module, rank: int, targets: Sequence[str], d: int, seed: int, **options) -> PeftModel:
    """PEFT's UniLora with a vector of ``d`` numbers."""
    return get_peft_model(
        model,
        UniLoraConfig(
            r=rank, target_modules=list(targets), theta_d_length=d, proj_seed=seed, unilora_dropout=0.0, **options
        ),
    )


def lora(model: nn.Module, rank: int, targets: Sequence[str], **options) -> PeftModel:
    """PEFT's LoRA."""
    return get_peft_model(model, lora_config(rank, targets, **options))


def lora_config(rank: int, targets: Sequence[str], **options) -> LoraConfig:
    """That of ``lora``."""
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets), lora_dropout=0.0, **options)
