"""Does an adapter fit a base model? Answered from the base's .safetensors files, with NumPy alone (SPEC 10)."""

from pathlib import Path

import numpy as np

from .adapter import Adapter
from .errors import BaseMismatch, FileError, UniLoraError
from .serialization import map_file, read_header

MAX_HEADER = 100_000_000  # the limit of the safetensors library; a base model's header may be large
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def compare_with_base(adapter: Adapter, folder) -> dict:
    """{"weights": how many are adapted, "same_contents": whether their values are the recorded ones (None: no record)}.

    ``folder`` holds the base's .safetensors files. Raises ``BaseMismatch`` where a weight is missing or of another
    shape, ``FileError`` where there is no such base or its files are unsound (SPEC 10.3).
    """
    tensors = _tensors(Path(folder))
    names = {name: _stored_name(name, tensors) for name in adapter.layer_map.by_weight()}
    shapes = {name: tensors[stored][1]["shape"] for name, stored in names.items()}
    adapter.check_base(shapes, folder)
    return {"weights": len(names), "same_contents": adapter.same_contents(lambda name: _read(*tensors[names[name]]))}


def _tensors(folder: Path) -> dict:
    """Every tensor of the folder's files by name: (file, header entry, where the file's data starts)."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileError(f"{folder} holds no .safetensors file; give the folder of the base model")
    tensors = {}
    for file in files:
        try:
            header, start = read_header(map_file(file), MAX_HEADER)
        except UniLoraError as error:
            raise error.within(file) from None
        header.pop("__metadata__", None)
        tensors |= {name: (file, entry, start) for name, entry in header.items()}
    return tensors


def _stored_name(name: str, tensors: dict) -> str:
    """The name in a checkpoint of a model's weight: frameworks store a base model with or without its prefix
    (`bert.encoder…` is `encoder…`), so leading components may be left out on either side (SPEC 10.4)."""
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


def _read(file, entry, start) -> np.ndarray:
    begin, stop = entry["data_offsets"]
    raw = np.memmap(file, np.uint8, "r", offset=start + begin, shape=stop - begin)
    if entry["dtype"] == "BF16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])
    if entry["dtype"] not in _FLOATS:
        raise FileError(f"{file}: a weight is stored as {entry['dtype']}, which has no values to compare", "10.2")
    return raw.view(_FLOATS[entry["dtype"]]).astype(np.float32).reshape(entry["shape"])
