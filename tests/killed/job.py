"""A command in a copy of this process, which may be killed, and what it leaves in its folder."""

import hashlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from typer.main import get_command

from export.__main__ import app as exporter
from unilora_spec.command import run

OLD, NEW, NOTHING, MIXED, BROKEN = "old", "new", "nothing", "mixed, and refused", "broken"
FINISHED = "finished before"


def call(app, arguments, moment=None, hook=lambda: None) -> int:
    """The exit status of a command in a copy of this process, which is killed after ``moment`` seconds, or None for never."""
    child = os.fork()
    if not child:
        status = 70
        try:
            silent = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(silent, stream)
            sys.argv = ["command", *map(str, arguments)]
            hook()
            run(lambda: get_command(app).main(standalone_mode=False))
        except SystemExit as end:
            status = end.code or 0
        finally:
            os._exit(status)
    if moment is not None:
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in a folder, by its name in it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def leftovers(found: dict) -> set[str]:
    return {name.split("/")[0] for name in found if ".partial" in name}


class Job:
    """A command that writes into ``folder``; ``old`` and ``new`` are what it has there from other settings, and from its own."""

    app = exporter

    def __init__(self, work: Path):
        self.work, self.folder = work, work / type(self).__name__
        self.folder.mkdir()
        self.old = self.made("old")
        self.kept = shutil.copytree(self.folder, work / f"{type(self).__name__}, old")
        self.new = self.made("new")
        assert self.old != self.new
        begin = time.monotonic()
        self.made("new")
        self.seconds = time.monotonic() - begin

    def made(self, version) -> dict:
        """What a call that nobody kills leaves in the empty folder."""
        self.empty()
        assert call(self.app, self.arguments(version)) == 0
        return digests(self.folder)

    def empty(self):
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def kill(self, moment, hook=lambda: None) -> str:
        """What a killed call has left at the output."""
        status = call(self.app, self.arguments("new"), moment, hook)
        if status == 0:
            return FINISHED
        assert status == -signal.SIGKILL, status
        return self.state()

    def state(self) -> str:
        found = {name: digest for name, digest in digests(self.folder).items() if ".partial" not in name}
        for name, wanted in ((OLD, self.old), (NEW, self.new)):
            if wanted.items() <= found.items():
                return name
        return self.otherwise(found)

    def otherwise(self, found) -> str:
        return BROKEN if found else NOTHING

    def litter(self) -> int:
        """How many things are there that no output has."""
        found = digests(self.folder)
        return len(leftovers(found)) + len(
            {name for name in found if ".partial" not in name} - set(self.old) - set(self.new)
        )

    def again(self) -> bool:
        """Whether a call that nobody kills ends well, and leaves its output and nothing beside it."""
        return call(self.app, self.arguments("new")) == 0 and digests(self.folder) == self.new

    def back(self, number):
        """Before kill ``number``: the old output is there, or none; what kills have left stays."""
        for name in {*self.old, *self.new}:
            (self.folder / name).unlink(missing_ok=True)
        if number % 2 == 0:
            shutil.copytree(self.kept, self.folder, dirs_exist_ok=True)


class Folder(Job):
    """A command that writes a folder which is not there before."""

    def arguments(self, version):
        return self.command, "--adapter", self.work / f"{version}.safetensors", "-o", self.folder / "out"

    def back(self, number):
        shutil.rmtree(self.folder / "out", ignore_errors=True)

    def again(self):
        self.back(0)
        return super().again()
