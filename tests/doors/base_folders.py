"""The folder of a base: config.json, the header and the index of its weights, its tokenizer."""

from fuzz_mutations import packed

from .door import DEEP, LONG, Door, Seed, pipe, text, written
from .small_base import ADAPTER, BASE, CONFIG, TENSORS, TRAIN, WEIGHT, WEIGHTS, adapter


def _config(says, **values):
    return Seed(text(CONFIG | values), says)


CONFIGS = {
    **DEEP,
    "a size that none has": _config("'hidden_size' is 1000000000000", hidden_size=10**12),
    "a billion layers": _config("'num_hidden_layers' is 1000000000", num_hidden_layers=10**9),
    "positions that take all memory": _config("'max_position_embeddings' is", max_position_embeddings=2**31),
    "a billion labels": _config("'num_labels' is", num_labels=10**9),
    "a number of five thousand digits": Seed(text(CONFIG)[:-1] + b', "x": ' + b"9" * 5000 + b"}", "config.json"),
    "no words": Seed(b"\xff\xfe", "config.json"),
    "a division by zero": _config("", num_attention_heads=0),
}

LLAMA = {"model_type": "llama", "num_hidden_layers": 1, "num_attention_heads": 4}
LLAMA_WEIGHT = "model.layers.0.self_attn.q_proj.weight"
LLAMA_BASE = {
    "vec.safetensors": adapter(weight=LLAMA_WEIGHT),
    "base/model.safetensors": packed({LLAMA_WEIGHT: TENSORS[WEIGHT]}, bytes(4096)),
}


def _llama(says, **values):
    return Seed(text(LLAMA | values), says)


LLAMA_CONFIGS = {
    **DEEP,
    "a pipe": Seed(pipe, "has no config.json"),
    "a billion layers": _llama("'num_hidden_layers' is 1000000000", num_hidden_layers=10**9),
    "no layers": _llama("has no num_hidden_layers", num_hidden_layers=0),
    "heads below zero": _llama("has no num_attention_heads", num_attention_heads=-1),
    "heads of half a row": _llama("has 32 rows", num_attention_heads=32),
    "a type that is a list": _llama("of model_type", model_type=[]),
    "a type of a million letters": _llama("of model_type", model_type="x" * 10**6),
    "a model in it that is a list": _llama(None, text_config=[]),
}

DOORS = [
    Door(
        "base's header",
        ("unilora_spec", "verify", "vec.safetensors", "--base", "base"),
        "base/model.safetensors",
        ADAPTER | BASE,
        {
            "sound": Seed(WEIGHTS, None),
            "a header of 70 MB": LONG,
            "a header of many values": Seed(
                written(lambda: packed(b'{"a":[' + b"1," * 3_000_000 + b"1]}")), "values; 2,097,152 is the limit"
            ),
            "a header that nests": Seed(packed(b'{"a":' * 10**5), "nested deeper"),
        },
    ),
    Door(
        "base's index",
        ("export", "merge", "--adapter", "vec.safetensors", "-o", "out"),
        "base/model.safetensors.index.json",
        ADAPTER | {"base/config.json": text(CONFIG)},
        {**DEEP, "no names": Seed(text({"weight_map": {"a": 1}}), "has no weight_map")}
        | {"a pipe": Seed(pipe, "no .safetensors")},
    ),
    Door(
        "config.json, plan",
        ("backends.torch", "plan", "--base", "base", "--targets", "query", "--dim", "5"),
        "base/config.json",
        BASE,
        {"sound": Seed(text(CONFIG), None), **CONFIGS},
    ),
    Door(
        "config.json, train",
        (*TRAIN, "--data", "rows.csv"),
        "base/config.json",
        BASE | {"rows.csv": b"text,label\na,1\nb,0\n"},
        CONFIGS,
    ),
    Door(
        "config.json, export",
        ("export", "onnx", "--adapter", "vec.safetensors"),
        "base/config.json",
        ADAPTER | BASE,
        CONFIGS | {"a pipe": Seed(pipe, "")},
    ),
    Door(
        "config.json, gguf",
        ("export", "gguf", "--adapter", "vec.safetensors", "--base", "base", "-o", "out.gguf"),
        "base/config.json",
        LLAMA_BASE,
        {"sound": Seed(text(LLAMA), None), **LLAMA_CONFIGS},
    ),
    Door(
        "tokenizer.json",
        (*TRAIN, "--data", "rows.csv"),
        "base/tokenizer.json",
        BASE | {"rows.csv": b"text,label\na,1\nb,0\n"},
        DEEP,
    ),
    Door(
        "pattern",
        ("backends.torch", "plan", "--base", "base", "--targets", r"(.*)*(.*)*(.*)*(.*)*$x", "--dim", "5"),
        "base/config.json",
        BASE,
        {"that explodes": Seed(text(CONFIG), "takes too long")},
    ),
]
