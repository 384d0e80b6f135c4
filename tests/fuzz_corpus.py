"""What the fuzzer of the reader reads: seeds, sound and hostile, mutated.

Input i follows from the seed and i alone, so that it is the same in every process and however the work is split.
"""

import json
import random

import numpy as np
import test_file
from fuzz_mutations import mutated, packed, unpacked
from strategies import projection
from test_layer_map import transformer
from test_spec_text import TINY

from conformance_tests import hostile
from unilora_spec import Adapter, Base, LayerMap, Projection, Segment
from unilora_spec.container import MAX_HEADER
from unilora_spec.serialization import encode


def with_description(text) -> bytes:
    """The tiny file with another text, or another value, as its description."""
    header = test_file.header_of(test_file.DATA)
    text = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False, separators=(",", ":"))
    header["__metadata__"]["unilora"] = text
    return packed(header, test_file.DATA[-10:])


def with_layers(layers, D, **more) -> bytes:
    """The tiny file with other layers."""
    projection = {"kind": "balanced", "seed": "42", "d": 2, "D": D}
    return with_description({"projection": projection, "alpha": 1, "layers": layers, **more})


def one(name="", **more) -> dict:
    return {"in": 1, "name": name, "out": 1, "rank": 1, **more}


def light_seeds() -> list[bytes]:
    """Files that are read in well below a millisecond."""
    parts = [
        *(Segment(f"h.{i}.attn.weight", 4, 6, 2, transposed=True, row=row) for i in range(3) for row in (0, 8)),
        *(Segment(f"h.{i}.experts.up", 3, 2, 1, index=e) for i in range(2) for e in range(4)),
        Segment("conv", 3, 27, 3),
    ]
    stacked = LayerMap(parts, 0.5, "rslora")
    saved = {"head.weight": np.ones((2, 3)), "head.bias": np.zeros(2), "größe 𝔸": np.ones(()), "empty": np.ones((0, 3))}
    dtypes = {"theta": "F16", "saved.head.weight": "BF16", "saved.empty": "F16"}
    base = Base("a/model", "0" * 32, "9f" * 16, "BertForSequenceClassification", ("no", "yes"))
    folded = LayerMap(transformer(6), alpha=8)
    rows = LayerMap([Segment("w", 2, 3, 1, row=0), Segment("w", 1, 3, 1, row=2)])
    adapters = [
        TINY,
        Adapter(Projection(D=folded.D, d=16, seed=7), folded, np.linspace(-1, 1, 16), base),
        Adapter(Projection("uniform", D=stacked.D, d=9, seed=2**64 - 1), stacked, np.ones(9), base, saved, dtypes),
        Adapter(Projection("identity", D=rows.D, d=rows.D, seed=0), rows, np.ones(rows.D), dtypes={"theta": "BF16"}),
        Adapter(Projection(D=stacked.D, d=3, seed=1), stacked, np.zeros(3), None, saved),
        Adapter(projection("table", rows.D, 4), rows, np.ones(4), dtypes={"theta": "F16"}),
    ]
    sound = [encode(adapter) for adapter in adapters]
    spelled = []  # as other writers may spell the same adapters (SPEC 8.10)
    for data in sound:
        header, body = unpacked(data)
        value = json.loads(header)
        description = json.loads(value["__metadata__"]["unilora"])
        description["scaling"] = description.get("scaling", "lora")
        value["__metadata__"]["unilora"] = json.dumps(description, indent=1)
        spelled.append(packed(json.dumps(dict(reversed(value.items())), indent=2).encode() + b"\n \t", body))
        spelled.append(data.replace(b"theta", rb"th\u0065ta").replace(b":1,", b":1e0,"))
    directed = [case.file for case in (*hostile.CASES, *hostile.SOUND) if len(case.file) < 2000]
    return sound * 30 + spelled * 8 + directed


DENSE = (
    "[],", "{},", "[[]],", "[" * 12 + "]" * 12 + ",", '{"":{"":{"":{"":{"":0}}}}},', '"ab",', '"é",', '"😀x",', "1e5,",
    "9999,", '{"":[]},', r'"\u0001",', r'"\ud83d\ude00a",', '"\\\\\\"",', "true,", "null,", '"\\ud800",', "[1,2],",
)  # fmt: skip


def large_seeds() -> list[bytes]:
    """Headers near the limit of 256 KiB, most of them hostile."""
    seeds = [case.file for case in hostile.CASES if len(case.file) >= 2000]
    room = MAX_HEADER - 1000
    for unit in DENSE:
        seeds.append(packed(b'{"a":[' + (unit * (room // len(unit.encode()))).encode() + b"0]}"))
        escaped = len(json.dumps(unit, ensure_ascii=False).encode()) - 2
        filled = unit * (room // escaped)
        seeds.append(with_description("[" + filled + "0]"))
        named = filled[: -1 - len(unit) * 20]
        projection = '{"D":2,"d":2,"kind":"balanced","seed":"1"}'
        seeds.append(with_description(f'{{"alpha":1,"layers":[{{"name":[{named}]}}],"projection":{projection}}}'))
    flat = ",".join(f'"{i:x}":0' for i in range(24_000))
    seeds += [packed(f"{{{flat}}}".encode()), packed(f'{{"":{{{flat}}}}}'.encode())]
    seeds.append(with_layers([one(f"w{i}") for i in range(4_000)], 8_000))
    seeds.append(with_layers([one(f"layer.{i}.{i % 7}.w", index=[i, i + 2]) for i in range(3_000)], 12_000))
    count = 3_000
    offsets = [[at, at + 2] for at in range(8, 8 + 2 * count, 2)]
    tensors = {f"saved.{i}": {"dtype": "F16", "shape": [1], "data_offsets": pair} for i, pair in enumerate(offsets)}
    header = test_file.header_of(test_file.DATA)
    del header["saved.b"]
    seeds.append(packed(header | tensors, bytes(8 + 2 * count)))
    for text in ("x" * (room - 1000), "é" * 100_000, "😀" * 50_000, "\\" * 60_000):
        base = Base(text, "0" * 32, "0" * 32, labels=("a", "b"))
        seeds.append(encode(Adapter(TINY.projection, TINY.layer_map, TINY.theta, base)))
    base = Base("", "0" * 32, "0" * 32, labels=tuple("ab" + "😀" * (i % 2) for i in range(20_000)))
    seeds.append(encode(Adapter(TINY.projection, TINY.layer_map, TINY.theta, base)))
    return seeds


def heavy_seeds() -> list[bytes]:
    """Small files that ask for all that the limits of SPEC 7.1 allow, and large data."""
    most = 65_536
    run = {"layers": [0, most], "prefix": "x" * 57, "segments": [one()]}
    short = {**run, "layers": [0, 65_000]}
    seeds = [
        with_layers([run], 2 * most),
        with_layers([{**run, "prefix": "x" * 53 + "😀"}], 2 * most),
        with_layers([{**run, "layers": [0, 17_500], "prefix": "x" * 53 + "😀"}], 35_000),
        with_layers([{**run, "prefix": "x" * 10 + "ł"}], 2 * most),
        with_layers([{**run, "layers": [10**6, 10**6 + most], "prefix": "x" * 57}], 2 * most),
        with_layers([{**run, "layers": [0, 8_000], "prefix": "x" * 507}], 16_000),
        with_layers([one("w", index=[10**6, 10**6 + most])], 2 * most),
        with_layers([{"layers": [0, 256], "prefix": "😀.", "segments": [one(".w", index=[300, 556])]}], 2 * most),
        with_layers([{"layers": [0, 2], "prefix": "a.", "segments": [one("", index=[0, most // 4])] * 2}], 2 * most),
        with_layers([run, one("w")], 2 * most + 2),
        with_layers([short, one("x" * 57 + "64999")], 2 * 65_001),
        with_layers([short, {"name": [[[[]] * 9_000]]}], 2 * 65_001),
        with_layers([short], 2 * 65_000, base={"labels": [[[[]] * 9_000]]}),
        with_layers([short], 2 * 65_000, base={**hostile.BASE, "labels": ["é😀"] * 9_000}),
        with_layers([one(f"{i}", row=0) for i in range(2)] + [short], 2 * 65_002),
    ]
    for dtype, size, sound, broken in (
        ("F32", 4, b"\0\0\x80?", b"\0\0\xc0\x7f"),
        ("F16", 2, b"\0<", b"\0~"),
        ("BF16", 2, b"\x80?", b"\xc0\x7f"),
    ):
        for body in (sound * 2**21, broken * 2**21):
            tensor = {"dtype": dtype, "shape": [2**11, 2**10], "data_offsets": [8, 8 + size * 2**21]}
            header = test_file.header_of(test_file.DATA) | {"saved.b": tensor}
            seeds.append(packed(header, test_file.DATA[-10:-2] + body))
    return seeds


class Corpus:
    """All seeds, and input number i of a run."""

    def __init__(self, seed: int):
        self.seed, self.light, self.large, self.heavy = seed, light_seeds(), large_seeds(), heavy_seeds()

    def __getitem__(self, i: int) -> bytes:
        rng = random.Random(f"{self.seed}/{i}")  # a text is hashed the same way in every process
        # A large one costs a hundred times what a light one does, a heavy one some thousand times.
        kind, unchanged = rng.choices(((self.light, 0.02), (self.large, 0.3), (self.heavy, 0.5)), (20_000, 40, 2))[0]
        data = rng.choice(kind)
        if rng.random() < unchanged:
            return data
        for _ in range(1 + int(rng.expovariate(1.2))):
            data = mutated(rng, data, self.light)
        return data
