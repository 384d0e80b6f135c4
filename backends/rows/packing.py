"""Unfolds compressed files into plain ones within bounds, so that a small file cannot take gigabytes."""

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow

from unilora_spec import UniLoraError
from unilora_spec.documents import size_of

ENDS = (".gz", ".bz2", ".xz", ".zst", ".zip")  # of the names that such files have
PIECE = 2**20
# A file of n bytes may unfold to 100·n + 2^22 bytes; rows of text shrink to a tenth or a twentieth.
UNFOLDED = 100, 2**22
MOST_MEMORY = 2**27  # bytes that an .xz file may ask for; xz -9 asks for half of it
OTHERS = (b"Rar!\x1a", b"7z\xbc\xaf", b"\x04\x22\x4d\x18")
_XZ, _ZIP = b"\xfd7zXZ\0", b"PK"


def kind_of(path: Path) -> str | None:
    """The compression of a file by its first bytes: "gzip", "bz2", "xz", "zstd" or "zip"; None for a plain file.

    Raises ``UniLoraError`` for an archive of another kind.
    """
    size_of(path)
    with path.open("rb") as file:
        start = file.read(262)
    if start.startswith(OTHERS) or start[257:262] == b"ustar":
        raise UniLoraError(f"{path} is an archive; unpack it, and give the file that is in it")
    return next((kind for first, kind in _KINDS.items() if start.startswith(first)), None)


def unfold(path: Path, kind: str, target: Path) -> str:
    """Writes the content of a compressed file to ``target``, and returns the content's name.

    Raises ``UniLoraError`` for a file that is damaged, holds several files, or would unfold to more than ``UNFOLDED``.
    """
    size, (times, plus) = size_of(path), UNFOLDED
    most, total = times * size + plus, 0
    name = _member(path).filename if kind == "zip" else path.stem if path.suffix.lower() in ENDS else path.name
    with target.open("wb") as file:
        for piece in _pieces(path, kind):
            total += len(piece)
            if total > most:
                raise UniLoraError(
                    f"{path} has {size:,} bytes and would unfold to more than {most:,}; unpack it yourself"
                )
            file.write(piece)
    return name


def _pieces(path, kind) -> Iterator[bytes]:
    try:
        yield from _READERS[kind](path)
    except Exception as error:  # each library raises errors of its own for a damaged file
        reason = str(error) or type(error).__name__
        raise UniLoraError(
            f"{path}: this is no sound {kind} file: {reason:.200}; pack it anew, or give it unpacked"
        ) from error


def _read_by(open_one):
    def pieces(path):
        with open_one(path) as file:
            while piece := file.read(PIECE):
                yield piece

    return pieces


def _xz_pieces(path):
    with path.open("rb") as file:
        decoder = None
        data = file.read(PIECE)
        while data or (decoder and not decoder.eof):
            decoder = decoder or lzma.LZMADecompressor(memlimit=MOST_MEMORY)
            yield decoder.decompress(data, PIECE)
            data = b""
            if decoder.eof:  # a file may be several streams, one behind the other
                data = decoder.unused_data.lstrip(b"\0") or file.read(PIECE).lstrip(b"\0")
                decoder = None
            elif decoder.needs_input and not (data := file.read(PIECE)):
                raise EOFError("it ends in the middle")


def _member(path) -> zipfile.ZipInfo:
    """The one file in a zip, apart from folders and files that macOS adds."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = [
                each for each in archive.infolist() if not (each.is_dir() or each.filename.startswith("__MACOSX/"))
            ]
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise UniLoraError(f"{path}: this is no sound zip file: {error}; pack it anew, or give it unpacked") from error
    if len(found) != 1:
        raise UniLoraError(f"{path} is an archive of {len(found)} files; unpack it, and give the one that has the rows")
    return found[0]


def _zip_pieces(path):
    with zipfile.ZipFile(path) as archive, archive.open(_member(path)) as file:
        while piece := file.read(PIECE):
            yield piece


_KINDS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", _XZ: "xz", b"\x28\xb5\x2f\xfd": "zstd", _ZIP: "zip"}
_READERS = {
    "gzip": _read_by(gzip.open),
    "bz2": _read_by(bz2.open),
    "xz": _xz_pieces,
    "zstd": _read_by(lambda path: pyarrow.input_stream(str(path), compression="zstd")),
    "zip": _zip_pieces,
}
