"""How transformers is called whenever it loads from a base, so that it runs nothing that lies in the base's folder."""

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import find_adapter_config_file

from unilora_spec import UniLoraError

NO_CODE = {"trust_remote_code": False}
"""For configurations, tokenizers, and models made of a configuration. Without it transformers asks on the terminal, and whatever
stands on standard input answers."""
WEIGHTS = NO_CODE | {"use_safetensors": True}
"""For models with their weights: of .safetensors files alone, as a pickle is a program."""
IMPLEMENTATIONS = (None, "eager", "sdpa", "flex_attention", "batched_mm", "grouped_mm")


def config_of(where):
    """The configuration of the model in a folder or of a hub id, without what it asks for of others' code.

    A kernel of the hub as ``attn_implementation`` is passed over: how attention is computed is the machine's choice. Raises
    ``UniLoraError`` where an adapter of PEFT's is in the folder: transformers would load it as well, or the base that it names.
    """
    config = AutoConfig.from_pretrained(where, **NO_CODE)
    if find_adapter_config_file(str(where)) is not None:
        raise UniLoraError(
            f"{where}: an adapter of PEFT's is in it (adapter_config.json), and would be loaded with the model; give a folder of the"
            " base alone"
        )
    plain(config)
    return config


def plain(config: PreTrainedConfig) -> None:
    """Takes out of a configuration, and those within it, what names code of the hub as a way to compute attention or experts."""
    inner = [value for value in vars(config).values() if isinstance(value, PreTrainedConfig)]
    if config._attn_implementation not in IMPLEMENTATIONS:
        config._attn_implementation = None
    if config._experts_implementation not in IMPLEMENTATIONS:
        config._experts_implementation = None
    for each in inner:
        plain(each)


def reason(error: Exception) -> str:
    """Why transformers loads nothing, in one line."""
    text = str(error).strip()
    if "trust_remote_code" in text:
        return "it needs code of its own, which is never run; give a base whose class transformers itself has"
    if "named model.safetensors" in text:
        return "it has no weights in .safetensors, and a pickle (.bin, .pt) is a program, which is not opened; save it as .safetensors"
    return text.split("\n")[0]
