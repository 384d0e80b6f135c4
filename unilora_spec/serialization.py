"""Reading and writing the file (SPEC 8). A reader's first concern is hostile input: everything is checked from the
header's own numbers before anything is allocated from them, and nothing in a file is ever run."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import canonical_json
from .adapter import DTYPES, PROBLEM_TYPES, Adapter, Base
from .container import MAX_HEADER, NUMPY, SIZES, Data, as_stored, from_bytes, read_header, to_bytes
from .errors import FileError, UniLoraError, VersionError
from .layer_map import LayerMap
from .places import PathLike
from .placing import replacing
from .projection import Projection, kind_named
from .reading import FileBytes, open_bytes

FORMAT, VERSION = "unilora", "1"
SAVED = "saved."


def load_adapter(path: PathLike) -> Adapter:
    """The adapter in the file at ``path``, checked in full (SPEC 8.9).

    Raises ``FileError`` or another ``UniLoraError`` with the file's name for anything but a sound adapter, and ``OSError``
    where the file cannot be read.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise FileError("there is no such file; give the path of an adapter")
        with open_bytes(path) as data:
            return decode(data)
    except UniLoraError as error:
        raise error.within(path) from None


def save_adapter(adapter: Adapter, path: PathLike) -> int:
    """Writes the adapter's canonical bytes to ``path``, whole or not at all; returns how many (SPEC 8.1 to 8.7).

    Raises ``FileError`` for NaN, infinity and values that a tensor's dtype cannot hold, ``WorkFailed`` where the disk
    refuses. What stood at ``path`` stays until the new file is complete.
    """
    data = encode(adapter)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return len(data)


def encode(adapter: Adapter) -> bytes:
    """The canonical bytes of an adapter (SPEC 8.1 to 8.7)."""
    layout = _layout(adapter)
    buffers = []
    for name, (dtype, _) in layout.items():
        if dtype == "I32":
            buffers.append(np.asarray(adapter.projection.tensors[name], NUMPY[dtype]).tobytes())
        else:
            values = adapter.projection.tensors | {"theta": adapter.theta}
            value = values[name] if name in values else adapter.saved[name.removeprefix(SAVED)]
            buffers.append(to_bytes(name, np.asarray(value, np.float32), dtype))
    return b"".join([_head(adapter, layout), *buffers])


def encoded_size(adapter: Adapter) -> int:
    """The length of ``encode(adapter)``, from the shapes of its tensors alone."""
    layout = _layout(adapter)
    return len(_head(adapter, layout)) + sum(SIZES[dtype] * math.prod(shape) for dtype, shape in layout.values())


def _layout(adapter: Adapter) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The dtype and shape of each tensor of the file by name, in the order of their bytes (SPEC 8.3, 8.7)."""
    shapes = {"theta": np.shape(adapter.theta)} | {SAVED + name: np.shape(v) for name, v in adapter.saved.items()}
    layout = {name: (adapter.dtypes.get(name, "F32"), shape) for name, shape in shapes.items()}
    for name, (dtype, _) in layout.items():
        if dtype not in DTYPES:
            raise FileError(f"{name} cannot be stored as {dtype}; give one of {', '.join(DTYPES)}", "8.3")
    for name, dtype in adapter.projection.stored.items():
        layout[name] = dtype, np.shape(adapter.projection.tensors[name])
    return dict(sorted(layout.items(), key=lambda item: (-SIZES[item[1][0]], item[0])))


def _head(adapter: Adapter, layout: dict[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """The bytes before those of the tensors: the length of the header, and the header (SPEC 8.2 to 8.7)."""
    metadata = {"format": FORMAT, "version": VERSION, "unilora": _text(describe(adapter))}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in layout.items():
        begin, end = end, end + SIZES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    head = canonical_json.encode(header)
    head += b" " * (-len(head) % 8)
    if len(head) > MAX_HEADER:
        raise FileError(f"the header would be {len(head)} bytes long; {MAX_HEADER} is the limit", "8.2")
    return len(head).to_bytes(8, "little") + head


def is_canonical(adapter: Adapter, data: bytes) -> bool:
    """Whether ``data``, that ``adapter`` was read from, are its canonical bytes (SPEC 8.7, 8.10)."""
    try:
        return encode(adapter) == bytes(data)
    except FileError:  # its canonical header would be longer than a header may be
        return False


def decode(data: Data) -> Adapter:
    """The adapter in the bytes of a file, or in ``FileBytes``. Raises ``UniLoraError`` (SPEC 8.9)."""
    header, start = read_header(data, check_metadata=_check_version)
    metadata = header.pop("__metadata__")
    if set(metadata) != {"format", "version", "unilora"}:
        raise FileError("__metadata__ must have the fields format, version and unilora alone", "8.4")
    body = data if isinstance(data, FileBytes) else memoryview(data)

    def own(name: str, dtype: str) -> np.ndarray:
        if header.get(name, {}).get("dtype") != dtype:
            raise FileError(f"the file has no tensor {name} of {dtype}, which its kind asks for", "8.3")
        entry = header.pop(name)
        return as_stored(body, start, entry) if dtype == "I32" else from_bytes(name, body, start, entry)

    projection, layer_map, base = parse(canonical_json.decode(metadata["unilora"].encode("utf-8")), own)
    for name, entry in header.items():
        check_tensor(name, entry["dtype"])
    if header.get("theta", {}).get("shape") != [projection.d]:
        raise FileError(f"the file has no tensor theta of shape [{projection.d}], which its d asks for", "8.3")
    values = {name: from_bytes(name, body, start, entry) for name, entry in header.items()}
    theta = values.pop("theta")
    saved = {name.removeprefix(SAVED): value for name, value in sorted(values.items())}
    dtypes = {name: entry["dtype"] for name, entry in sorted(header.items()) if entry["dtype"] != "F32"}
    return Adapter(projection, layer_map, theta, base, saved, dtypes)


def check_tensor(name: str, dtype: str) -> None:
    """Raises ``FileError`` unless every adapter's file may hold a tensor of this name and dtype (SPEC 8.3)."""
    if name != "theta" and not (name.startswith(SAVED) and name != SAVED):
        raise FileError(f"the tensor {name!r:.80} is neither theta nor saved.NAME, nor one of the file's kind", "8.3")
    if dtype not in DTYPES:
        raise FileError(f"the tensor {name!r:.80} is {dtype!r:.40}; {', '.join(DTYPES)} are possible", "8.3")


def _check_version(metadata: Mapping[str, Any]) -> None:
    if metadata.get("format") != FORMAT:
        raise FileError("this is a safetensors file, but not a Uni-LoRA adapter (its format is not unilora)", "8.4")
    if (version := metadata.get("version")) != VERSION:
        raise VersionError(
            f"the file has version {version!r:.40} and this reader knows version {VERSION!r}; update the reader", "8.4"
        )


def describe(adapter: Adapter) -> dict[str, Any]:
    """The description that the file's `unilora` field holds (SPEC 8.5, 8.6)."""
    base = adapter.base
    description = {
        "projection": describe_projection(adapter.projection),
        "alpha": adapter.layer_map.alpha,
        "layers": adapter.layer_map.to_json(),
    }
    if adapter.layer_map.scaling != "lora":
        description["scaling"] = adapter.layer_map.scaling
    if base:
        description["base"] = {name: value for name, value in vars(base).items() if value is not None}
    return description


def describe_projection(p: Projection) -> dict[str, Any]:
    """What the description says of a projection (SPEC 8.5)."""
    return {"kind": p.kind, "seed": str(p.seed), "d": p.d, "D": p.D, **p.options}


def parse(
    description: dict[str, Any], own: Callable[[str, str], np.ndarray]
) -> tuple[Projection, LayerMap, Base | None]:
    """``describe`` backwards: the parts of a description, every field checked (SPEC 8.6). Raises ``UniLoraError``.

    ``own(name, dtype)`` gives the tensors that the kind has in the file, once all else is checked.
    """
    _fields(
        description,
        "unilora",
        {"projection": dict, "alpha": (int, float), "layers": list},
        {"scaling": str, "base": dict},
    )
    p = description["projection"]
    # The kind is checked before the other fields, as a kind that is unknown here may have other fields.
    options = kind_named(p["kind"]).known_options if isinstance(p.get("kind"), str) else {}
    _fields(p, "projection", {"kind": str, "seed": str, "d": int, "D": int, **dict.fromkeys(options, int)})
    if not re.fullmatch(r"0|[1-9][0-9]{0,19}", p["seed"]):
        raise FileError(f"seed is {p['seed']!r:.40}; it must be a decimal number below 2^64, as a string", "8.6")
    record: Base | None = None
    if "base" in description:
        _fields(
            description["base"], "base", {"name": str, "structure": str, "contents": str},
            {"architecture": str, "labels": list, "problem_type": str, "rest": str},
        )  # fmt: skip
        base = dict(description["base"])
        for name in ("structure", "contents"):
            if not re.fullmatch("[0-9a-f]{32}", base[name]):
                raise FileError(f"base.{name} is not 32 hexadecimal digits", "8.6")
        if "labels" in base:
            if not all(isinstance(label, str) for label in base["labels"]):
                raise FileError("base.labels must be a list of strings", "8.6")
            base["labels"] = tuple(base["labels"])
        if base.get("problem_type", PROBLEM_TYPES[0]) not in PROBLEM_TYPES:
            raise FileError(f"base.problem_type must be one of {', '.join(PROBLEM_TYPES)}", "8.6")
        if not re.fullmatch("([0-9a-f]{16})*", base.get("rest", "")):
            raise FileError("base.rest must be hexadecimal digits, 16 for each group of tensors", "8.6")
        record = Base(**base)
    # The layer map comes last, as it may be large: it is made only where all other fields are sound.
    layer_map = LayerMap.from_json(description["layers"], description["alpha"], description.get("scaling", "lora"))
    if layer_map.D != p["D"]:
        raise FileError(f"D is {p['D']}, but the layer map holds {layer_map.D} entries", "8.8")
    tensors = {name: own(name, dtype) for name, dtype in kind_named(p["kind"]).stored.items()}
    projection = Projection(  # type: ignore[abstract]  # the kind says of which class it is
        p["kind"], D=p["D"], d=p["d"], seed=int(p["seed"]), layer_map=layer_map, tensors=tensors,
        **{name: p[name] for name in options},
    )  # fmt: skip
    return projection, layer_map, record


def _fields(value: Any, name: str, required: dict[str, Any], optional: dict[str, Any] | None = None) -> None:
    known = required | (optional or {})
    if not isinstance(value, dict):
        raise FileError(f"{name} must be an object", "8.6")
    if missing := sorted(set(required) - set(value)):
        raise FileError(f"{name} has no field {missing[0]}", "8.6")
    for key, item in value.items():
        if key not in known:
            raise FileError(f"{name} has the unknown field {key!r:.60}", "8.6")
        if not isinstance(item, known[key]) or isinstance(item, bool):
            raise FileError(f"{name}.{key} is of the wrong type", "8.6")


def _text(description: object) -> str:
    return canonical_json.encode(description).decode("utf-8")
