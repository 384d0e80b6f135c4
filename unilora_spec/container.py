"""The safetensors container (SPEC 8.2), for any file of that format, and the tensors of an adapter's file as bytes (SPEC 8.3).

`verify` reads the headers of the base model's files with it. Everything is checked from the header's own numbers before anything is
allocated from them.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import canonical_json
from .errors import FileError
from .reading import FileBytes

Data = bytes | memoryview | FileBytes
MAX_HEADER = 2**18  # a header has hundreds of bytes, and hostile JSON unfolds to fifty times its text in memory
NUMPY = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I32": "<i4"}
"""NumPy's dtypes of the tensors that an adapter's file may have."""
SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
"""The bytes of a number, by its dtype."""


def read_header(
    data: Data, limit: int = MAX_HEADER, check_metadata: Callable[[dict[str, Any]], None] = lambda metadata: None
) -> tuple[dict[str, Any], int]:
    """The header of safetensors bytes, and where their tensors start. Raises ``FileError`` unless tensors fill the rest
    without gap or overlap and each is as long as its shape says (SPEC 8.2). ``check_metadata`` is called before
    anything else is checked, as a file of another version may have other tensors."""
    size = len(data)
    length = int.from_bytes(bytes(data[:8]), "little")
    if size < 8 or length > size - 8:
        raise FileError("this is no safetensors file, or a truncated one: it is shorter than its header says", "8.2")
    if length > limit:
        raise FileError(f"the header is said to be {length} bytes long; {limit} is the limit", "8.2")
    text = bytes(data[8 : 8 + length])
    if text[:1] != b"{":
        raise FileError("this is no safetensors file: its header does not start with {", "8.2")
    header = canonical_json.decode(text)
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict):
        raise FileError("__metadata__ must be an object", "8.2")
    check_metadata(metadata)
    if not all(isinstance(value, str) for value in metadata.values()):
        raise FileError("__metadata__ must hold strings alone", "8.2")
    spans = [_span(name, entry) for name, entry in header.items() if name != "__metadata__"]
    end = 0
    for begin, stop in sorted(spans):
        if begin != end:
            raise FileError(f"the tensors overlap or leave a gap at byte {min(begin, end)} of the data", "8.2")
        end = stop
    if end != size - 8 - length:
        raise FileError(f"the tensors end at byte {end} of the data, which has {size - 8 - length}", "8.2")
    return header, 8 + length


def _span(name: str, entry: Any) -> tuple[int, int]:
    fields_ok = isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"}
    if not (fields_ok and _is_sizes(entry["shape"]) and _is_sizes(entry["data_offsets"])):
        raise FileError(f"the tensor {name!r:.80} needs dtype, shape and data_offsets alone, of whole numbers", "8.2")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in SIZES or len(entry["data_offsets"]) != 2:
        raise FileError(f"the tensor {name!r:.80} has an unknown dtype or not two offsets", "8.2")
    begin, stop = entry["data_offsets"]
    count = math.prod(filter(None, entry["shape"])) * SIZES[entry["dtype"]]
    if count >= 2**53 or stop - begin != (0 if 0 in entry["shape"] else count):
        raise FileError(f"the tensor {name!r:.80} is not as long as its shape says", "8.2")
    return begin, stop


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 64 and all(type(v) is int and v >= 0 for v in value)


def to_bytes(name: str, value: np.ndarray, dtype: str) -> bytes:
    """float32 of any shape as the bytes of a tensor of ``dtype``. Raises ``FileError`` for what it cannot hold (SPEC 8.3)."""
    value = _check_finite(name, np.ascontiguousarray(value))
    if dtype == "BF16":
        bits = value.view(np.uint32).astype(np.uint64)
        stored = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")  # nearest, ties to even
    else:
        with np.errstate(over="ignore"):
            stored = value.astype(NUMPY[dtype])
    _check_finite(name, _widen(stored, dtype))
    return stored.tobytes()


def from_bytes(name: str, data: Data, start: int, entry: dict[str, Any]) -> np.ndarray:
    """The tensor of an entry of the header as float32; ``start`` is where the tensors start. Raises ``FileError`` for NaN and infinity."""
    return _check_finite(name, _widen(as_stored(data, start, entry), entry["dtype"]))


def as_stored(data: Data, start: int, entry: dict[str, Any]) -> np.ndarray:
    """The tensor of an entry of the header as it is stored, bfloat16 as uint16; ``start`` is where the tensors start."""
    begin, end = entry["data_offsets"]
    return np.frombuffer(data[start + begin : start + end], NUMPY[entry["dtype"]]).reshape(entry["shape"])


def _widen(raw: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return np.left_shift(raw, 16, dtype=np.uint32).view(np.float32)
    return raw.astype(np.float32)


def _check_finite(name: str, value: np.ndarray) -> np.ndarray:
    finite = np.isfinite(value)
    if not finite.all():
        raise FileError(
            f"{name:.80} holds NaN or infinity, first at entry {finite.argmin()}, or a value too large for its dtype",
            "8.3",
        )
    return value
