"""Reads a model's state from a file that may be a stranger's: tensors by name, each read when it is asked for, and
nothing else.

Of torch's own formats only zip files are read, with torch's loader for tensors alone: a pickle of anything else is a
program. A zip with compressed entries, which torch does not write, is refused, as a small one may unfold to any size.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from unilora_spec import FileError
from unilora_spec.base_model import read_file, read_pieces

# The names that trainers give the file with the state: transformers and accelerate, Lightning and plain torch.
NAMES = ("model.safetensors", "pytorch_model.bin", "*.ckpt", "*.pt", "*.pth")
OF_TORCH = (".bin", ".ckpt", ".pt", ".pth", ".tar")  # no adapter's file is called so
# The keys under which trainers keep the model's state in a file with other things.
INNER = ("state_dict", "model_state_dict", "model", "module")
_TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U8": torch.uint8,
}
_PIECE = 2**20

Tensors = dict[str, Callable[[], torch.Tensor]]


def tensors_in(path: Path, wanted: str) -> Tensors:
    """The tensors of the state in a file, each as a function that reads it: of the state that has a tensor called
    ``wanted``, with or without parts of a name before it.

    Raises ``FileError`` for a file that cannot be read so.
    """
    if not path.is_file():
        raise FileError("there is no such file; give a trainer's checkpoint")
    if path.suffix == ".safetensors":
        return {name: lambda stored=stored: _read(stored) for name, stored in read_file(path)[0].items()}
    content = _of_torch(path)
    while isinstance(content, dict) and not any(str(name).rpartition(".")[2] == wanted for name in content):
        content = next((content[name] for name in INNER if isinstance(content.get(name), dict)), None)
    tensors = content.items() if isinstance(content, dict) else ()
    return {
        name: lambda value=value: value for name, value in tensors if torch.is_tensor(value) and isinstance(name, str)
    }


def file_in(path: Path) -> Path:
    """The file with the model's state in the folder ``path`` of a checkpoint, or ``path`` itself where it is no folder.
    Raises ``FileError`` for a folder without such a file."""
    if not path.is_dir():
        return path
    found = [file for name in NAMES for file in sorted(path.glob(name))]
    if not found:
        raise FileError(
            f"{path} holds none of {', '.join(NAMES)}; give the file of the checkpoint that has the model's state"
        )
    return found[0]


def _read(stored):
    if stored.dtype not in _TORCH:
        raise FileError(f"a tensor is stored as {stored.dtype}; save it as one of {', '.join(_TORCH)}")
    raw = b"".join(read_pieces(stored, _PIECE))
    if not raw:
        return torch.zeros(stored.shape, dtype=_TORCH[stored.dtype])
    return torch.frombuffer(bytearray(raw), dtype=_TORCH[stored.dtype]).reshape(stored.shape)


def _of_torch(path):
    try:
        if not zipfile.is_zipfile(path):
            raise FileError("it is no file of torch's, or one of an old form; save it again, or as .safetensors")
        with zipfile.ZipFile(path) as archive:
            if any(entry.file_size != entry.compress_size for entry in archive.infolist()):
                raise FileError("its entries are compressed, as torch writes none; save it again, or as .safetensors")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileError:
        raise
    except Exception as error:  # noqa: BLE001  zip's, pickle's and torch's own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise FileError(f"it is no state of tensors alone: {reason[0]:.200}") from None


def as_bytes(tensor: torch.Tensor, most: int) -> bytes:
    """The bytes of a tensor uint8[n], n up to ``most``. Raises ``FileError`` for any other tensor."""
    if tensor.dtype != torch.uint8 or tensor.dim() != 1 or len(tensor) > most:
        raise FileError(
            f"its record has {tensor.dtype} and shape {list(tensor.shape)}, and is up to {most:,} bytes; give a whole checkpoint"
        )
    return np.asarray(tensor.cpu()).tobytes()
