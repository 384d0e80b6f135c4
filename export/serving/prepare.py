"""An adapter's file as the LoRA folder that a server loads, made once and kept, with NumPy alone."""

import hashlib
from pathlib import Path

from unilora_spec import Adapter, BaseMismatch, UniLoraError, WorkFailed
from unilora_spec.base_model import checkpoint_files
from unilora_spec.places import own_file
from unilora_spec.serialization import decode

from ..folders.base_files import BaseFiles
from ..folders.lora import lora_rank, modules_of, write_lora
from ..folders.peft_names import CONFIG


def adapter_file(folder: Path, name: str) -> Path | None:
    """The file ``NAME.safetensors`` of ``folder`` itself (``places.own_file``), or None.

    Names come from whoever asks the server. A name that is a path finds nothing, even where the path leads into the folder:
    each file has one name, so that nobody makes the server load it under many.
    """
    return own_file(folder, f"{name}.safetensors") if Path(name).name == name else None


def lora_folder(file: Path, base: Path, cache: Path, max_rank: int | None = None) -> Path:
    """The folder in ``cache`` with A and B of the adapter in ``file`` (``write_lora``), which the first call writes.

    ``base`` is the folder of the base that the server has, ``max_rank`` the largest rank that it takes, or None where that is not
    known. The folder's name is the SHA-256 of the file and of which files the base has, with their sizes and times, so that it
    stands for this adapter on this base, and the base is compared with the adapter's record (SPEC 10) once. Several
    processes may share a cache: the first folder that comes to its place stays, and the others' callers get it.

    Raises ``UniLoraError`` with the file's name: for a file that is no sound adapter, a base that is not the one on record
    (``BaseMismatch``), a rank above ``max_rank``, and what a server's LoRA cannot say (parameters trained in full, rank 0, embeddings,
    convolutions, stacked experts); ``WorkFailed`` where something cannot be read or written.
    """
    try:
        data = file.read_bytes()
        adapter = decode(data)
        _check(adapter, max_rank)
        folder = cache / _key(data, base)
        if not _is_there(folder):
            cache.mkdir(parents=True, exist_ok=True)
            _write(adapter, base, folder)
        return folder
    except UniLoraError as error:
        raise error.within(file.name) from None
    except OSError as error:
        raise WorkFailed(f"{file.name}: {error.filename or cache}: {error.strerror or error}") from error


def _check(adapter: Adapter, max_rank: int | None) -> None:
    modules_of(adapter)
    if adapter.saved:
        raise UniLoraError(
            f"{min(adapter.saved)} is trained in full, and the server takes A and B alone; serve what export merge writes"
        )
    if max_rank is not None and (rank := lora_rank(adapter.layer_map)) > max_rank:
        raise UniLoraError(
            f"its rank is {rank}, and the server takes {max_rank} at most; start the server with --max-lora-rank {rank} or above"
        )


def _key(data: bytes, base: Path) -> str:
    files = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in checkpoint_files(base)]
    return hashlib.sha256(data + repr(files).encode()).hexdigest()


def _is_there(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def _write(adapter: Adapter, base: Path, folder: Path) -> None:
    files = BaseFiles(adapter, base)
    if files.warnings:
        raise BaseMismatch(f"{files.warnings[0]}; serve the adapter with its own base, not with {base}")
    for name in adapter.layer_map.by_weight():
        if len(files[name].shape) > 2:
            raise UniLoraError(
                f"{name} is the weight of a convolution, and the server takes A and B of matrices alone; serve what export merge writes"
            )
    try:
        write_lora(adapter, files, folder, str(base))
    except UniLoraError:
        if not _is_there(folder):  # else another process was first
            raise
