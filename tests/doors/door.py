"""What a door is, and the seeds that many doors have."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fuzz_mutations import packed


class Seed(NamedTuple):
    """What stands in a door's file: bytes, or what makes the file; and words of the refusal, or None where it is sound."""

    content: bytes | Callable[[Path], None]
    says: str | None


class Door(NamedTuple):
    """``call`` is that of a command (its module first), in a folder with ``files``, where ``file`` holds one seed after another."""

    name: str
    call: tuple[str, ...]
    file: str
    files: dict[str, bytes]
    seeds: dict[str, Seed]


def text(value) -> bytes:
    return json.dumps(value).encode()


def pipe(path: Path) -> None:
    """A pipe that nobody writes to."""
    os.mkfifo(path)


def written(content: Callable[[], bytes]) -> Callable[[Path], None]:
    """What writes a long content when it is asked to: held, it would make each process of the attack larger, and dearer to copy."""
    return lambda path: path.write_bytes(content())


PIPE = Seed(pipe, "is a pipe")
DEEP = {
    "lists that nest": Seed(b"[" * 1_000_000, "nested deeper"),
    "objects that nest": Seed(b'{"a":' * 100_000, "nested deeper"),
    "a pipe": PIPE,
}
LONG = Seed(written(lambda: packed(b'{"a":"' + b"x" * 70_000_000 + b'"}')), "16777216 is the limit")
