"""Runs a command that answers lines, keeps the end of what it writes to standard error, and ends all its processes."""

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from .answers import shown

KEEPER = Path(__file__).with_name("keeper.py")
LONGEST = 64 * 2**20  # bytes of an answer; a request has 16 MiB at most
REMEMBERED = 16 * 2**10  # bytes of standard error, the last ones, however much comes
PATIENCE = 10  # seconds for the keeper to start a command, or to end it


class NoAnswer(Exception):
    """A sentence on why no line came back. ``hung``: the time limit was over."""

    def __init__(self, sentence, hung=False):
        super().__init__(sentence)
        self.hung = hung


class Command:
    """A running command. ``close`` ends it with all processes that it has started (keeper.py).

    Raises ``NoAnswer`` where it cannot be started.
    """

    def __init__(self, words: list[str]):
        self._control, theirs = socket.socketpair()
        self._heard, self._said = b"", bytearray()
        pipe, end = subprocess.PIPE, theirs.fileno()
        call = [sys.executable, "-I", "-S", str(KEEPER), str(end), *words]
        try:
            self._keeper = subprocess.Popen(
                call, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True, pass_fds=[end]
            )
        except OSError as error:  # words that are too long for the system, or no room for a process
            raise NoAnswer(f"{shown(words[0], 200)} cannot be started: {error.strerror}") from None
        finally:
            theirs.close()
        self._sink, self._source, self._errors = (
            stream.fileno() for stream in (self._keeper.stdin, self._keeper.stdout, self._keeper.stderr)
        )
        os.set_blocking(self._sink, False)
        if not self._reported("started", PATIENCE):
            failure = self._reported("failed", 0)
            last = self.last_words()
            self.close()
            reason = os.strerror(int(failure)) if failure else last or "the process that watches over it did not start"
            raise NoAnswer(f"{shown(words[0], 200)} cannot be started: {reason}")

    @property
    def pid(self) -> int:
        """The id of the command's own process."""
        return int(self._reported("started", 0))

    def exchange(self, line: bytes, timeout: float) -> bytes:
        """Writes one line and reads one, each as far as the other side allows, so that neither waits for the other.

        Raises ``NoAnswer``, after which the command has to be closed.
        """
        if select.select([self._source], [], [], 0)[0] and (extra := os.read(self._source, 200)):
            raise NoAnswer(f"it wrote without being asked, before this request: {extra!r}")
        unsent, received, deadline = memoryview(line + b"\n"), bytearray(), time.monotonic() + timeout
        while b"\n" not in received[-(2**16) :]:
            left = deadline - time.monotonic()
            readable, writable = self._ready([self._source], [self._sink] if unsent else [], left)
            if left <= 0:
                raise NoAnswer(f"no answer within {timeout:g} seconds{self._meanwhile()}", hung=True)
            if writable:
                try:
                    unsent = unsent[os.write(self._sink, unsent[: 2**16]) :]
                except BrokenPipeError:
                    raise NoAnswer(self._end()) from None
            if readable:
                piece = os.read(self._source, 2**16)
                received += piece
                if not piece:
                    raise NoAnswer(self._end())
            if len(received) > LONGEST:
                raise NoAnswer(f"the answer is longer than {LONGEST} bytes ({LONGEST >> 20} MiB)")
        answer, _, rest = received.partition(b"\n")
        if rest:
            raise NoAnswer(f"more than one line came as answer: {bytes(rest[:200])!r}")
        return bytes(answer)

    def last_words(self) -> str:
        """The last three lines of standard error."""
        deadline = time.monotonic() + 1
        while self._errors is not None and time.monotonic() < deadline and self._read_errors(0):
            pass
        lines = self._said.decode(errors="replace").strip().splitlines()[-3:]
        return " / ".join(shown(line, 200) for line in lines)

    def close(self, patience: float = 0) -> None:
        """Ends all processes, after as many seconds in which the command may end by itself."""
        with contextlib.suppress(OSError):
            self._keeper.stdin.close()
        if patience:
            self._reported("ended", patience)
        self._control.close()  # which tells the keeper to kill
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(PATIENCE)
        self._keeper.stdout.close()
        self._keeper.stderr.close()

    def _ready(self, sources, sinks, timeout):
        """Those of ``sources`` and of ``sinks`` that are ready. Standard error is read meanwhile, so that the command never waits for it."""
        errors = [self._errors] if self._errors is not None else []
        readable, writable, _ = select.select(sources + errors, sinks, [], max(timeout, 0))
        if self._errors in readable:
            self._read_errors(0)
        return [source for source in readable if source in sources], writable

    def _read_errors(self, timeout) -> bool:
        """Reads what has come on standard error; returns whether anything came."""
        if not select.select([self._errors], [], [], timeout)[0]:
            return False
        piece = os.read(self._errors, 2**16)
        self._said = (self._said + piece)[-REMEMBERED:]
        if not piece:
            self._errors = None
        return bool(piece)

    def _reported(self, what, timeout) -> str:
        """The number that the keeper reports with the word ``what`` within ``timeout`` seconds, as a text; empty where none comes."""
        deadline = time.monotonic() + timeout
        while not (found := re.search(rf"^{what} (-?\d+)\n", self._heard.decode(), re.MULTILINE)):
            ready = select.select([self._control], [], [], max(deadline - time.monotonic(), 0))[0]
            piece = self._control.recv(4096) if ready else b""
            if not piece:
                return ""
            self._heard += piece
            if what == "started" and self._heard.startswith(b"failed"):
                return ""
        return found.group(1)

    def _end(self) -> str:
        """Why no answer comes any more: how the command ended, and the last lines of its standard error."""
        status = self._reported("ended", 1)
        return ": ".join(
            filter(None, [how_ended(int(status)) if status else "it closed its output", self.last_words()])
        )

    def _meanwhile(self) -> str:
        """How the command ended, where it has, while a process that it started keeps its output open; else an empty text."""
        status = self._reported("ended", 0)
        return f"; {how_ended(int(status))}, and a process that it started keeps its output open" if status else ""


def how_ended(status: int) -> str:
    """How a process ended, by its exit status, negative for a signal."""
    if status >= 0:
        return f"it ended with exit status {status}"
    try:
        return f"it was ended by signal {signal.Signals(-status).name}"
    except ValueError:  # most of the real-time ones have no name
        return f"it was ended by signal {-status}"
