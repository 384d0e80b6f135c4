"""Files read piece by piece, and never mapped: where another process cuts a file that is mapped, the next touch ends this process by
a signal, and where it is read, a short answer is seen and said."""

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
    """The ``FileBytes`` of the file at ``path`` while the block lasts. Raises ``FileError`` for a pipe, which would be waited for, and
    for all else that is no regular file."""
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
