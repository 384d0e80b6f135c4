"""How every output comes to its place: whole or not at all, whoever else writes there and whenever a process is killed (SPEC 8.11).

An output is written in a folder of its own beside its place, `.NAME.xxxxxxxx.unilora.partial`, flushed to the disk there, and renamed.
Its writer holds a lock on a file in that folder for as long as it lives, so that a folder whose lock is free was left by a
killed process: the next call to the same place clears it. Locks are those of ``flock``: threads of one process exclude each other
by them, and so do machines that share a network disk which passes them on (NFS does). Where there are none (Windows, some network
disks), nothing is cleared, as nothing shows whether a writer still lives; outputs are whole all the same.
"""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from .errors import WorkFailed
from .places import PARTIAL, PathLike, check_output, check_output_folder, is_data_of, leftovers

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # a stranger's folder may hold a link by the name of a lock


@contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` when the block ends well, and is removed when it does not.

    The file is flushed to the disk before it is renamed, so that a crash leaves the old file or the new one (SPEC 8.11). What a killed
    process left behind is cleared on the next call. Several writers to ``path`` do not disturb each other, and the last one's file
    stays. Raises ``UniLoraError`` where ``path`` is no place for a file (``places.check_output``), ``WorkFailed`` where the disk
    refuses.
    """
    path = Path(path)
    check_output(path)
    with placing(path) as folder:
        yield folder / path.name


@contextmanager
def placing(path: Path, replaced: Callable[[], set[Path]] | None = None) -> Iterator[Path]:
    """A temporary folder beside ``path``. When the block ends well, its files and folders are renamed to their places beside ``path``,
    the one with ``path``'s name last. The temporary folder is removed in any case.

    ``replaced`` is called just before the first of them is renamed. It gives the files to remove after the last one is, of which those
    that have just been placed are kept. Where several calls run at once, each places its set as a whole, one after the other. Raises ``WorkFailed`` where the disk refuses.
    """
    try:
        with _partial(path) as folder:
            yield folder
            new = sorted(
                (each for each in folder.iterdir() if each.name != LOCK), key=lambda each: each.name == path.name
            )
            for each in new:
                (check_output_folder if each.is_dir() else check_output)(path.with_name(each.name))
                _flush_all(each)
            # One file needs no turn: a rename is whole by itself.
            with _turn(path) if replaced or len(new) > 1 else nullcontext():
                old = replaced() if replaced else set()
                places = {path.parent / each.name for each in new}
                fresh = [place for place in places if not os.path.lexists(place)]
                _note(folder, fresh, old - {place.resolve() for place in places})
                for each in new:
                    os.replace(each, path.parent / each.name)
                with suppress(OSError):  # the files stand; some systems cannot flush a folder
                    _flush(path.parent)
                for file in old - {place.resolve() for place in places}:
                    file.unlink(missing_ok=True)
    except OSError as error:
        left = "nothing there has changed" if os.path.lexists(path) else "nothing is there"
        raise WorkFailed(f"{path} could not be written: {error.strerror or error}; {left}") from error


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """An empty folder beside ``path``, locked. Folders that killed processes left are cleared first."""
    for leftover in leftovers(path):
        _clear(leftover, path)
    folder: Path | None = None
    lock: _Lock | None = None
    try:
        while lock is None or folder is None:  # another process may clear a folder before it is locked
            folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
            folder.mkdir()
            lock = _Lock.of(folder / LOCK)
        yield folder
    finally:
        if folder:
            _remove(folder)
        if lock:
            lock.release()


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Waits until no other process renames a set of files at ``path``, and keeps others waiting while the block lasts."""
    place, lock = path.with_name(f".{path.name}.turn{PARTIAL}"), None
    try:
        while lock is None:
            lock = _Lock.of(place, wait=True)
        yield
    finally:
        if lock:
            place.unlink(missing_ok=True)
            lock.release()


def _note(folder: Path, fresh: Iterable[Path], old: Iterable[Path]) -> None:
    """Notes what a kill between two renames would leave beside the folder: new files without the last one, or old ones beside it."""
    (folder / LOCK).write_text(json.dumps([[file.name for file in fresh], [file.name for file in old]]))


def _clear(leftover: Path, path: Path) -> None:
    """Removes what a killed process left: a folder whose lock nobody holds, or an empty one. The folder stays where its writer lives,
    and where the file system has no locks to show it."""
    with suppress(OSError):
        if any(leftover.iterdir()) and not (leftover / LOCK).is_file():
            return
        lock = _Lock.of(leftover / LOCK)
        if lock and lock.held:
            for name in _stranded(leftover, path):
                path.with_name(name).unlink(missing_ok=True)
            _remove(leftover)
            lock.release()


def _remove(folder: Path) -> None:
    """Removes a folder, its lock last: one with something in it and no lock could not be known for a leftover."""
    with suppress(OSError):
        for each in list(folder.iterdir()):
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each, ignore_errors=True)
            elif each.name != LOCK:
                each.unlink(missing_ok=True)
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def _stranded(leftover: Path, path: Path) -> list[str]:
    """The noted files to remove: the old ones where the file of ``path`` has been renamed, else the new ones. Only data files of ``path``
    are among them, whatever the note says."""
    try:
        fresh, old = json.loads((leftover / LOCK).read_bytes())
        noted = old if not (leftover / path.name).exists() else fresh
        return [name for name in noted if Path(name).name == name and is_data_of(path, path.with_name(name))]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return []


class _Lock:
    """A file, open and locked; ``held`` is False where the file system has no locks."""

    def __init__(self, handle: int, held: bool):
        self.handle, self.held = handle, held

    @classmethod
    def of(cls, path: Path, wait: bool = False) -> "_Lock | None":
        """The lock on the file at ``path``, or None where another process has it or the file was removed before it was locked."""
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o666)
        except FileNotFoundError:
            return None
        had = False
        try:
            held = _locked(handle, wait)
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                had = True
                return cls(handle, held)
        except (BlockingIOError, FileNotFoundError):
            pass
        finally:
            if not had:
                os.close(handle)
        return None

    def release(self) -> None:
        os.close(self.handle)


def _locked(handle: int, wait: bool) -> bool:
    """Locks an open file; returns False where its file system has no locks. Raises ``BlockingIOError`` where another has the lock."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF):
            return False
        raise
    return True


def _flush_all(path: Path) -> None:
    """Flushes a file, or a folder with all that is in it, from memory to the disk."""
    for each in [*path.rglob("*"), path] if path.is_dir() else [path]:
        _flush(each)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows cannot flush a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
