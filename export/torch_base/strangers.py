"""Keeps transformers from running any code that lies in a base's folder, whenever it loads from there."""

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import find_adapter_config_file

from unilora_spec import UniLoraError

NO_CODE = {"trust_remote_code": False}
"""Arguments for configurations, tokenizers, and models made of a configuration. Without them transformers asks on the
terminal, and whatever is on standard input answers."""
WEIGHTS = NO_CODE | {"use_safetensors": True}
"""Arguments for models with their weights, which are read from .safetensors files alone, as a pickle is a program."""
IMPLEMENTATIONS = (None, "eager", "sdpa", "flex_attention", "batched_mm", "grouped_mm")


def config_of(where):
    """The configuration of the model in a folder or of a hub id, without requests for code from elsewhere.

    A kernel of the hub as ``attn_implementation`` is ignored: how attention is computed is this machine's choice.
    Raises ``UniLoraError`` where the folder has an adapter of PEFT: transformers would load it as well, or the base
    that it names.
    """
    config = AutoConfig.from_pretrained(where, **NO_CODE)
    if find_adapter_config_file(str(where)) is not None:
        raise UniLoraError(
            f"{where}: an adapter of PEFT's is in it (adapter_config.json), and would be loaded with the model; give a folder of the"
            " base alone"
        )
    remove_hub_kernels(config)
    return config


def remove_hub_kernels(config: PreTrainedConfig) -> None:
    """Takes kernels of the hub for attention or experts out of a configuration and those within it."""
    inner = [value for value in vars(config).values() if isinstance(value, PreTrainedConfig)]
    if config._attn_implementation not in IMPLEMENTATIONS:
        config._attn_implementation = None
    if config._experts_implementation not in IMPLEMENTATIONS:
        config._experts_implementation = None
    for each in inner:
        remove_hub_kernels(each)


def reason(error: Exception) -> str:
    """The reason why transformers could not load something, in one line."""
    text = str(error).strip()
    if "trust_remote_code" in text:
        return "it needs code of its own, which is never run; give a base whose class transformers itself has"
    if "named model.safetensors" in text:
        return "it has no weights in .safetensors, and a pickle (.bin, .pt) is a program, which is not opened; save it as .safetensors"
    return text.split("\n")[0]
