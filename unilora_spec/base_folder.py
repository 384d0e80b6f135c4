"""Which folder the base of an adapter is: the one that the caller gives, or the one that the file names (SPEC 10)."""

import os
from pathlib import Path

from .adapter import Adapter
from .command import say
from .errors import UniLoraError

SHARES = ("//", "\\\\", "/\\", "\\/")  # how the name of another machine's folder begins


def base_folder(adapter: Adapter, given: Path | None = None) -> Path:
    """``given``, or the folder that the adapter names (``recorded``). Raises ``UniLoraError`` where it is no folder here."""
    if given is not None:
        if not is_folder(Path(given)):
            raise UniLoraError(
                f"the base {str(given)!r:.200} is no folder here; give --base the folder of the base model"
            )
        return Path(given)
    if adapter.base is None:
        raise UniLoraError("the adapter does not name its base; give --base the folder of the base model")
    folder = recorded(adapter.base.name, "the adapter")
    if folder is None:
        raise UniLoraError(
            f"the base {adapter.base.name!r:.200} that the adapter names is no folder here, and nothing is fetched because a file"
            " names it; give --base the base model"
        )
    return folder


def recorded(name: str, by: str) -> Path | None:
    """The folder here that a file names as its base, or None; said on standard error, before anything of it is read.

    Whoever wrote the file chose the name. So it is a folder or nothing: no id that would be fetched or looked up in a cache,
    no share of another machine, which would learn who asks, and ``~`` is a letter. A relative name is one in the current
    folder. ``by`` is what has the record, for the sentence.
    """
    folder = Path(name)
    if not name or name.startswith(SHARES) or not is_folder(folder):
        return None
    say(f"{by} names its base: {os.path.abspath(folder)}")
    return folder


def is_folder(path: Path) -> bool:
    """Whether a folder is at ``path``, which may be any text: one too long for a path is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
