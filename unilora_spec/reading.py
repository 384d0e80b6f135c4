"""Reading files piece by piece. They are never mapped: where another process cuts a mapped file, the next access ends this process by a
signal, whereas a read that comes back short can be refused in a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import FileError


class FileBytes:
    """The bytes of an open file: ``len(data)``, and ``data[begin:end]``, which reads them. Raises ``FileError`` where they are gone."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._size = file, file.seek(0, 2)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, span: slice) -> bytes:
        begin, end, _ = span.indices(self._size)
        self._file.seek(begin)
        return read_exactly(self._file, max(0, end - begin))


@contextmanager
def open_bytes(path: Path) -> Iterator[FileBytes]:
    """The ``FileBytes`` of the file at ``path`` while the block lasts. Raises ``FileError`` for whatever is no
    regular file, such as a pipe, which may never answer."""
    if not path.is_file():
        raise FileError("this is no regular file; give one", "8.2")
    with path.open("rb") as file:
        yield FileBytes(file)


def read_exactly(file: BinaryIO, count: int) -> bytes:
    """The next ``count`` bytes of an open file. Raises ``FileError`` where it ends before them."""
    data = file.read(count)
    check_count(count, len(data))
    return data


def check_count(count: int, found: int) -> None:
    """Raises ``FileError`` where ``found`` bytes were read of the ``count`` that the file had just before."""
    if found != count:
        raise FileError(
            f"the file was cut while it was read: {found} of {count} bytes are left there; write it again", "8.2"
        )
