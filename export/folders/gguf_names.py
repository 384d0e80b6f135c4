"""What llama.cpp calls the weights of a model of transformers, and in which order it has their rows.

The names are from package gguf's tables. What llama.cpp's converter does to a weight beside renaming it is in no table: it is here for
the types of models in ``ARCHITECTURES``, from its conversion/*.py, and any other type is refused, as rows in another order would give
other numbers without a word.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
from gguf import MODEL_TENSOR

from unilora_spec import UniLoraError
from unilora_spec.base_model import read_config

MEND = "use export merge, and llama.cpp's convert_hf_to_gguf.py on what it writes"

ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "mixtral": "llama", "granite": "granite", "smollm3": "smollm3", "olmo": "olmo",
    "olmo2": "olmo2", "olmo3": "olmo2", "qwen2": "qwen2", "qwen2_moe": "qwen2moe", "qwen3": "qwen3", "qwen3_moe": "qwen3moe",
    "gemma": "gemma", "gemma2": "gemma2", "gemma3": "gemma3", "gemma3_text": "gemma3", "phi": "phi2", "phi3": "phi3",
    "gpt2": "gpt2", "seed_oss": "seed_oss",
}  # fmt: skip
"""gguf's name of an architecture, by the model_type of a config.json."""

PERMUTED = {"llama", "granite", "smollm3", "olmo"}
"""Architectures for which each head's rows of q and k are taken in pairs, first half and second half in turn: llama.cpp rotates
neighbours where transformers rotates halves (LlamaModel.permute)."""

ADAPTABLE = {
    MODEL_TENSOR.ATTN_Q, MODEL_TENSOR.ATTN_K, MODEL_TENSOR.ATTN_V, MODEL_TENSOR.ATTN_QKV, MODEL_TENSOR.ATTN_OUT,
    MODEL_TENSOR.FFN_GATE, MODEL_TENSOR.FFN_UP, MODEL_TENSOR.FFN_DOWN, MODEL_TENSOR.FFN_GATE_INP,
    MODEL_TENSOR.FFN_GATE_EXP, MODEL_TENSOR.FFN_UP_EXP, MODEL_TENSOR.FFN_DOWN_EXP,
    MODEL_TENSOR.FFN_GATE_SHEXP, MODEL_TENSOR.FFN_UP_SHEXP, MODEL_TENSOR.FFN_DOWN_SHEXP,
    MODEL_TENSOR.TOKEN_EMBD, MODEL_TENSOR.OUTPUT,
}  # fmt: skip
"""Those that llama.cpp multiplies by where it looks for a LoRA (build_lora_mm, build_lora_mm_id, build_inp_embd). A LoRA of any other
is loaded and never used."""


class Target(NamedTuple):
    """A tensor of llama.cpp's: its ``name`` there, which ``rows`` of the base's weight it has, in which order (None: all, as they
    are), and whether it is the ``table`` of tokens, which is read by rows."""

    name: str
    rows: np.ndarray | None = None
    table: bool = False


class Names:
    """The names of one base. ``architecture`` is gguf's.

    Raises ``UniLoraError`` for a config.json without the fields that llama.cpp needs, or with a type of model that is not known here.
    """

    def __init__(self, folder: Path, stored: set[str]):
        path = folder / "config.json"
        if not path.is_file():
            raise UniLoraError(
                f"{folder} has no config.json, which llama.cpp's names depend on; give --base the whole folder"
            )
        values = read_config(path)
        kind = values.get("model_type")
        if not isinstance(kind, str) or kind not in ARCHITECTURES:
            raise UniLoraError(
                f"{path}: how llama.cpp stores the weights of model_type {kind!r:.60} is not known here; give a base of"
                f" {', '.join(ARCHITECTURES)}, or {MEND}"
            )
        inner = values.get("text_config", values)  # of a model for images too, those of its language model
        self.architecture = ARCHITECTURES[kind]
        self._values, self._path = inner if isinstance(inner, dict) else values, path
        self._tied = self._values.get("tie_word_embeddings") is True or not any(
            n.endswith("lm_head.weight") for n in stored
        )
        number = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[self.architecture]
        self._table = gguf.get_tensor_name_map(number, self._number("num_hidden_layers", "n_layer"))

    def targets(self, name: str, rows: int) -> Iterator[Target]:
        """What a weight with so many rows is in llama.cpp: one tensor, or several that have a part of its rows each.

        Raises ``UniLoraError``, which names the weight, where llama.cpp has no LoRA for it.
        """
        if not name.endswith(".experts.gate_up_proj"):
            yield self._target(name, rows)
        else:  # a stack, whose two halves are two tensors there
            for number, half in enumerate(("gate_proj", "up_proj")):
                target = self._target(name.removesuffix("gate_up_proj") + half, rows)
                yield target._replace(rows=np.arange(number * rows // 2, (number + 1) * rows // 2))

    def _target(self, name: str, rows: int) -> Target:
        within = name.replace("language_model.", "", 1)
        for tried in (within, f"model.{within}", f"transformer.{within}"):
            if found := self._table.get_type_and_name(tried, try_suffixes=(".weight",)):
                break
        else:
            raise UniLoraError(f"{name} has no name in llama.cpp's {self.architecture}; {MEND}")
        tensor, there = found
        if tensor not in ADAPTABLE:
            raise UniLoraError(f"{name} is {there} in llama.cpp, which has no LoRA for it; {MEND}")
        if tensor in (MODEL_TENSOR.TOKEN_EMBD, MODEL_TENSOR.OUTPUT) and self._tied:
            raise UniLoraError(
                f"{name} is both the table of tokens and the output layer, for which llama.cpp has no LoRA; {MEND}"
            )
        heads = {
            MODEL_TENSOR.ATTN_Q: ("num_attention_heads",),
            MODEL_TENSOR.ATTN_K: ("num_key_value_heads", "num_attention_heads"),
        }
        order = None
        if self.architecture in PERMUTED and tensor in heads:
            count = self._number(*heads[tensor])
            if rows % (2 * count):
                raise UniLoraError(
                    f"{name} has {rows} rows, and {self._path} says {count} heads; give the base that was adapted"
                )
            order = np.arange(rows).reshape(count, 2, -1).swapaxes(1, 2).ravel()
        return Target(
            there if there.endswith(".weight") else f"{there}.weight", order, tensor == MODEL_TENSOR.TOKEN_EMBD
        )

    def _number(self, *keys: str) -> int:
        for key in keys:
            if type(value := self._values.get(key)) is int and value > 0:
                return value
        raise UniLoraError(f"{self._path} has no {keys[0]} above 0; give the folder of the base model as it was saved")
