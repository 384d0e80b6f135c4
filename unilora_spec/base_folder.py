"""Which folder the base of an adapter is: the one that the caller gives, or the one that the file names (SPEC 10)."""

import os
from pathlib import Path

from .adapter import Adapter
from .command import say
from .errors import UniLoraError

SHARES = ("//", "\\\\", "/\\", "\\/")  # how the name of another machine's folder begins


def base_folder(adapter: Adapter, given: Path | None = None) -> Path:
    """``given``, or the folder that the adapter names (``recorded_folder``). Raises ``UniLoraError`` where it is no folder here."""
    if given is not None:
        if not is_folder(Path(given)):
            raise UniLoraError(
                f"the base {str(given)!r:.200} is no folder here; give --base the folder of the base model"
            )
        return Path(given)
    if adapter.base is None:
        raise UniLoraError("the adapter does not name its base; give --base the folder of the base model")
    folder = recorded_folder(adapter.base.name, "the adapter")
    if folder is None:
        raise UniLoraError(
            f"the base {adapter.base.name!r:.200} that the adapter names is no folder here, and nothing is fetched because a file"
            " names it; give --base the base model"
        )
    return folder


def recorded_folder(name: str, by: str) -> Path | None:
    """The folder on this machine that a file names as its base, or None where there is none. The folder is printed on standard
    error before anything of it is read.

    Whoever wrote the file chose the name, so it is only ever taken for a folder: it is no id to download or to look up in a cache, and
    no share of another machine, which would learn who asks. ``~`` is a letter, and a relative name starts at the current folder.
    ``by`` says in the printed sentence what names the base, such as "the adapter".
    """
    folder = Path(name)
    if not name or name.startswith(SHARES) or not is_folder(folder):
        return None
    say(f"{by} names its base: {os.path.abspath(folder)}")
    return folder


def is_folder(path: Path) -> bool:
    """Whether a folder is at ``path``, which may be any text, also one that is too long for a path."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
