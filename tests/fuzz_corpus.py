"""What the fuzzer of the reader reads: seeds, sound and hostile, and their mutations.

Input i follows from the seed and i alone, so that it is the same in every process and however the work is split.
"""

import json
import random
import re
import struct

import numpy as np
import test_file
from strategies import projection
from test_layer_map import transformer
from test_spec_text import TINY

from conformance_tests import hostile
from unilora_spec import Adapter, Base, LayerMap, Projection, Segment
from unilora_spec.container import MAX_HEADER
from unilora_spec.serialization import encode

# The seeds


def packed(header, body=b"") -> bytes:
    """A file of a header, which may be JSON text or a value, and data. Its length is right."""
    if not isinstance(header, bytes):
        header = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return len(header).to_bytes(8, "little") + header + body


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


# The mutations


def mutated(rng, data: bytes, others) -> bytes:
    """``data`` with one change, in its bytes, its header's text, its description's text or a value of either."""
    where = rng.choices(("file", "header", "description", "value", "tensor"), (1, 3, 4, 7, 5))[0]
    if where == "file":
        return changed(rng, data, rng.choice(others))
    header, body = unpacked(data)
    if where == "header":
        return _length_repaired(rng, changed(rng, header, unpacked(rng.choice(others))[0]), body)
    try:
        value = json.loads(header)
        metadata = value["__metadata__"]
        if where == "description":
            text = metadata["unilora"].encode("utf-8", "surrogatepass")
            other = json.loads(unpacked(others[0])[0])["__metadata__"]["unilora"].encode()
            metadata["unilora"] = changed(rng, text, other).decode("utf-8", "replace")
        elif where == "value":
            description = json.loads(metadata["unilora"])
            change_value(rng, description)
            metadata["unilora"] = json.dumps(description, ensure_ascii=rng.random() < 0.5)
        else:
            change_value(rng, value)
            if rng.random() < 0.7:
                body = _laid_out(rng, value, body)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        return _length_repaired(rng, changed(rng, header, TOKENS[0]), body)  # no adapter any more: its text, then
    return packed(value, body)


def unpacked(data: bytes) -> tuple[bytes, bytes]:
    """Header and data; of a file whose length is wrong, all as the header."""
    length = int.from_bytes(data[:8], "little")
    return (data[8 : 8 + length], data[8 + length :]) if length <= len(data) else (data[8:], b"")


def _length_repaired(rng, header, body):
    data = packed(header, body)
    if rng.random() > 0.03:
        return data
    wrong = rng.choice((0, 1, len(header) + 1, len(header) + 10, len(header) // 2, 2**18 + 1, 2**63))
    return wrong.to_bytes(8, "little") + data[8:]


TOKENS = (
    r"""
    { } [ ] : , " null true false NaN -Infinity [] {} "" [[]] "a":0, "a":{}, {"name":"w","out":1,"in":1,"rank":1} /**/ ' \ \u
    0 -0 -1 1 2 0.5 -0.0 1e0 1E400 1e-400 255 65535 65536 65537 007 1048576 1048577 0.0001 0.00009999 2147483647 2147483648
    1099511627775 1099511627776 9007199254740991 9007199254740992 -9007199254740992 18446744073709551616 11111111111111111
    [0,2] [0,65536] [1099511627774,1099511627776] [0,0] [2,1] "18446744073709551615" "0" "0.0" 9999999999999999999999999999999999
    "theta" "saved.b" "saved." "__metadata__" "unilora" "format" "version" "1" "2" "F32" "F16" "BF16" "F64" "BOOL" "dtype"
    "shape" "data_offsets" "projection" "balanced" "uniform" "identity" "kind" "seed" "d" "D" "alpha" "layers" "lora" "rslora"
    "scaling" "base" "prefix" "segments" "name" "in" "out" "rank" "row" "index" "transposed" "labels" "architecture"
    "structure" "contents" "w" "\ud800" "\ud83d\ude00" "\u0000" "\"" "\\" "é" "😀"
""".encode().split()
    + [b" ", b"\n", b"\0", "\ufeff".encode(), "\u2028".encode()]
)
TOKEN = re.compile(rb'"[^"]*"|-?[0-9][0-9.eE+-]*|[a-zA-Z]+|[][{}:,]')
NUMBER = re.compile(rb"[0-9]+")


def changed(rng, text: bytes, other: bytes) -> bytes:
    """``text`` with one change of its bytes; ``other`` is what it may be spliced with."""
    at = rng.randrange(len(text) + 1)
    span = 1 + int(rng.expovariate(0.1))
    head, tail = text[:at], text[at:]
    match rng.randrange(11):
        case 0 if tail:
            return head + bytes([tail[0] ^ 1 << rng.randrange(8)]) + tail[1:]
        case 1:
            return head + rng.randbytes(min(span, 8)) + tail[1:]
        case 2:
            return head + tail[span:]
        case 3:
            return head + tail[:span] + tail
        case 4:  # at times up to the limit of a header, mostly a few times
            most = (MAX_HEADER - len(text)) // span if rng.random() < 0.01 else 40
            return head + tail[:span] * rng.randint(2, max(2, most)) + tail
        case 5:
            return head + rng.choice(TOKENS) + tail
        case 6:
            cut = rng.randrange(len(other) + 1)
            return head + other[cut:]
        case 7:
            return head
        case 8 if found := NUMBER.search(text, at):
            digits = bytearray(found.group())
            digits[rng.randrange(len(digits))] = rng.choice(b"0123456789")
            return text[: found.start()] + digits + text[found.end() :]
        case _ if found := TOKEN.search(text, at):
            again = TOKEN.search(text, rng.randrange(len(text)))
            token = again.group() if again and rng.random() < 0.3 else rng.choice(TOKENS)
            return text[: found.start()] + token + text[found.end() :]
    return text


VALUES = (
    None, True, False, -1, 0, 1, 2, 3, 8, 255, 256, 65_535, 65_536, 2**20, 2**31 - 1, 2**31, 2**40 - 1, 2**40, 2**53 - 1,
    2**53, 10**30, 0.5, -0.0, 1e-4, 2.0**20, 1e300, "", "x", "w", "0", "42", "0" * 32, "F16", "BF16", "F32", "uniform",
    "identity", "rslora", "😀", "\ud800", "é" * 256, "x" * 513, "\x00\x1b", "1.2.3", "layer.", [], {}, [0, 2], [2, 4],
    [0, 65_536], [0, 300], [2**40 - 2, 2**40], [1, 2, 3], ["a"], [[]], [{}], [None],
)  # fmt: skip
WORDS = (
    "name",
    "in",
    "out",
    "rank",
    "row",
    "index",
    "transposed",
    "layers",
    "prefix",
    "segments",
    "labels",
    "more",
    "",
)


def change_value(rng, root) -> None:
    """Changes one value inside of ``root``, a value of JSON, in place."""
    places = list(test_file.every_value(root))
    place, key = rng.choice(places)
    value = place[key]
    match rng.randrange(8):
        case 0:
            del place[key]
        case 1:
            other, its_key = rng.choice(places)
            place[key] = json.loads(json.dumps(other[its_key]))
        case 2 if isinstance(value, list):
            value.insert(rng.randrange(len(value) + 1), rng.choice(value or VALUES))
        case 2 | 3 if isinstance(value, dict):
            value[rng.choice(WORDS)] = rng.choice(VALUES)
        case 4 if isinstance(place, dict) and len(place) > 1:
            place[rng.choice(list(place))] = place.pop(key)
        case 5 if type(value) in (int, float):
            place[key] = rng.choice((value + 1, value - 1, value * 2, -value, value / 2, rng.getrandbits(40)))
        case 5 if isinstance(value, str):
            place[key] = rng.choice(
                (value + "x", value[:-1], value[::-1], value + ".0.1", "saved." + value, value * 20)
            )
        case _:
            place[key] = json.loads(json.dumps(rng.choice(VALUES)))


def _laid_out(rng, header, body) -> bytes:
    """Offsets that fit the shapes and dtypes of the header's tensors, and data of that length: so that what a change
    of a shape or a dtype means beyond the container is looked at as well."""
    end = 0
    for name, entry in header.items():
        if name != "__metadata__":
            count = struct.calcsize({"F32": "f", "F64": "d"}.get(entry["dtype"], "H"))
            for number in entry["shape"]:
                if type(number) is not int or not 0 <= number < 2**16 or count >= 2**16:
                    raise ValueError("too long to be made")
                count *= number
            entry["data_offsets"] = [end, end + count]
            end += count
    filler = rng.choice((b"\0\0\x80?", b"\0<", b"\x01\x80", b"\xff\x7f\x7f\x7f", rng.randbytes(16)))
    return (body + filler * (end // len(filler) + 1))[:end]
