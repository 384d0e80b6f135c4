"""A running implementation, asked line by line (PROTOCOL.md), and what it does wrong in answering."""

import importlib.util
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from .rules import KINDS

LONGEST = 64 * 2**20  # bytes of an answer; a request has 16 MB at most
SHRINKING = 15  # seconds after a check's first failure in which a smaller input is looked for
HANGS = 3  # after which nothing more is asked: each costs the whole time limit


class Failed(AssertionError):
    """An answer that is wrong. ``request`` is what to paste."""

    def __init__(self, message, request):
        super().__init__(message)
        self.message, self.request = message, request


class Broken(Failed):
    """No answer: the implementation ended, or wrote something else."""


class GaveUp(BaseException):
    """A check that is ended with the smallest failure so far. Not an ``Exception``, so that no smaller one is looked for."""

    def __init__(self, failure):
        super().__init__(failure.message)
        self.failure = failure


class NotSupported(pytest.skip.Exception):
    """The check needs a request or a kind that the implementation does not have."""


def command_of(text: str) -> list[str]:
    """The words of ``--impl``: a Python module is served as a command as well, so that it can hang and crash, and is not
    imported here.

    Raises ``ValueError`` for a text that is neither.
    """
    if re.fullmatch(r"\w+(\.\w+)*", text) and importlib.util.find_spec(text.split(".")[0]):
        return [sys.executable, "-m", "conformance_tests.serve", text]
    words = shlex.split(text)
    if not words:
        raise ValueError("it is empty")
    return words


class Implementation:
    """Asks a command. It is started when it is first asked, again after each failure, and ended with all its children.

    ``command``  its words; ``timeout``  seconds for one answer
    """

    def __init__(self, command: list[str], timeout: float = 10.0):
        self.command, self.timeout = command, timeout
        self.process, self.asked, self.hangs = None, 0, 0
        self.new_check()
        self.described = self.ask("describe")
        for field, kind in (("name", str), ("version", str), ("requests", list), ("kinds", list)):
            if not isinstance(self.described.get(field), kind):
                self.close()
                raise Failed(f"the answer has no {field} as PROTOCOL.md asks for", {"request": "describe"})
        self.requests, self.kinds = self.described["requests"], self.described["kinds"]

    def new_check(self) -> None:
        """Forgets the failures of the check before, of which ``smallest`` is the one with the shortest request."""
        self.smallest, self._since = None, None

    def ask(self, request: str, **fields) -> dict:
        """The answer to one request. Raises ``Failed`` where there is none, ``NotSupported`` where there can be none."""
        message = {"request": request, **fields}
        if request != "describe":
            kind = fields.get("projection", {}).get("kind")
            if request not in self.requests or (kind in KINDS and kind not in self.kinds):
                raise NotSupported(request if request not in self.requests else f"kind {kind}")
        if self.hangs >= HANGS:
            raise GaveUp(Broken(f"not asked: {HANGS} requests before have had no answer in time", message))
        self.asked += 1
        try:
            return self._answer(message)
        except Failed as failure:
            self.fail(failure)

    def fail(self, failure: Failed):
        """Raises ``failure``, or ``GaveUp`` when it is time to end the search for a smaller one."""
        if self.smallest is None or len(json.dumps(failure.request)) < len(json.dumps(self.smallest.request)):
            self.smallest = failure
        self._since = self._since or time.monotonic()
        if time.monotonic() - self._since > SHRINKING or isinstance(failure, _Hung):
            raise GaveUp(self.smallest)
        raise failure

    def memory(self) -> dict[str, int]:
        """The most bytes that the process has had, resident and reserved, where the system tells; else nothing."""
        try:
            with open(f"/proc/{self.process.pid}/status") as status:
                found = re.findall(r"^(VmHWM|VmPeak):\s+(\d+) kB", status.read(), re.MULTILINE)
        except OSError:
            return {}
        return {name: 1024 * int(kilobytes) for name, kilobytes in found}

    def close(self) -> None:
        """Ends the process and all that it has started."""
        if self.process is None:
            return
        self.process.stdin.close()
        try:
            self.process.wait(1)
        except subprocess.TimeoutExpired:
            pass
        self._kill()

    def _answer(self, message) -> dict:
        if self.process is None:
            self._start()
        line = self._exchange(message)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self._kill()
            raise Broken(f"the answer is not a JSON object: {line[:200]!r}", message)
        return answer

    def _start(self):
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(
                self.command, stdin=pipe, stdout=pipe, stderr=self._errors, start_new_session=True
            )
        except OSError as error:
            raise Broken(f"{self.command[0]} cannot be started: {error.strerror}", {"request": "describe"}) from None
        os.set_blocking(self.process.stdin.fileno(), False)

    def _exchange(self, message) -> bytes:
        """Writes one line and reads one, each as far as the other side allows, so that neither waits for the other."""
        unsent, received = json.dumps(message, ensure_ascii=False).encode() + b"\n", bytearray()
        source, sink = self.process.stdout.fileno(), self.process.stdin.fileno()
        if select.select([source], [], [], 0)[0] and (extra := os.read(source, 200)):
            self._kill()
            raise Broken(f"it wrote without being asked, before this request: {extra!r}", message)
        deadline = time.monotonic() + self.timeout
        piece = b""
        while b"\n" not in piece:
            left = deadline - time.monotonic()
            readable, writable, _ = select.select([source], [sink] if unsent else [], [], max(left, 0))
            if left <= 0:
                self._kill()
                self.hangs += 1
                raise _Hung(f"no answer within {self.timeout:g} seconds", message)
            try:
                if writable:
                    unsent = unsent[os.write(sink, unsent[: 2**16]) :]
                piece = os.read(source, 2**16) if readable else b""
                ended = readable and not piece
            except BrokenPipeError:
                ended = True
            if ended:
                raise self._crashed(message)
            received += piece
            if len(received) > LONGEST:
                self._kill()
                raise Broken(f"the answer is longer than {LONGEST} bytes", message)
        line, _, rest = bytes(received).partition(b"\n")
        if rest:
            self._kill()
            raise Broken(f"more than one line came as answer: {rest[:200]!r}", message)
        return line

    def _crashed(self, message) -> Broken:
        try:
            status = self.process.wait(1)
        except subprocess.TimeoutExpired:
            status = None
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-3:]
        self._kill()
        how = "it closed its output" if status is None else f"it ended with exit status {status}"
        if status is not None and status < 0:
            how = f"it was ended by signal {signal.Signals(-status).name}"
        return Broken(": ".join([how, " / ".join(last)] if last else [how]), message)

    def _kill(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # it has ended, and all that it started
            pass
        self.process.wait()
        self.process.stdout.close()
        self._errors.close()
        self.process = None


class _Hung(Broken):
    pass
