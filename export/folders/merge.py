"""``python -m export merge``: the base model's checkpoint with the adapter in its weights, from files to files.

NumPy alone, one tensor at a time. The checkpoint stays what it was: the same files with the same tensors of the same dtype
and shape. A weight is read, ΔW added in float32 (float64 where it is one), and rounded once, to nearest, ties to even.

A checkpoint holds one copy of weights that a model ties, so that ΔW acts wherever the model uses it. Where the files hold a
second copy, a warning says so: it stays as it was.

A base from a stranger may hold links to whatever is on this machine, and a merged folder is made to be passed on. So a file is
copied only where it is the base's own (``places.own_file``). The weights are read through links all the same, with a
warning: many keep them elsewhere, and only the tensors of a sound .safetensors file get through, into which no other file
can be made.
"""

import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unilora_spec import Adapter, BaseMismatch, UniLoraError, load_adapter
from unilora_spec.base_folder import base_folder
from unilora_spec.base_model import (
    FLOATS,
    INDEX,
    LARGE_JSON,
    Stored,
    checkpoint_files,
    read_file,
    read_pieces,
    read_raw,
    stored_name,
    widen,
)
from unilora_spec.documents import read_json
from unilora_spec.places import own_file

from .base_files import BaseFiles
from .folder import Tensor, check_new, new_folder, tensor, write_json, write_tensors

CHUNK = 2**24  # bytes in memory at once of a tensor that is only copied
# Files with weights in other formats: they are not copied, as they would stand beside the merged weights without the adapter.
OTHER_WEIGHTS = {
    ".bin", ".pt", ".pth", ".ckpt", ".ot", ".h5", ".msgpack", ".npz", ".onnx", ".onnx_data", ".data", ".xml", ".gguf", ".ggml",
    ".tflite", ".mlmodel", ".mlpackage", ".safetensors", ".engine", ".pdparams",
}  # fmt: skip


def merge(adapter: Path, output: Path, base: Path | None = None, progress=lambda step, done, total: None) -> dict:
    """Writes the base with the adapter merged in to the folder ``output``, and returns the report.

    ``base`` is a folder with .safetensors files, by default the one that the adapter names. ``progress`` is told of each step's
    bytes. Raises ``BaseMismatch`` for a base that does not fit, ``UniLoraError`` for a call that cannot be met and for a
    weight that cannot be added to, ``WorkFailed`` where the disk refuses; then nothing is at ``output`` (SPEC 7.10, 10.3).
    """
    loaded = load_adapter(adapter)
    check_new(output)
    folder = base_folder(loaded, base)
    if folder.resolve() in (output.resolve(), *output.resolve().parents):
        raise UniLoraError(f"{output} is the base, or lies in it; give another folder")
    with new_folder(output) as target:
        return _Merge(loaded, folder, target, progress).run() | {"output": str(output)}


class _Merge:
    """One merge, from where everything comes to where it goes. ``saved`` are the parameters trained in full that the base's files have, by
    their names there, ``added`` those that they lack; ``prefix`` is put before all names."""

    def __init__(self, adapter: Adapter, folder: Path, target: Path, progress):
        self.adapter, self.folder, self.target, self.progress = adapter, folder, target, progress
        self.files = checkpoint_files(folder)
        self.base = BaseFiles(adapter, folder, progress)
        self.placed = {self.base.stored[name]: placed for name, placed in adapter.layer_map.placed_by_weight().items()}
        prefix, outer = self.base.affix()
        self.saved, self.added = {}, {}
        for name, value in adapter.saved.items():
            inner = _find(name, self.base)
            own = inner in (name, name.removeprefix(prefix), outer + name)
            # One of another shape takes the place of the base's own, a head of other classes, but not of a mere namesake.
            stored = inner and self.base.named[inner]
            if inner and (own or self.base.tensors[stored].shape == value.shape):
                self.saved[stored] = value
            else:
                self.added[outer + name] = value
        # A base without a head names its tensors without its prefix. With a head it must have the prefix, or some loaders put
        # it before the head's names as well.
        bare = self.added and not any(name.startswith(prefix) for name in self.base.tensors)
        self.prefix = prefix if bare else ""
        self.done, self.total = 0, sum(stored.size for stored in self.base.tensors.values())

    def run(self) -> dict:
        left_out, strange = self._copy_others()
        weight_map, size, count = {}, 0, 0
        for file in self.files:
            tensors, metadata = read_file(file)
            new = {self.prefix + name: self._tensor(name, stored) for name, stored in tensors.items()}
            if file == self.files[-1]:
                new |= {name: tensor(value) for name, value in sorted(self.added.items())}
            write_tensors(self.target / file.name, new, metadata)
            weight_map |= dict.fromkeys(new, file.name)
            size += sum(t.size for t in new.values())
            count += sum(math.prod(t.shape) for t in new.values())
        if (self.target / INDEX).is_file():
            self._write_index(weight_map, {"total_size": size, "total_parameters": count})
        self._write_config()
        written = [path for path in self.target.rglob("*") if path.is_file()]
        return {
            "base": str(self.folder),
            "files": len(written),
            "bytes": sum(path.stat().st_size for path in written),
            "weights": len(self.placed),
            "saved": sorted(self.adapter.saved),
            "left_out": left_out,
            "warnings": self.base.warnings + self._linked() + strange + _copies(self.base),
        }

    def _tensor(self, name: str, stored: Stored) -> Tensor:
        if name in self.placed:
            pieces = self._merged(name, stored)
        elif name not in self.saved:
            pieces = self._copied(stored)
        elif stored.shape == self.saved[name].shape and stored.dtype in FLOATS:
            pieces = [_narrow(self.saved[name], stored.dtype, name)]
        else:
            return tensor(self.saved[name])
        return Tensor(stored.dtype, stored.shape, stored.size, pieces)

    def _merged(self, name: str, stored: Stored) -> Iterator[np.ndarray]:
        weight = read_raw(stored)
        self.adapter.add_deltas(
            self.placed[name],
            weight,
            widen if stored.dtype == "BF16" else lambda part: part.astype(np.promote_types(part.dtype, np.float32)),
            lambda values: _narrow(values, stored.dtype, name),
        )
        yield weight
        self._advance(stored.size)

    def _copied(self, stored: Stored) -> Iterator[bytes]:
        for piece in read_pieces(stored, CHUNK):
            yield piece
            self._advance(len(piece))

    def _advance(self, count: int) -> None:
        self.done += count
        self.progress("writing", self.done, self.total)

    def _copy_others(self) -> tuple[list[str], list[str]]:
        """Copies the files beside the weights. Returns the names of those that are left out because their weights would not be
        merged, and a warning for each that is left out because it is no file of the base's own."""
        left_out, strange = [], []
        for place, folders, names in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            linked = [name for name in folders if Path(place, name).is_symlink()]  # these are not walked into
            for path in (Path(place, name) for name in sorted([*names, *linked])):
                inner = path.relative_to(self.folder)
                if path in self.files or path.name.startswith("."):
                    continue
                # In a folder of its own, a .safetensors file holds another module, such as sentence-transformers' Dense.
                module = path.suffix == ".safetensors" and path.parent != self.folder
                index = path.name.endswith(".index.json") and path != self.folder / INDEX
                if index or (path.suffix in OTHER_WEIGHTS and not module):
                    left_out.append(str(inner))
                elif own := own_file(self.folder, inner):
                    (self.target / inner).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(own, self.target / inner)
                elif path == self.folder / INDEX:
                    raise UniLoraError(f"{path} is no file of the base's own folder; give the folder that has it")
                else:
                    strange.append(f"{inner} is left out, as it is no file of the base's own folder")
        return left_out, strange

    def _linked(self) -> list[str]:
        """A warning for each file of weights that is elsewhere."""
        return [
            f"the weights {file.name} are read through a link, from {file.resolve()}"
            for file in self.files
            if own_file(self.folder, file.name) is None
        ]

    def _write_index(self, weight_map: dict, totals: dict) -> None:
        before = read_json(self.folder / INDEX, *LARGE_JSON)
        metadata = before.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        metadata = metadata | {name: total for name, total in totals.items() if name in metadata}
        index = before | {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
        if index != before:
            write_json(self.target / INDEX, index)

    def _write_config(self) -> None:
        """Writes the model's class, labels and kind of outputs into config.json as the adapter records them: those of the base may be
        those of a model without the head."""
        record, path = self.adapter.base, self.target / "config.json"
        if record is None or not path.is_file():
            return
        before = read_json(path)
        config = dict(before)
        if record.architecture:
            config["architectures"] = [record.architecture]
        if record.labels:
            config["id2label"] = {str(i): label for i, label in enumerate(record.labels)}
            config["label2id"] = {label: i for i, label in enumerate(record.labels)}
            if "num_labels" in config:
                config["num_labels"] = len(record.labels)
        if record.problem_type:
            config["problem_type"] = record.problem_type
        if config != before:
            write_json(path, config)


def _find(name: str, base: BaseFiles) -> str | None:
    """The name in the model's code of the tensor in the files that is the parameter ``name``, or None."""
    try:
        return stored_name(name, base.named)
    except BaseMismatch:
        return None


def _narrow(values: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """Floats in the form that the files hold them in, rounded to nearest, ties to even (SPEC 8.3)."""
    with np.errstate(over="ignore"):
        if dtype == "BF16":
            bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
            stored = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            finite = np.isfinite(widen(stored)).all()
        else:
            stored = values.astype(FLOATS[dtype])
            finite = np.isfinite(stored).all()
    if not finite:
        raise UniLoraError(f"{name} would hold values too large for {dtype}, or NaN; give a base in F32 or BF16")
    return stored


def _copies(base: BaseFiles) -> list[str]:
    """A warning for each tensor that is a second copy of an adapted one, as of a weight that the model ties."""
    stored = set(base.stored.values())
    alike = defaultdict(list)
    for name, t in base.tensors.items():
        if name not in stored:
            alike[t.dtype, t.shape].append(name)
    found = []
    for name, inner in base.stored.items():
        one = base.tensors[inner]
        for other in alike[one.dtype, one.shape]:
            if _same_bytes(one, base.tensors[other]):
                found.append(f"{other} is the same as the adapted {name} and stays as it was; a model may tie the two")
    return found


def _same_bytes(one: Stored, other: Stored) -> bool:
    with one.file.open("rb") as a, other.file.open("rb") as b:
        a.seek(one.start)
        b.seek(other.start)
        at, chunk = 0, 2**12  # nearly always the first few numbers differ
        while at < one.size:
            count = min(chunk, one.size - at)
            if a.read(count) != b.read(count):
                return False
            at, chunk = at + count, CHUNK
    return True
