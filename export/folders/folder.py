"""Writes the folders that an adapter is exported to, whole or not at all, and the JSON and .safetensors files in them."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unilora_spec import UniLoraError, canonical_json
from unilora_spec.places import check_output_folder
from unilora_spec.placing import placing


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


def check_new(path: Path) -> None:
    """Raises ``UniLoraError`` where a new folder cannot be at ``path``: something is there, or its parent is missing."""
    if not path.parent.is_dir():
        raise UniLoraError(f"the folder {path.parent} does not exist; create it, or give another output")
    check_output_folder(path)


@contextmanager
def new_folder(path: Path):
    """A temporary folder that takes the place of ``path`` when the block ends well, and is removed when it does not (``placing``).

    Raises ``UniLoraError`` where ``path`` holds something already or its parent is missing, ``WorkFailed`` where the disk refuses.
    """
    check_new(path)
    with placing(path) as beside:
        folder = beside / path.name
        folder.mkdir()
        yield folder
        if os.name == "nt" and path.is_dir():  # Windows does not rename onto a folder, not even an empty one
            path.rmdir()


def write_json(path: Path, value) -> None:
    """Writes ``value`` as JSON for people to read, its keys in the order given."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a .safetensors file (SPEC 8.2), its tensors in the order given but larger elements first, so that all are aligned."""
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
