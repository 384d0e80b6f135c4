"""The checkpoints of one training run, in a folder beside its output, and which of them a run goes on from.

A checkpoint is written file by file. Then a record is written into it, with every file's digest and the run's settings.
A checkpoint is whole if its files are those of its record, whatever a kill, a full disk or somebody's hand has left
beside it; and only checkpoints older than two whole ones are deleted.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path

from unilora_spec import UniLoraError, WorkFailed, replacing
from unilora_spec.documents import read_json
from unilora_spec.places import check_working_folder

from ..settings import RunSettings, flag

RECORD = "whole.json"
KEPT = 2


class Checkpoints:
    """The folder of a run's checkpoints: ``vec.checkpoints`` for vec.safetensors.

    Raises ``UniLoraError`` where an interrupted run left some and the settings neither resume nor overwrite it, or
    resume it with other settings, and where the folder holds links or is no folder.
    """

    def __init__(self, settings: RunSettings):
        self.settings, self._plain, self._own = settings, _plain(settings), []
        self.folder = settings.output.with_suffix(".checkpoints")
        self._described = self.folder / "settings.json"
        check_working_folder(self.folder)
        if settings.overwrite or not (runs := [run for _, run in self._whole()]):
            return
        if not settings.resume:
            raise UniLoraError(
                f"{self.folder} holds checkpoints of an interrupted run; give --resume to go on or --overwrite to start anew"
            )
        if self._plain not in runs:
            self._refuse(runs[-1])

    def last(self) -> Path | None:
        """The newest whole checkpoint of a run with these settings."""
        return max((path for path, run in self._whole() if run == self._plain), key=_step, default=None)

    def start(self) -> None:
        """Makes the folder ready for the first checkpoint, and removes checkpoints that are not whole. Raises
        ``WorkFailed`` where the disk refuses."""
        try:
            if self.settings.overwrite:
                self.clear()
            self.folder.mkdir(exist_ok=True)
            whole = self._whole()
            for path in set(self._all()) - {path for path, _ in whole}:
                shutil.rmtree(path)
        except OSError as error:
            raise WorkFailed(f"{self.folder} could not be written: {error.strerror}") from error
        self._own = [path for path, run in whole if run == self._plain]
        # For a person to read; a run that goes on reads the record of each checkpoint.
        with replacing(self._described) as temporary:
            temporary.write_text(json.dumps(self._plain, indent=2))

    def complete(self, checkpoint: Path, best: int | None) -> None:
        """Writes the record of a checkpoint whose files are written, and removes older checkpoints except for that of
        step ``best``.

        Raises ``OSError`` where the disk refuses.
        """
        record = {"settings": self._plain, "sha256": _digests(checkpoint)}
        (checkpoint / RECORD).write_text(json.dumps(record, indent=2))
        self._own = [path for path in self._own if path != checkpoint] + [checkpoint]
        for path in self._own[:-KEPT]:
            if _step(path) != best:
                shutil.rmtree(path, ignore_errors=True)
                self._own.remove(path)

    def clear(self) -> None:
        """Removes what a run wrote, and the folder where nothing else is in it."""
        for path in self._all():
            shutil.rmtree(path)
        self._described.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def clear_unless_any(self) -> None:
        """``clear`` where there is nothing to resume."""
        if not self._whole():
            self.clear()

    def step_in(self, checkpoint: Path) -> int | None:
        """The step in a checkpoint's own files; None where they have none."""
        raise NotImplementedError

    def _all(self) -> list[Path]:
        """The folders that have the name of a checkpoint, the oldest first."""
        found = (path for path in self.folder.glob("checkpoint-*") if re.fullmatch("checkpoint-[0-9]{1,18}", path.name))
        return sorted((path for path in found if path.is_dir() and not path.is_symlink()), key=_step)

    def _whole(self) -> list[tuple[Path, dict]]:
        """The whole checkpoints, the oldest first, each with the settings of its run."""
        return [(path, run) for path in self._all() if (run := self._run_of(path)) is not None]

    def _run_of(self, checkpoint: Path) -> dict | None:
        """The settings in a checkpoint's record; None where it is not whole, or of another step than its name says."""
        try:
            record = read_json(checkpoint / RECORD)
            whole = record["sha256"] == _digests(checkpoint) and self.step_in(checkpoint) == _step(checkpoint)
            return dict(record["settings"]) if whole else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    def _refuse(self, before: dict):
        for name, value in self._plain.items():
            if before.get(name, value) != value:
                raise UniLoraError(
                    f"{flag(name)} is {value}, but the interrupted run had {before[name]}; "
                    "give the same call with --resume, or --overwrite to start anew"
                )
        raise UniLoraError(f"{self.folder} holds checkpoints of another version's run; give --overwrite to start anew")


def _plain(settings):
    fields = [field.name for field in dataclasses.fields(settings) if field.compare and field.name != "output"]
    return json.loads(json.dumps({name: getattr(settings, name) for name in fields}, default=str))


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _digests(checkpoint: Path) -> dict[str, str]:
    """The SHA-256 of each file except for the record, by name. Raises ``OSError`` for what is no file or cannot be
    read."""
    found = {}
    for path in sorted(checkpoint.iterdir()):
        if path.name != RECORD:
            if not path.is_file():
                raise OSError(f"{path} is no file")
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
