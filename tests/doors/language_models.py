"""How a language model is asked: prompts, and the template of a chat."""

import numpy as np
import safetensors.torch
import tokenizers
import torch

from unilora_spec import Adapter, Base, LayerMap, Projection, Segment
from unilora_spec.serialization import encode

from .door import PIPE, Door, Seed, pipe, text, written

LM_WEIGHT = "transformer.h.0.attn.c_attn.weight"
LM_SIZES = {
    "wte": (8, 8), "wpe": (64, 8), "h.0.ln_1": (8,), "h.0.attn.c_attn": (8, 24), "h.0.attn.c_proj": (8, 8), "h.0.ln_2": (8,),
    "h.0.mlp.c_fc": (8, 32), "h.0.mlp.c_proj": (32, 8), "ln_f": (8,),
}  # fmt: skip


def _language_model() -> dict[str, bytes]:
    """A GPT-2 of one layer with words for a tokenizer, and an adapter of it."""
    tensors = {f"transformer.{name}.weight": torch.ones(size) for name, size in LM_SIZES.items()}
    tensors |= {
        f"transformer.{name}.bias": torch.zeros(size[-1])
        for name, size in LM_SIZES.items()
        if name[:2] not in ("wt", "wp")
    }
    words = {word: number for number, word in enumerate(["[END]", "?", "is", "it", "good", "bad", "yes", "no"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    config = {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 8, "n_embd": 8, "n_layer": 1, "n_head": 2,
        "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    layer_map = LayerMap([Segment(LM_WEIGHT, 24, 8, 2, transposed=True)])
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    base = Base.of("base", layer_map, shapes, lambda name: tensors[name].numpy(), "GPT2LMHeadModel")
    adapter = Adapter(Projection(D=layer_map.D, d=8, seed=42), layer_map, np.full(8, 0.1, np.float32), base)
    return {
        "vec.safetensors": encode(adapter),
        "base/config.json": text(config),
        "base/model.safetensors": safetensors.torch.save(tensors),
        "base/tokenizer.json": tokenizer.to_str().encode(),
        "base/tokenizer_config.json": text({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "[END]"}),
    }


LM = _language_model()
GENERATE = (
    "backends.torch",
    "generate",
    "--adapter",
    "vec.safetensors",
    "--max-new-tokens",
    "2",
    "--json",
    "--prompts",
)
PROMPTS = {
    "sound": Seed(b'{"prompt": "is it good"}\n', None),
    "lists that nest": Seed(b'{"prompt": ' + b"[" * 100_000, "nested deeper"),
    "a million values": Seed(
        written(lambda: b'{"prompt": "a", "b": [' + b"1," * 2_000_000 + b"1]}"), "values; such a file has at most"
    ),
    "no prompt": Seed(b"{}\n", "line 1 is no object with a prompt"),
    "a prompt that is a number": Seed(b'{"prompt": 7}\n', "line 1 is no object with a prompt"),
    "messages that are words": Seed(b'{"messages": ["a"]}\n', "message 1 of the prompt is 'a'"),
    "a message without a role": Seed(b'{"messages": [{}]}\n', "message 1 of the prompt has the role None"),
    "no words": Seed(b"\xff\n", "is not UTF-8"),
    "nothing": Seed(b"\n", "has no prompt in it"),
    "too long": Seed(written(lambda: b"is " * 2**23), "such a file has at most"),
    "a pipe": PIPE,
}
TEMPLATES = {
    "sound": Seed(b"{% for m in messages %}{{ m.content }}{% endfor %}", None),
    "nothing": Seed(b"{# #}", "the prompt has no token"),
    "a loop": Seed(
        b"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "it takes more than"
    ),
    "a range": Seed(b"{% for a in range(10 ** 12) %}{% endfor %}", "refuses a conversation of user"),
    "code": Seed(b"{{ ().__class__.__base__.__subclasses__() }}", "refuses a conversation of user"),
    "a file": Seed(b"{% include '/etc/passwd' %}", "refuses a conversation of user"),
    "no template": Seed(b"{% for", "refuses a conversation of user"),
    "no words": Seed(b"\xff", "is not UTF-8"),
    "too long": Seed(b" " * (2**20 + 1), "such a file has at most"),
    "a pipe": Seed(pipe, "is no file"),
}

DOORS = [
    Door("prompts", (*GENERATE, "prompts.jsonl"), "prompts.jsonl", LM, PROMPTS),
    Door(
        "chat template",
        (*GENERATE, "prompts.txt", "--chat-template", "chat.jinja"),
        "chat.jinja",
        LM | {"prompts.txt": b"is it good\n"},
        TEMPLATES,
    ),
]
