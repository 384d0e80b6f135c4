"""Every door: where a command reads a file that a stranger may have written, a sound file for it, and small ones that ask for much.

tests/attack.py goes through them and through mutations of theirs; a door that is added here is attacked.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pyarrow
import pyarrow.parquet
import safetensors.numpy
import safetensors.torch
import tokenizers
import torch
from bag_of_words import adapter_for, step_graph
from fuzz_corpus import packed
from onnx import TensorProto, helper, numpy_helper

from backends.runs.state import FIELD, State, save_state
from unilora_spec import Adapter, Base, LayerMap, Projection, Segment
from unilora_spec.serialization import encode


class Seed(NamedTuple):
    """What stands in a door's file: bytes, or what makes the file; and words of the refusal, or None where it is sound."""

    content: bytes | Callable[[Path], None]
    says: str | None


class Door(NamedTuple):
    """``call`` is that of a command (its module first), in a folder with ``files``, where ``file`` holds one seed after another."""

    name: str
    call: tuple[str, ...]
    file: str
    files: dict[str, bytes]
    seeds: dict[str, Seed]


def text(value) -> bytes:
    return json.dumps(value).encode()


CONFIG = {
    "model_type": "bert", "architectures": ["BertForSequenceClassification"], "hidden_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 4, "intermediate_size": 16, "vocab_size": 20, "max_position_embeddings": 16,
}  # fmt: skip
WEIGHT = "bert.encoder.layer.0.attention.self.query.weight"
TENSORS = {WEIGHT: {"dtype": "F32", "shape": [32, 32], "data_offsets": [0, 4096]}}
WEIGHTS = packed(TENSORS, bytes(4096))
BASE = {"base/config.json": text(CONFIG), "base/model.safetensors": WEIGHTS}


def _adapter(name="base", weight=WEIGHT, label="no") -> bytes:
    layer_map = LayerMap([Segment(weight, 32, 32, 2)])
    base = Base.of(
        name,
        layer_map,
        {weight: (32, 32)},
        lambda name: np.zeros((32, 32)),
        "BertForSequenceClassification",
        {0: label, 1: "yes"},
    )
    return encode(Adapter(Projection(D=layer_map.D, d=8, seed=42), layer_map, np.full(8, 0.1, np.float32), base))


def _raised(path):
    """A pipe that nobody writes to."""
    os.mkfifo(path)


PIPE = Seed(_raised, "is a pipe")
DEEP = {
    "lists that nest": Seed(b"[" * 1_000_000, "nested deeper"),
    "objects that nest": Seed(b'{"a":' * 100_000, "nested deeper"),
    "a pipe": PIPE,
}
REPORT = {
    "implementation": {"name": "mine", "version": "0", "requests": ["describe", "keys"], "kinds": ["balanced"]},
    "specification": "1",
    "call": {"impl": "./mine", "examples": 40, "seed": 0, "rules": [], "chapters": [], "level": None},
    "level": None,
    "rules": {},
    "checks": [{"outcome": "passed"}, {"outcome": "not supported"}],
}
LONG = Seed(packed(b'{"a":"' + b"x" * 70_000_000 + b'"}'), "16777216 is the limit")


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
    "vec.safetensors": _adapter(weight=LLAMA_WEIGHT),
    "base/model.safetensors": packed({LLAMA_WEIGHT: TENSORS[WEIGHT]}, bytes(4096)),
}


def _llama(says, **values):
    return Seed(text(LLAMA | values), says)


LLAMA_CONFIGS = {
    **DEEP,
    "a pipe": Seed(_raised, "has no config.json"),
    "a billion layers": _llama("'num_hidden_layers' is 1000000000", num_hidden_layers=10**9),
    "no layers": _llama("has no num_hidden_layers", num_hidden_layers=0),
    "heads below zero": _llama("has no num_attention_heads", num_attention_heads=-1),
    "heads of half a row": _llama("has 32 rows", num_attention_heads=32),
    "a type that is a list": _llama("of model_type", model_type=[]),
    "a type of a million letters": _llama("of model_type", model_type="x" * 10**6),
    "a model in it that is a list": _llama(None, text_config=[]),
}

# Options


def _options(says, words: str) -> Seed:
    return Seed(words.encode(), says)


YAML = {
    "aliases of aliases": _options(
        "refers to 'a0'",
        "rank:\n - &a0 [x,x]\n" + "".join(f" - &a{i + 1} [{','.join([f'*a{i}'] * 10)}]\n" for i in range(9)),
    ),
    "a list in itself": _options("refers to 'a'", "rank: &a [*a]"),
    "a merge": _options("refers to 'a'", "lr: &a {rank: 1}\n<<: *a"),
    "lists that nest": _options("a text, a number, or a list", "rank: " + "[" * 60_000),
    "lists that nest by lines": _options(
        "a text, a number, or a list", "rank:\n" + "".join(" " * i + "-\n" for i in range(1, 300))
    ),
    "too long": _options("such a file has at most", "rank: " + "[" * 100_000),
    "many keys": _options("a text, a number, or a list", "a: 1\n" * 10_000),
    "a key twice": _options("a key is there twice", "rank: 1\nrank: 2"),
    "a key twice, spelled in two ways": _options("given twice, with - and with _", "max-length: 1\nmax_length: 2"),
    "code": _options("could not determine a constructor", "rank: !!python/object/apply:os.system [ls]"),
    "no date": _options("this is no YAML", "rank: 2001-99-99"),
    "no whole number": _options("this is no YAML", "rank: !!int x"),
    "no number of any size": _options("--lr is", "lr: 1" + "0" * 400),
    "a pipe": PIPE,
}

# A language model: how it is asked

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
    "a million values": Seed(b'{"prompt": "a", "b": [' + b"1," * 2_000_000 + b"1]}", "values; such a file has at most"),
    "no prompt": Seed(b"{}\n", "line 1 is no object with a prompt"),
    "a prompt that is a number": Seed(b'{"prompt": 7}\n', "line 1 is no object with a prompt"),
    "messages that are words": Seed(b'{"messages": ["a"]}\n', "message 1 of the prompt is 'a'"),
    "a message without a role": Seed(b'{"messages": [{}]}\n', "message 1 of the prompt has the role None"),
    "no words": Seed(b"\xff\n", "is not UTF-8"),
    "nothing": Seed(b"\n", "has no prompt in it"),
    "too long": Seed(b"is " * 2**23, "such a file has at most"),
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
    "a pipe": Seed(_raised, "is no file"),
}
EVALUATION = {name: seed for name, seed in YAML.items() if name != "no number of any size"} | {
    "an option that no evaluation has": _options("the option 'lr' is unknown", "lr: 1"),
    "texts that are lists": _options("--stop is", "stop: [[a]]"),
    "a text that is true": _options("--begin is True", "begin: true"),
}

# Rows

ROW = b'{"text": "fine", "label": 1}\n'


def _zip(files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.csv"))
    return out.getvalue()


def _parquet(rows, **options) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(rows), file, **options)
    return file.getvalue()


PARQUET = _parquet({"text": ["a"] * 9, "label": [1] * 9})
ROWS = {
    "jsonl": {
        "lists that nest": Seed(ROW * 9 + b'{"text": ' + b"[" * 100_000 + b"\n" + ROW, "nested deeper"),
        "lists that nest after a line that is broken": Seed(b'"\n' + b"[" * 100_000, "nested deeper"),
        "a million keys": Seed(
            b"{" + b",".join(b'"%d":1' % i for i in range(10**6)) + b"}", "columns; 1,000 is the most"
        ),
        "a key of its own in each row": Seed(
            b"".join(b'{"%d":1}\n' % i for i in range(900)) + b"{}\n" * 10**5, "nearly all of them empty"
        ),
        "one line": Seed(b'{"text": "' + b"x" * 2**26 + b'"}', "has a line of more than"),
        "an archive": Seed(gzip.compress(ROW * 10**6), "would unfold to more"),
        "a small archive": Seed(gzip.compress(ROW * 9), "give more rows"),
        "a pipe": PIPE,
    },
    "json": {"lists that nest": Seed(b"[" * 100_000, "nested deeper"), "cut off": Seed(b"{", "could not be read")},
    "csv": {
        "a million columns": Seed(b"," * 10**6, "columns; 1,000 is the most"),
        "a text without an end": Seed(b'text,label\n"' + b"x,y\n" * 10**6, "could not be read"),
        "zeros": Seed(b"text,label\n\0\0,\0\n", "give more rows"),
        "UTF-16": Seed("text,label\na,1\n".encode("utf-16"), "give more rows"),
        "no text": Seed(bytes(range(256)) * 99, "this is not in UTF-8"),
        "semicolons": Seed(b"text;label\n" + b"a, b;1\n" * 9, "give more rows"),
        "an archive": Seed(gzip.compress(b"text,label\n" * 10**6), "would unfold to more"),
        "a tar": Seed(_tar(), "is an archive"),
        "an archive in an archive": Seed(gzip.compress(gzip.compress(b"text,label\n")), "is an archive in another one"),
        "gzip, cut off": Seed(gzip.compress(bytes(map(hash, range(99))))[:-9], "no sound gzip file"),
        "bz2": Seed(bz2.compress(b"text,label\n" * 10**5) * 100, "would unfold to more"),
        "xz": Seed(lzma.compress(b"text,label\n" * 10**5) * 100, "would unfold to more"),
        "xz that asks for a gigabyte": Seed(
            lzma.compress(b"text,label\n", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**30}]), "no sound xz file"
        ),
        "zstd": Seed(pyarrow.compress(b"text,label\n" * 10**6, "zstd", asbytes=True), "would unfold to more"),
        "zip": Seed(_zip({"a.csv": b"text,label\n" * 10**7}), "would unfold to more"),
        "zip of two": Seed(_zip({"a.csv": b"", "b.csv": b""}), "an archive of 2 files"),
        "zip of a program": Seed(_zip({"a.py": b""}), "holds 'a.py'"),
    },
    "parquet": {
        "cut off": Seed(PARQUET[: len(PARQUET) // 2], "no Parquet file"),
        "a footer of 2 GB": Seed(
            b"PAR1" + b"\xff" * 99 + (2**31 - 1).to_bytes(4, "little") + b"PAR1", "no Parquet file"
        ),
        "a gigabyte of one text": Seed(
            _parquet({"text": ["x" * 10**6] * 100, "label": [1] * 100}, compression="zstd"), "would unfold to more"
        ),
    },
}

# PEFT's folder

D = 256
PEFT = {
    "peft_type": "UNILORA",
    "r": 2,
    "theta_d_length": 8,
    "proj_seed": 0,
    "target_modules": ["query"],
    "task_type": "SEQ_CLS",
}
PEFT["base_model_name_or_path"] = "base"
PEFT_TENSORS = packed(
    {"base_model.unilora_theta_d": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}, bytes(32)
)


def _peft(says, **values):
    return Seed(text(PEFT | values), says)


PEFT_CONFIGS = {
    **DEEP,
    "a rank of four million": _peft("has a rank of 32 at most", r=2**22),
    "a rank of a hundred digits": _peft("r is 1000", r=10**100),
    "a rank that is a text": _peft("r is '8'", r="8"),
    "a rank that is true": _peft("r is True", r=True),
    "no rank": _peft("r is None", r=None),
    "a seed below zero": _peft("proj_seed is -1", proj_seed=-1),
    "targets that are numbers": _peft("target_modules is [1]", target_modules=[1]),
    "modules that are an object": _peft("modules_to_save is {}", modules_to_save={}),
    "a base that is a list": _peft("base_model_name_or_path is []", base_model_name_or_path=[]),
    "a pattern that explodes": _peft("takes too long", target_modules="(.*)*(.*)*(.*)*(.*)*$x"),
    "layers by such a pattern": _peft(
        "takes too long", layers_to_transform=[0], layers_pattern="(.*)*(.*)*(.*)*(.*)*$x"
    ),
    "no pattern": _peft("no regular expression", target_modules="("),
}

# ONNX files


def value(name, shape=None, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


MATMUL = helper.make_node("MatMul", ["x", "w"], ["y"])
FACTOR = numpy_helper.from_array(np.ones((32, 32), np.float32), "w")


def graph(*nodes, tensors=(FACTOR,), functions=(), shape=("batch", 32), **more) -> bytes:
    made = helper.make_graph(
        [MATMUL, *nodes], "g", [value("x", shape)], [value("y", (shape[0], 32))], list(tensors), **more
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("d", 1)]
    return helper.make_model(made, functions=functions, opset_imports=opsets).SerializeToString()


def function(name, *calls):
    nodes = [
        helper.make_node(
            each,
            ["i" if k == 0 else f"{k}"],
            ["o" if k == len(calls) - 1 else f"{k + 1}"],
            domain="d" if each[0] == "F" else "",
        )
        for k, each in enumerate(calls)
    ]
    return helper.make_function(
        "d", name, ["i"], ["o"], nodes, [helper.make_opsetid("", 18), helper.make_opsetid("d", 1)]
    )


def shape(name, *numbers):
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def computed(op, *inputs, tensors=(), **more) -> bytes:
    return graph(helper.make_node(op, inputs, ["z"], **more), tensors=[FACTOR, *tensors])


def _outside(**where) -> TensorProto:
    tensor = TensorProto(name="w", data_type=1, dims=[32, 32], data_location=TensorProto.EXTERNAL)
    for key, said in where.items():
        tensor.external_data.add(key=key, value=str(said))
    return tensor


def outside(**where) -> bytes:
    return graph(tensors=[_outside(**where)])


CALL = helper.make_node("F0", ["y"], ["z"], domain="d")
DOUBLING = [*(function(f"F{i}", f"F{i + 1}", f"F{i + 1}") for i in range(40)), function("F40", "Relu")]
CHAIN = [*(function(f"F{i}", f"F{i + 1}") for i in range(20_000)), function("F20000", "Relu")]
ONNX = {
    "functions that double": Seed(graph(CALL, functions=DOUBLING), "stands for"),
    "a chain of functions": Seed(graph(CALL, functions=CHAIN), "within each other"),
    "a function that calls itself": Seed(graph(CALL, functions=[function("F0", "F0")]), "calls itself"),
    "functions in a circle": Seed(graph(CALL, functions=[function("F0", "F1"), function("F1", "F0")]), "calls itself"),
    "a constant of a terabyte": Seed(computed("ConstantOfShape", "s", tensors=[shape("s", 2**36)]), "bytes"),
    "one of a shape that is computed": Seed(
        graph(
            helper.make_node("Pow", ["s", "t"], ["u"]),
            helper.make_node("ConstantOfShape", ["u"], ["z"]),
            tensors=[FACTOR, shape("s", 2), shape("t", 36)],
        ),
        "bytes",
    ),
    "an expansion": Seed(computed("Expand", "w", "s", tensors=[shape("s", 2**30, 32, 32)]), "bytes"),
    "a range": Seed(
        computed(
            "Range",
            "a",
            "b",
            "c",
            tensors=[numpy_helper.from_array(np.array(v, np.int64), n) for n, v in (("a", 0), ("b", 2**40), ("c", 1))],
        ),
        "bytes",
    ),
    "tiles": Seed(computed("Tile", "w", "s", tensors=[shape("s", 2**20, 2**20)]), "bytes"),
    "an input of 2^60": Seed(graph(shape=(2**60, 32)), "bytes"),
    "a shape without its bytes": Seed(
        graph(tensors=[TensorProto(name="w", data_type=1, dims=[2**40, 4], raw_data=b"1234")]), "4 are there"
    ),
    "a shape without any": Seed(graph(tensors=[TensorProto(name="w", data_type=1, dims=[2**40, 4])]), "0 numbers"),
    "a shape below zero": Seed(
        graph(tensors=[TensorProto(name="w", data_type=1, dims=[-1, 4], raw_data=b"1234")]), "has shape [-1, 4]"
    ),
    "a sparse tensor": Seed(
        graph(
            sparse_initializer=[
                helper.make_sparse_tensor(helper.make_tensor("v", 1, [1], [1.0]), shape("i", 5), [2**40])
            ]
        ),
        "sparse tensor",
    ),
    "data in a pipe": Seed(outside(location="pipe"), "no regular file"),
    "data behind the end": Seed(outside(location="base/config.json", offset=2**63, length=4096), "get the whole file"),
    "data of any length": Seed(outside(location="base/config.json", length=2**63), "get the whole file"),
    "data at a word": Seed(outside(location="base/config.json", offset="x"), "no numbers"),
    "no version of operators": Seed(
        onnx.ModelProto(ir_version=9, graph=onnx.load_from_string(graph()).graph).SerializeToString(), "opset_import"
    ),
    "graphs in graphs": Seed(b"", "no ONNX file"),
    "a pipe": PIPE,
}


def _within(depth) -> bytes:
    """Attributes with graphs within each other, as protobuf spells them: a hundred and more end its own reader."""
    data = b""
    for field in [b"\x32", b"\x2a", b"\x0a"] * depth:  # an attribute's graph, a node's attribute, a graph's node
        data = field + _varint(len(data)) + data
    return b"\x3a" + _varint(len(data)) + data


def _varint(number) -> bytes:
    digits = []
    while number >= 128:
        digits.append(number % 128 + 128)
        number //= 128
    return bytes([*digits, number])


ONNX["graphs in graphs"] = Seed(_within(1000), "no ONNX file")

# All

ADAPTER = {"vec.safetensors": _adapter()}
NAMES = {
    "a line of its own": Seed(_adapter(weight="x\nerror: all fine\n.weight"), None),
    "an escape": Seed(_adapter("\x1b[2J\u202e[bold]"), None),
}
TRAIN = ("backends.torch", "train", "--base", "base", "--output", "out.safetensors")


def _npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


ONTO_ONNX = (
    "export", "onnx", "--adapter", "vec.safetensors", "--base", "model.onnx", "-o", "out.onnx", "--map", f"{WEIGHT}=w",
)  # fmt: skip

# A trainer's checkpoint

RECORD = {
    "projection": {"kind": "balanced", "seed": "0", "d": 4, "D": 128}, "alpha": 2, "scaling": "lora", "trained": [],
    "layers": [{"name": WEIGHT, "in": 32, "out": 32, "rank": 2}],
}  # fmt: skip


def _state(record=RECORD, form="safetensors", **more) -> bytes:
    said = record if isinstance(record, bytes) else text(record)
    state = {
        "unilora_theta": torch.ones(4),
        "unilora_record": torch.frombuffer(bytearray(said), dtype=torch.uint8),
        **more,
    }
    if form == "safetensors":
        return safetensors.torch.save(state)
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def _unfolding() -> bytes:
    """A state of torch's whose entries are compressed: a gigabyte of zeros in a megabyte."""
    file, state = io.BytesIO(), io.BytesIO(_state(form="pt", more=torch.zeros(2**22)))
    with zipfile.ZipFile(state) as plain, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in plain.infolist():
            archive.writestr(entry.filename, plain.read(entry))
    return file.getvalue()


# Training in ONNX Runtime: a graph of a step, and the state that a training goes on from

BAG = adapter_for(8, "base")  # of the words of LM's tokenizer
BAG_FILES = {
    "vec.safetensors": encode(BAG),
    "base/config.json": text({"max_position_embeddings": 16}),
    "step.onnx": step_graph(BAG).SerializeToString(),
    "base/tokenizer.json": LM["base/tokenizer.json"],
    "base/tokenizer_config.json": LM["base/tokenizer_config.json"],
    "rows.csv": b"text,label\n" + b"is it good,1\nis it bad,0\n" * 8,
}


def _step(*nodes, tensors=(), functions=(), **metadata) -> bytes:
    """A graph of a step whose logits have the mean of "z" added to them, which ``nodes`` make, of "plain", the logits, or of ``tensors``."""
    made = step_graph(BAG, **metadata)
    if nodes:
        at, last = next((i, node) for i, node in enumerate(made.graph.node) if "logits" in node.output)
        last.output[0] = "plain"
        more = [
            helper.make_node("ReduceMean", ["z"], ["m"], keepdims=0),
            helper.make_node("Add", ["plain", "m"], ["logits"]),
        ]
        behind = list(made.graph.node)[at + 1 :]
        del made.graph.node[at + 1 :]
        made.graph.node.extend([*nodes, *more, *behind])
    made.graph.initializer.extend(tensors)
    made.functions.extend(functions)
    made.opset_import.append(helper.make_opsetid("d", 1))
    return made.SerializeToString()


def _of_shape(*numbers) -> bytes:
    return _step(helper.make_node("ConstantOfShape", ["s"], ["z"]), tensors=[shape("s", *numbers)])


EXPAND = helper.make_node("Expand", ["plain", "s"], ["z"])
SAME = helper.make_node("ReduceMean", ["w"], ["z"])
HUGE = TensorProto(name="w", data_type=1, dims=[2**40, 4], raw_data=b"1234")
TIMES = helper.make_node("F0", ["plain"], ["z"], domain="d")
STEPS = {
    "sound": Seed(_step(), None),
    "another mode": Seed(_step(mode="input"), "is a graph of the mode 'input'"),
    "no ONNX file": Seed(b"x", "no ONNX file"),
    "nothing": Seed(b"", "no ONNX file"),
    "functions that double": Seed(_step(TIMES, functions=DOUBLING), "stands for"),
    "a chain of functions": Seed(_step(TIMES, functions=CHAIN), "within each other"),
    "a function that calls itself": Seed(_step(TIMES, functions=[function("F0", "F0")]), "calls itself"),
    "functions in a circle": Seed(_step(TIMES, functions=[function("F0", "F1"), function("F1", "F0")]), "calls itself"),
    "a constant of a terabyte": Seed(_of_shape(2**38), "could not run it"),
    "an expansion": Seed(_step(EXPAND, tensors=[shape("s", 2**38, 1, 1)]), "could not run it"),
    "a shape without its bytes": Seed(_step(SAME, tensors=[HUGE]), "cannot load it"),
    "data in a pipe": Seed(_step(SAME, tensors=[_outside(location="pipe")]), "cannot load it"),
    "data behind the end": Seed(_step(SAME, tensors=[_outside(location="rows.csv", offset=2**40)]), "cannot load it"),
    "graphs in graphs": Seed(_within(1000), "step.onnx"),
    "a pipe": PIPE,
}

RUN = {"batch_size": 4, "rows": 16, "seed": "0", "steps": 2}


def _run_state(said=None, run=RUN, step=1, **tensors) -> bytes:
    """A state of a training of the bag; ``said`` goes in the place of its record."""
    with tempfile.TemporaryDirectory() as folder:
        save_state(replace(State.of(BAG), step=step), BAG, run, path := Path(folder, "run.state"))
        content = path.read_bytes()
    if said is None and not tensors:
        return content
    stored = safetensors.numpy.load(content) | tensors
    (record,) = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"].values()
    return safetensors.numpy.save(stored, {FIELD: record if said is None else said})


RUN_STATES = {
    "sound": Seed(_run_state(), None),
    "of another run": Seed(_run_state(run=RUN | {"rows": 7}), "is of a run with rows 7"),
    "behind the end": Seed(_run_state(step=2**60), ""),
    "before the start": Seed(_run_state(step=-1), "step -1"),
    "a record that nests": Seed(_run_state("[" * 10**5), "holds no state of a training"),
    "a record of a list": Seed(_run_state("[]"), "holds no state of a training"),
    "an adapter that is a list": Seed(
        _run_state('{"adapter":[],"run":[],"step":1,"version":"1"}'), "of another adapter"
    ),
    "a theta of another length": Seed(_run_state(theta=np.zeros(3, np.float32)), "has no values of theta"),
    "a mean that is no number": Seed(_run_state(**{"exp_avg.theta": np.full(16, np.nan, np.float32)}), "holds NaN"),
    "more than a state": Seed(_run_state(more=np.zeros(3, np.float32)), "which is no part of a state"),
    "a header of 70 MB": LONG,
    "a header that nests": Seed(packed(b'{"a":' * 10**5), "nested deeper"),
    "a pipe": Seed(_raised, "no such file"),
}

STEP_FILES = ("--graph", "step.onnx", "--adapter", "vec.safetensors", "--base", "base", "--data", "rows.csv")
STEP_TRAIN = (
    "--lr", "0.1", "--max-steps", "2", "--batch-size", "4", "--holdout", "0", "--output", "out.safetensors"
)  # fmt: skip

STATES = {
    "safetensors": {
        "sound": Seed(_state(), None),
        "a header of 70 MB": LONG,
        "a record that nests": Seed(_state(b"[" * 10**5), "nested deeper"),
        "a record of a megabyte": Seed(_state(b" " * 2**20), "and is up to"),
        "a layer map of 2^40 segments": Seed(
            _state(RECORD | {"layers": [RECORD["layers"][0] | {"name": "x.{i}.w", "layers": [0, 2**40]}]}), ""
        ),
        "a kind without its tensor": Seed(
            _state(RECORD | {"projection": RECORD["projection"] | {"kind": "table"}}), "which kind table needs"
        ),
        "a pipe": Seed(_raised, "no such file"),
    },
    "pt": {
        "sound": Seed(_state(form="pt"), None),
        "that unfolds": Seed(_unfolding(), "its entries are compressed"),
        "a program": Seed(pickle.dumps(print), "no file of torch's"),
        "a pipe": Seed(_raised, "no such file"),
    },
}

DOORS = [
    Door(
        "inspect",
        ("unilora_spec", "inspect", "vec"),
        "vec",
        {},
        {"sound": Seed(_adapter(), None), **NAMES, "a pipe": Seed(_raised, "no such file")},
    ),
    Door(
        "base's header",
        ("unilora_spec", "verify", "vec.safetensors", "--base", "base"),
        "base/model.safetensors",
        ADAPTER | BASE,
        {
            "sound": Seed(WEIGHTS, None),
            "a header of 70 MB": LONG,
            "a header of many values": Seed(
                packed(b'{"a":[' + b"1," * 3_000_000 + b"1]}"), "values; 2,097,152 is the limit"
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
        | {"a pipe": Seed(_raised, "no .safetensors")},
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
        CONFIGS | {"a pipe": Seed(_raised, "")},
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
    Door(
        "record of a checkpoint",
        (*TRAIN, "--data", "rows.csv", "--resume"),
        "out.checkpoints/checkpoint-1/whole.json",
        BASE | {"rows.csv": b"text,label\na,1\nb,0\n", "out.checkpoints/checkpoint-1/trainer_state.json": b"{}"},
        {name: Seed(seed.content, "") for name, seed in DEEP.items()},  # a checkpoint that is not whole is passed over
    ),
    Door(
        "state of a run",
        (*TRAIN, "--data", "rows.csv", "--resume"),
        "out.checkpoints/checkpoint-1/trainer_state.json",
        BASE | {"rows.csv": b"text,label\na,1\nb,0\n"},
        {name: Seed(seed.content, "") for name, seed in DEEP.items()},
    ),
    *(
        Door(
            f"state of a checkpoint, {form}",
            ("backends.torch", "adapter", "--checkpoint", f"model.{form}", "-o", "out.safetensors"),
            f"model.{form}",
            {},
            seeds,
        )
        for form, seeds in STATES.items()
    ),
    Door("prompts", (*GENERATE, "prompts.jsonl"), "prompts.jsonl", LM, PROMPTS),
    Door(
        "chat template",
        (*GENERATE, "prompts.txt", "--chat-template", "chat.jinja"),
        "chat.jinja",
        LM | {"prompts.txt": b"is it good\n"},
        TEMPLATES,
    ),
    Door(
        "options, evaluate", ("backends.torch", "evaluate", "--config", "options.yaml"), "options.yaml", {}, EVALUATION
    ),
    Door("options", ("backends.torch", "train", "--config", "options.yaml"), "options.yaml", BASE, YAML),
    *(
        Door(f"rows, {form}", (*TRAIN, "--data", f"rows.{form}"), f"rows.{form}", BASE, seeds)
        for form, seeds in ROWS.items()
    ),
    Door(
        "PEFT's configuration",
        ("export", "import-peft", "--adapter", "peft", "-o", "out.safetensors"),
        "peft/adapter_config.json",
        BASE | {"peft/adapter_model.safetensors": PEFT_TENSORS},
        {"sound": Seed(text(PEFT), None), **PEFT_CONFIGS, "a pipe": Seed(_raised, "has no adapter_config.json")},
    ),
    Door(
        "PEFT's tensors",
        ("export", "import-peft", "--adapter", "peft", "-o", "out.safetensors"),
        "peft/adapter_model.safetensors",
        BASE | {"peft/adapter_config.json": text(PEFT)},
        {"a header of 70 MB": LONG},
    ),
    Door(
        "report of a conformance run",
        ("conformance_tests.implementations", "report.json", "--folder", "all"),
        "report.json",
        {},
        {"sound": Seed(text(REPORT), None), **DEEP, "another object": Seed(b"{}", "it is no report of a run")},
    ),
    Door("ONNX, nodes", ("export", "nodes", "model.onnx"), "model.onnx", BASE, {"sound": Seed(graph(), None), **ONNX}),
    Door(
        "ONNX, export",
        ONTO_ONNX,
        "model.onnx",
        ADAPTER | BASE,
        {"sound": Seed(graph(), None), **ONNX},
    ),
    Door(
        "ONNX, folder",
        ("export", "onnx-folder", "--adapter", "vec.safetensors", "--base", "graphs", "-o", "out"),
        "graphs/model.onnx",
        ADAPTER
        | BASE
        | {f"graphs/{name}": content for name, content in BASE.items()},  # where the graphs say their data are
        ONNX,
    ),
    Door(
        "arrays",
        (*ONTO_ONNX, "--inputs", "in.npz"),
        "in.npz",
        ADAPTER | BASE | {"model.onnx": graph()},
        {
            "sound": Seed(_npz(x=np.ones((2, 32), np.float32)), None),
            "no arrays": Seed(b"x", "no .npz file"),
            "cut off": Seed(_npz(x=np.ones(99))[:-40], "no .npz file"),
            "a pipe": PIPE,
        },
    ),
    *(
        Door(f"step graph, {name}", ("backends.onnx", name, *STEP_FILES, *options), "step.onnx", BAG_FILES, STEPS)
        for name, options in (("train", STEP_TRAIN), ("evaluate", ()))
    ),
    Door(
        "state of a training",
        ("backends.onnx", "train", *STEP_FILES, *STEP_TRAIN, "--from-state", "run.state"),
        "run.state",
        BAG_FILES,
        RUN_STATES,
    ),
    Door(
        "page's adapter",
        ("backends.web", "--graph", "step.onnx"),
        "step.safetensors",
        BAG_FILES,
        {
            "sound": Seed(encode(BAG), "the page's packages are not there"),  # it would be served to a browser
            "a header of 70 MB": Seed(LONG.content, "262144 is the limit"),
            "a header that nests": Seed(packed(b'{"a":' * 10**4), "nested deeper"),
            "a pipe": Seed(_raised, "is not there"),
        },
    ),
    Door(
        "page's table",
        ("backends.web", "--data", "rows.csv"),
        "rows.csv",
        {},
        {
            "sound": Seed(b"text,label\na,1\n", "the page's packages are not there"),
            "a pipe": Seed(_raised, "is not there"),
        },
    ),
]
