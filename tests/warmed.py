"""Processes that begin with their imports made: each is a copy of one that has made them, and costs no second interpreter.

    program = warmed("import torch, backends.torch.commands.training")
    done = program.run(module("backends.torch"), "train", "--help")           # a subprocess.CompletedProcess
    process = program.start("print(input())", cwd=folder, env=environment)    # what of subprocess.Popen is needed here

Not for a test of what is imported, of memory, or of a signal within the first moments: there the process has to be a new one. What is
imported must start no threads, as a copy has but one; and what reads a variable when it is imported has read it already: give it to
``warmed``. Linux and macOS.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]


def module(name: str) -> str:
    """The code that runs a module as ``python -m`` does."""
    return f"from runpy import run_module; run_module({name!r}, run_name='__main__', alter_sys=True)"


@functools.cache
def warmed(imports: str, **variables: str) -> "Program":
    """The program that has run the code ``imports``, one for all tests of this process, with these variables of the environment besides."""
    return Program(imports, os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables)


class Program:
    """A process that copies itself when it is asked to, until this one ends."""

    def __init__(self, imports, environment):
        self._socket, theirs = socket.socketpair()
        call = [sys.executable, __file__, str(theirs.fileno()), imports]
        self._server = subprocess.Popen(call, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        self._lines, self.ended = self._socket.makefile("r"), {}
        atexit.register(self.close)

    def close(self) -> None:
        """Ends the process; copies that still run go on."""
        self._lines.close()
        self._socket.close()
        self._server.wait()

    def start(self, code: str, *arguments, env=None, cwd=None) -> "Process":
        """A copy that runs ``code``, with ``arguments`` in ``sys.argv``; ``env`` is all of its environment, as for ``Popen``."""
        folder = tempfile.TemporaryDirectory()
        asked = {"code": code, "argv": list(map(str, arguments)), "env": dict(env or os.environ)}
        asked |= {"cwd": str(cwd or Path.cwd()), "folder": folder.name}
        self._socket.sendall(json.dumps(asked).encode() + b"\n")
        while (told := self._told())[0] != "started":
            pass
        return Process(self, int(told[1]), folder)

    def run(self, code: str, *arguments, timeout=None, **options) -> subprocess.CompletedProcess:
        """The same to its end, as ``subprocess.run`` with ``capture_output`` and ``text``."""
        process = self.start(code, *arguments, **options)
        out, errors = process.communicate(timeout)
        return subprocess.CompletedProcess([code, *arguments], process.returncode, out, errors)

    def status(self, pid: int, timeout: float | None) -> int | None:
        """How the copy has ended, negative for a signal; None where it has not within some seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while pid not in self.ended:
            left = None if end is None else max(end - time.monotonic(), 0)
            if not select.select([self._socket], [], [], left)[0]:
                return None
            self._told()
        return self.ended[pid]

    def _told(self):
        line = self._lines.readline().split()
        assert line, "the warmed process has ended"
        if line[0] == "ended":
            self.ended[int(line[1])] = int(line[2])
        return line


class Process:
    def __init__(self, program, pid, folder):
        self._program, self.pid, self._folder, self.returncode = program, pid, folder, None

    def poll(self) -> int | None:
        return self._waited(0)

    def wait(self, timeout=None) -> int:
        if self._waited(timeout) is None:
            self.kill()
            self._waited(None)
            raise subprocess.TimeoutExpired("a warmed process", timeout)
        return self.returncode

    def communicate(self, timeout=None) -> tuple[str, str]:
        """All that it has written, as text."""
        self.wait(timeout)
        return tuple(Path(self._folder.name, name).read_text("utf-8") for name in ("stdout", "stderr"))

    def send_signal(self, number) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _waited(self, timeout):
        if self.returncode is None:
            self.returncode = self._program.status(self.pid, timeout)
        return self.returncode


# The process itself


def serve(control: socket.socket) -> None:
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal ends the tests, which end this process
    asked = control.makefile("r")
    while True:
        ready = select.select([control, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            with contextlib.suppress(ChildProcessError):
                while (found := os.waitpid(-1, os.WNOHANG))[0]:
                    control.sendall(b"ended %d %d\n" % (found[0], os.waitstatus_to_exitcode(found[1])))
        if control in ready:
            if not (line := asked.readline()):
                return
            if not (child := os.fork()):
                control.close()
                become(**json.loads(line))
            control.sendall(b"started %d\n" % child)


def become(code, argv, env, cwd, folder) -> None:
    """What a copy does: it never returns."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    encoding, _, errors = env.get("PYTHONIOENCODING", "utf-8").partition(":")
    sys.stdout.reconfigure(encoding=encoding, errors=errors or "strict")
    sys.stderr.reconfigure(encoding=encoding, errors="backslashreplace")
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv, status = ["-c", *argv], 0
    try:
        exec(compile(code, "<warmed>", "exec"), {"__name__": "__main__"})  # noqa: S102
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if status and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001  as the interpreter would show it
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    exec(sys.argv[2], {"__name__": "warmed"})  # noqa: S102
    gc.collect()
    gc.freeze()  # or each copy would write on the pages of all objects, as its collector marks them
    serve(socket.socket(fileno=int(sys.argv[1])))
