"""The tiny adapter of SPEC 8, with the ways to write it with one thing changed."""

import json
import struct

from ..oracle import files

TEXT = {
    "projection": {"kind": "balanced", "seed": "42", "d": 2, "D": 5},
    "alpha": 1,
    "layers": [{"name": "w", "out": 2, "in": 3, "rank": 1}],
}
TENSORS = {"theta": ("F32", [2], [1.0, -0.5]), "saved.b": ("BF16", [1], [0.25])}
TINY = files.write(TEXT, TENSORS)
TABLE = TEXT | {"projection": TEXT["projection"] | {"kind": "table"}}
TABLE_TENSORS = TENSORS | {"index": ("I32", [5], [0, 1, 1, 0, 1])}
BODY = TINY[-10:]
BASE = {"name": "b", "structure": "0" * 32, "contents": "9f" * 16}


def text_of(segments, wrong=0) -> dict:
    """The description of the tiny file with these segments instead; ``wrong`` is added to its D."""
    D = sum(map(files.size, segments)) + wrong
    return TEXT | {"layers": segments, "projection": TEXT["projection"] | {"D": D}}


def tiny_header() -> dict:
    """The header of the tiny file."""
    return json.loads(TINY[8:-10])


def with_text(text, body=BODY) -> bytes:
    """A file with this header, text or bytes."""
    text = text if isinstance(text, bytes) else text.encode("utf-8")
    return struct.pack("<Q", len(text)) + text + body


def header(change, body=BODY) -> bytes:
    """The tiny file with its header changed by ``change(header)``."""
    value = tiny_header()
    change(value)
    return with_text(json.dumps(value), body)


def tensor(name="theta", body=BODY, **changes) -> bytes:
    """The tiny file with fields of one tensor's entry changed."""
    return header(lambda value: value[name].update(changes), body)


def metadata(**changes) -> bytes:
    """The tiny file with fields of its metadata changed, or taken out where None."""

    def change(value):
        value["__metadata__"] |= changes
        value["__metadata__"] = {key: item for key, item in value["__metadata__"].items() if item is not None}

    return header(change)


def size(entry) -> int:
    """The entries of θ_D that an entry of the compact form takes."""
    if "layers" in entry:
        return (entry["layers"][1] - entry["layers"][0]) * sum(map(size, entry["segments"]))
    first, end = entry["index"] if isinstance(entry.get("index"), list) else (0, 1)
    return (end - first) * files.size(entry)
