"""Reading whole files that others wrote. Each is checked before a parser sees it, so that what the parser makes of it stays small."""

import json
import stat
from pathlib import Path
from typing import Any

from .errors import UniLoraError
from .nesting import PIECE, Nesting

MOST_BYTES = 2**22  # of a file of settings; the largest config.json, with 21,843 labels, has 1.5 MB
MOST_VALUES = 2**18  # each takes up to 100 bytes once it is parsed
MOST_DEPTH = 64
_OTHERS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


class NoObject(UniLoraError):
    """A file whose text is no JSON object. A caller can catch it, and say what the file should be."""


def size_of(path: Path) -> int:
    """The size of a regular file in bytes. Raises ``UniLoraError`` for anything else: a pipe may never answer, and a device has no end."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise UniLoraError(f"{path}: there is no such file; give one that is there") from None
    except OSError as error:
        raise UniLoraError(f"{path}: {error.strerror}; give a file that can be read") from None
    except ValueError:
        raise UniLoraError(f"{str(path)!r:.200} is no name of a file; give one without a zero byte") from None
    if not stat.S_ISREG(found.st_mode):
        raise UniLoraError(f"{path} is {_OTHERS.get(stat.S_IFMT(found.st_mode), 'a device')}; give a regular file")
    return found.st_size


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file. Raises ``UniLoraError`` where there are more than ``most``, or none can be read."""
    _check_size(path, most)
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise UniLoraError(f"{path}: {error.strerror}; give a file that can be read") from None


def check_json(path: Path, most: int = MOST_BYTES, values: int = MOST_VALUES) -> None:
    """Raises ``UniLoraError`` for a file that a parser of JSON should not be given: one of more than ``most`` bytes or ``values`` values
    and keys, or that nests deeper than ``MOST_DEPTH``."""
    _check_size(path, most)
    found = Nesting()
    try:
        with path.open("rb") as file:
            while (piece := file.read(PIECE)) and found.deepest <= MOST_DEPTH:
                found.feed(piece)
    except OSError as error:
        raise UniLoraError(f"{path}: {error.strerror}; give a file that can be read") from None
    _check(found, path, values)


def read_json(path: Path, most: int = MOST_BYTES, values: int = MOST_VALUES) -> dict[str, Any]:
    """The object in a JSON file, with the bounds of ``check_json``. Raises ``NoObject`` where it holds none."""
    data = read_bytes(path, most)
    found = Nesting()
    found.feed(data)
    _check(found, path, values)
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except ValueError as error:
        raise NoObject(f"{path} holds no JSON object: {error}") from None
    if not isinstance(value, dict):
        raise NoObject(f"{path} holds no JSON object")
    return value


def _check_size(path: Path, most: int) -> None:
    if (size := size_of(path)) > most:
        raise UniLoraError(f"{path} has {size:,} bytes; such a file has at most {most:,}, so give the right one")


def _check(found: Nesting, path: Path, values: int) -> None:
    if found.deepest > MOST_DEPTH:
        raise UniLoraError(f"{path}: its lists and objects are nested deeper than {MOST_DEPTH}; write it flatter")
    if found.values > values:
        raise UniLoraError(f"{path}: it has {found.values:,} values; such a file has at most {values:,}")
