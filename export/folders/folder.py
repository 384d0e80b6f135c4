"""Folders that an adapter is exported to: whole or not at all; and what lies in them beside JSON: .safetensors files."""

import glob
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unilora_spec import UniLoraError, WorkFailed, canonical_json


class Tensor(NamedTuple):
    """A tensor to be written: its dtype by safetensors' name, and its ``size`` bytes, in pieces that are made when needed."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    pieces: Iterable


def tensor(array: np.ndarray) -> Tensor:
    """A float32 array as a ``Tensor``."""
    array = np.ascontiguousarray(array, "<f4")
    return Tensor("F32", array.shape, array.nbytes, [array.data])


@contextmanager
def new_folder(path: Path):
    """A temporary folder beside ``path`` that takes its place when the block ends well, and goes when it does not.

    Its files are on the disk before it is renamed. What a killed process left behind is cleared on the next call. Raises
    ``UniLoraError`` where ``path`` holds something already or its parent is missing, ``WorkFailed`` where the disk refuses.
    """
    if not path.parent.is_dir():
        raise UniLoraError(f"the folder {path.parent} does not exist; create it, or give another output")
    if path.exists() and not (path.is_dir() and next(path.iterdir(), None) is None):
        raise UniLoraError(f"{path} is there already; give a folder that does not exist or is empty")
    try:
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        try:
            yield temporary
            _settle(temporary)
            if path.is_dir():
                path.rmdir()
            temporary.rename(path)
            _flush(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise WorkFailed(f"{path} could not be written: {error.strerror or error}; nothing is there") from error


def write_json(path: Path, value) -> None:
    """``value`` as a person reads it, its keys in their order."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """A .safetensors file (SPEC 8.2), its tensors in the order given but larger elements first, so that all are aligned."""
    header, end = {"__metadata__": dict(metadata)} if metadata else {}, 0
    ordered = sorted(tensors.items(), key=lambda item: -item[1].size // max(1, math.prod(item[1].shape)))
    for name, t in ordered:
        header[name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [end, end + t.size]}
        end += t.size
    head = canonical_json.encode(header)
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for _, t in ordered:
            for piece in t.pieces:
                file.write(piece)


def _settle(folder: Path) -> None:
    """Everything in the folder flushed to the disk, and the folder as readable as one made by hand (mkdtemp's is not)."""
    for path in [*folder.rglob("*"), folder]:
        _flush(path)
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows cannot flush a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
