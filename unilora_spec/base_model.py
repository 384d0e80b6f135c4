"""A base model on disk: what its .safetensors files hold, and whether an adapter fits them, with NumPy alone (SPEC 10)."""

import contextlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from . import rest
from .adapter import Adapter
from .container import read_header
from .documents import NoObject, check_json, read_json
from .errors import BaseMismatch, FileError, UniLoraError
from .places import PathLike
from .reading import check_count, open_bytes, read_exactly

MAX_HEADER = 2**24  # a hundred bytes or so for each of 140,000 tensors, more than any base has in one file
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # how NumPy holds a weight of each dtype
WHOLE = 2**14  # bytes of a tensor that are read at once where a few of its entries are wanted
INDEX = "model.safetensors.index.json"  # says which file of a sharded checkpoint holds which tensor
LARGE_JSON = 2**26, 2**22  # bytes and values of a file that names every tensor, or every word of a vocabulary
# What a model has at most of what its config.json calls so: the largest have 130 layers, ten million positions, 21,843 labels.
MOST = (
    (re.compile(r"(layers?|blocks|depths?|stages)$"), 400),
    (re.compile("num_labels"), 2**17),
    (re.compile("position|n_ctx|seq_len|sequence_len"), 2**25),
)
MOST_NUMBER = 2**31  # no size of a model is larger


class Stored(NamedTuple):
    """A tensor of a base's files: ``size`` bytes from byte ``start`` of ``file`` on."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def compare_with_base(adapter: Adapter, folder: PathLike) -> dict[str, Any]:
    """Compares an adapter with a base on disk.

    ``folder`` holds the base's .safetensors files. Returns {"weights": the number of adapted weights, "same_contents": whether their
    values are the recorded ones (None where there is no record), "other_rest": one name for each group of other tensors that
    differs from the record (SPEC 10.6)}. Raises ``BaseMismatch`` where a weight is missing or of another
    shape, ``FileError`` where there is no such base or its files are unsound (SPEC 10.3).
    """
    tensors = tensors_of(Path(folder))
    weights = {name: tensors[stored_name(name, tensors)] for name in adapter.layer_map.by_weight()}
    adapter.check_base({name: stored.shape for name, stored in weights.items()}, folder)
    same = adapter.same_contents(lambda name: read_values(weights[name]))
    stored = {name: stored_name(name, tensors) for name in weights}
    return {"weights": len(weights), "same_contents": same, "other_rest": other_rest(adapter, tensors, stored)}


def other_rest(adapter: Adapter, tensors: Mapping[str, Stored], stored: Mapping[str, str]) -> list[str]:
    """``Adapter.other_rest`` of a base's files; ``stored`` gives for each adapted weight's name in the model its name there."""
    if not (adapter.base and adapter.base.rest):
        return []
    return adapter.other_rest(sampled(by_model_name(tensors, stored)))


def affix(stored: Mapping[str, str]) -> tuple[str, str]:
    """The prefix that only the model's names have, and the prefix that only the files' names have, such as "bert." and "" (SPEC 10.4).

    ``stored`` gives for each name in the model the name in the files. Both are empty where the names do not all agree on them."""
    pairs = {
        (name.removesuffix(inner), "") if name.endswith(inner) else ("", inner.removesuffix(name))
        for name, inner in stored.items()
    }
    return pairs.pop() if len(pairs) == 1 else ("", "")


def by_model_name(tensors: Mapping[str, Stored], stored: Mapping[str, str]) -> dict[str, Stored]:
    """All tensors of a base's files by the names that the model has for them, found by ``affix``."""
    prefix, outer = affix(stored)
    return {prefix + name.removeprefix(outer): each for name, each in tensors.items()}


def tensors_of(folder: Path) -> dict[str, Stored]:
    """Every tensor of a base's files, by name. Raises ``FileError`` where there is none, or a file is unsound (SPEC 8.2)."""
    return {name: stored for file in checkpoint_files(folder) for name, stored in read_file(file)[0].items()}


def checkpoint_files(folder: Path) -> list[Path]:
    """The files that a model is loaded from, in the order of their names: model.safetensors, or those that its index names, or all
    .safetensors files where there is neither. Other files are left out, as they may hold the same weights again under other names."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / INDEX).is_file():
        try:
            names = set(read_json(folder / INDEX, *LARGE_JSON)["weight_map"].values())
            files = sorted(folder / Path(name).name for name in names)
        except (NoObject, KeyError, TypeError, AttributeError) as error:
            raise FileError(f"{folder / INDEX} has no weight_map from names of tensors to files") from error
        if missing := [file for file in files if not file.is_file()]:
            raise FileError(f"{missing[0]} is missing, which {INDEX} names; get the whole base model")
    else:
        files = sorted(file for file in folder.glob("*.safetensors") if file.is_file())
    if not files:
        raise FileError(f"{folder} holds no .safetensors file; give the folder of the base model")
    return files


def read_file(file: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors of one file by name, as they lie in it, and its metadata. Raises ``FileError`` (SPEC 8.2)."""
    try:
        with open_bytes(file) as data:
            header, start = read_header(data, MAX_HEADER)
    except UniLoraError as error:
        raise error.within(file) from None
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        tensors[name] = Stored(file, entry["dtype"], tuple(entry["shape"]), start + begin, end - begin)
    return tensors, metadata


def check_base_folder(folder: Path) -> None:
    """Raises ``UniLoraError`` for a base's folder that would take a library too much memory or end it.

    It is called before a library reads the folder: JSON that nests deep ends a parser, a header of 70 MB takes gigabytes, and a
    config.json may ask for any number of layers. Files that are missing are not refused here.
    """
    for path in sorted(folder.glob("*.json")):
        if path.name == "config.json":
            read_config(path)
        else:
            check_json(path, *LARGE_JSON)
    for path in checkpoint_files(folder) if next(folder.glob("*.safetensors"), None) else ():
        read_file(path)


def read_config(path: Path) -> dict[str, Any]:
    """The values of a config.json. Raises ``UniLoraError`` for a file that is no config.json, and for numbers that no model has."""
    values = read_json(path)
    waiting = [("", values)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(str(inner), item) for inner, item in value.items()]
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]
        elif isinstance(value, int):
            most = next((most for name, most in MOST if name.search(key)), MOST_NUMBER)
            if abs(value) > most:
                raise UniLoraError(f"{path}: {key!r:.80} is {value!r:.30}; no model has more than {most:,}")
    return values


def stored_name(name: str, tensors: Iterable[str]) -> str:
    """The name in a checkpoint of a model's weight: frameworks store a base model with or without its prefix
    (`bert.encoder…` is `encoder…`), so leading components may be left out on either side (SPEC 10.4).

    Raises ``BaseMismatch`` where ``tensors`` has none of these names.
    """
    if name in tensors:
        return name
    parts = name.split(".")
    for i in range(1, len(parts) - 1):
        if ".".join(parts[i:]) in tensors:
            return ".".join(parts[i:])
    longer = [stored for stored in tensors if stored.endswith("." + name)]
    if len(longer) == 1:
        return longer[0]
    raise BaseMismatch(
        f"the base's files have no weight {name}; give the base that was adapted"
        " (a model whose weights are renamed while loading is checked by loading the adapter onto it)",
        "10.3",
    )


def read_raw(stored: Stored) -> np.ndarray:
    """The entries of a tensor, as ``FLOATS`` says: BF16 as uint16. The file is read, not mapped, as the pages of a map would stay in memory.

    Raises ``FileError`` for a tensor of another dtype, and for a file that has been cut since its header was read.
    """
    if stored.dtype not in FLOATS:
        raise FileError(f"{stored.file}: a weight is stored as {stored.dtype}, which has no values to compare", "10.2")
    form = np.dtype(FLOATS[stored.dtype])
    raw = np.fromfile(stored.file, form, stored.size // form.itemsize, offset=stored.start)
    try:
        check_count(stored.size, raw.nbytes)
    except FileError as error:
        raise error.within(stored.file) from None
    return raw.reshape(stored.shape)


def sampled(tensors: Mapping[str, Stored]) -> Iterator[tuple[str, tuple[int, ...], np.ndarray | None]]:
    """The tensors of a base's files as ``rest.fingerprint`` takes them: of each, only the few entries that are compared.

    Raises ``FileError`` for a file that has been cut since its header was read.
    """
    opened = {}
    with contextlib.ExitStack() as stack:
        for name, stored in tensors.items():
            values = None
            if stored.dtype in FLOATS:
                if stored.file not in opened:
                    opened[stored.file] = stack.enter_context(stored.file.open("rb", buffering=0))
                values = _entries(opened[stored.file], stored)
            yield name, stored.shape, values


def _entries(file: BinaryIO, stored: Stored) -> np.ndarray:
    form, count = np.dtype(FLOATS[stored.dtype]), math.prod(stored.shape)
    which = rest.entries(count)
    if stored.size <= WHOLE:
        raw = np.frombuffer(_read_at(file, stored.start, stored.size, stored), form)[which]
    else:
        pieces = [_read_at(file, stored.start + int(i) * form.itemsize, form.itemsize, stored) for i in which]
        raw = np.frombuffer(b"".join(pieces), form)
    with np.errstate(over="ignore"):
        return widen(raw) if stored.dtype == "BF16" else raw.astype(np.float32)


def _read_at(file: BinaryIO, start: int, count: int, stored: Stored) -> bytes:
    file.seek(start)
    try:
        return read_exactly(file, count)
    except FileError as error:
        raise error.within(stored.file) from None


def read_pieces(stored: Stored, most: int) -> Iterator[bytes]:
    """The bytes of a tensor of any dtype, ``most`` at a time. Raises ``FileError`` for a file that has been cut."""
    with stored.file.open("rb") as file:
        file.seek(stored.start)
        for start in range(0, stored.size, most):
            try:
                yield read_exactly(file, min(most, stored.size - start))
            except FileError as error:
                raise error.within(stored.file) from None


def read_values(stored: Stored) -> np.ndarray:
    """The values of a tensor as float32 (SPEC 10.2). Raises ``FileError`` where it is not of a float dtype."""
    raw = read_raw(stored)
    return widen(raw) if stored.dtype == "BF16" else raw.astype(np.float32, copy=False)


def widen(bits: np.ndarray) -> np.ndarray:
    """BF16's uint16 as float32, exactly (SPEC 8.3)."""
    return np.left_shift(bits, 16, dtype=np.uint32).view(np.float32)
