"""Where a file or a folder may be put, what may be cleared beside it, and which files are a folder's own.

A folder from a stranger may hold links, pipes and devices. Nothing is written, removed or copied through one: an output takes the
place of nothing, of a regular file or of an empty folder, and a file is a folder's own where it lies in it.
"""

import hashlib
import os
import re
import stat
from pathlib import Path

from .errors import UniLoraError

PathLike = str | os.PathLike[str]
"""What a caller may give for a path."""
DATA = re.compile(r"\.([0-9a-f]{12})\.data")  # what follows a graph's name in the name of its data
PARTIAL = ".unilora.partial"
"""The ending of a folder that holds an output until it is complete: ``.NAME.xxxxxxxx.unilora.partial`` beside NAME."""


def check_output(path: PathLike) -> None:
    """Raises ``UniLoraError`` unless a file may be put at ``path``: nothing is there, or a regular file, which it replaces.

    A link is refused, wherever it leads: to write through it would change another file, and to replace it another
    name than the one that its owner means.
    """
    mode = _mode(path)
    if mode is not None and not stat.S_ISREG(mode):
        raise UniLoraError(f"{path} is {_kind(mode)}; give a file to replace, or a name that is free")


def check_output_folder(path: PathLike) -> None:
    """Raises ``UniLoraError`` unless a new folder may be put at ``path``: nothing is there, or a folder that is empty."""
    mode = _mode(path)
    if mode is not None and (stat.S_ISLNK(mode) or not stat.S_ISDIR(mode) or any(os.scandir(path))):
        there = "" if stat.S_ISDIR(mode) or stat.S_ISREG(mode) else f", as {_kind(mode)}"
        raise UniLoraError(f"{path} is there already{there}; give a folder that does not exist or is empty")


def check_working_folder(path: PathLike) -> None:
    """Raises ``UniLoraError`` unless files can be written and removed in a folder at ``path`` that is used over and over:
    it is not there yet, or it is a folder with nothing but folders and regular files in it."""
    mode = _mode(path)
    if mode is None:
        return
    if not stat.S_ISDIR(mode):
        raise UniLoraError(f"{path} is {_kind(mode)}, where a folder is needed; move it away, or give another output")
    for place, folders, names in os.walk(path):
        for name in (*folders, *names):
            mode = _mode(inner := os.path.join(place, name))
            if mode is not None and not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise UniLoraError(f"{inner} is {_kind(mode)}; move it away, or give another output")


def leftovers(path: Path) -> list[Path]:
    """What killed processes of this user may have left beside ``path``: folders with a name as ``PARTIAL`` describes, and no links."""
    form = re.compile(re.escape(f".{path.name}.") + "[a-z0-9_]{8}" + re.escape(PARTIAL))
    try:
        names = [name for name in os.listdir(path.parent) if form.fullmatch(name)]
    except PermissionError:  # a folder may allow writing and not listing
        return []
    return [path.parent / name for name in names if _is_left(path.parent / name)]


def _is_left(path: Path) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:  # another process has cleared it
        return False
    mine = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
    return mine and stat.S_ISDIR(found.st_mode)


def digest(path: PathLike) -> str:
    """The part of a data file's name that stands for its contents: the first 12 hexadecimal digits of the SHA-256 of its contents."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def is_data_of(path: Path, file: Path) -> bool:
    """Whether an export to ``path`` wrote this file beside it: ``NAME.DIGEST.data``, regular and no link, with these contents."""
    named = DATA.fullmatch(file.name.removeprefix(path.name))
    mode = _mode(file) if named and file.name.startswith(path.name) else None
    return named is not None and mode is not None and stat.S_ISREG(mode) and digest(file) == named[1]


def own_file(folder: PathLike, name: str) -> Path | None:
    """The regular file that ``name`` leads to, with all links resolved, where it is ``folder``'s own; else None.

    A file is a folder's own where it lies in it, however many links lead there. Or the folder is a snapshot in Hugging Face's cache
    (``snapshots/REVISION``, or a folder in it), whose files are links into ``blobs`` beside ``snapshots``. Nothing is opened: a
    pipe does not block.
    """
    inside = os.path.realpath(folder)
    roots = [inside]
    for above in (Path(inside), *Path(inside).parents):
        if above.parent.name == "snapshots":
            roots.append(os.path.join(above.parent.parent, "blobs"))
    try:
        file = Path(os.path.realpath(os.path.join(folder, name)))
        regular = stat.S_ISREG(os.stat(file).st_mode)
    except (OSError, ValueError):  # ValueError: a name that holds the character 0
        return None
    return file if regular and any(file.is_relative_to(root) for root in roots) else None


def _mode(path: PathLike) -> int | None:
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _kind(mode: int) -> str:
    for kind, words in (
        (stat.S_ISLNK, "a link to another place"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISREG, "a file"),
    ):
        if kind(mode):
            return words
    return "a device"
