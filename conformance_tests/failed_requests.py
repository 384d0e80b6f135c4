"""Writes the requests that failed to files that can be passed on: each is one line of the protocol, for ``COMMAND < FILE``."""

import itertools
import re
import tempfile
from pathlib import Path

from .client import as_line
from .run import Result

LONGEST = 60  # characters of a check's name in the name of its file


def write_requests(results: list[Result], folder: Path | None) -> Path | None:
    """Writes the request of each way in which a check failed to a file, and sets ``kept`` of the way to its path.

    The files are in a new folder, ``folder/1``, ``folder/2`` and so on, or without ``folder`` a temporary one, so that nothing is
    written over. Returns the new folder, or None where no request failed. Raises ``OSError``.
    """
    failed = [result for result in results if result.ways]
    if not failed:
        return None
    made = _numbered(folder) if folder else Path(tempfile.mkdtemp(prefix="unilora-conformance-"))
    taken = set()
    for result in failed:
        for way in result.ways:
            name = re.sub(r"[^A-Za-z0-9]+", "-", result.name).strip("-")[:LONGEST]
            names = itertools.chain([name], (f"{name}-{k}" for k in itertools.count(2)))
            name = next(name for name in names if name.lower() not in taken)
            taken.add(name.lower())
            path = made / f"{name}.json"
            with path.open("xb") as file:
                file.write(as_line(way.request) + b"\n")
            way.kept = str(path)
    return made


def _numbered(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for k in itertools.count(1):
        try:
            (folder / str(k)).mkdir()
            return folder / str(k)
        except FileExistsError:
            pass
