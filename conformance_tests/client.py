"""Asks an implementation line by line (PROTOCOL.md), and collects what is wrong with its answers."""

import importlib.util
import json
import re
import shlex
import sys
import time

import pytest

from .answers import parsed, shown
from .processes import Command, NoAnswer
from .rules import KINDS

SHRINKING = 15  # seconds after a check's first failure in which a smaller input is looked for
HANGS = 3  # requests without an answer in time, after which no more are sent: each costs the whole time limit
WAYS = 20  # ways of failing that are kept of one check; further ones are counted only


class Failed(AssertionError):
    """A wrong answer. ``request`` is the request, as it can be pasted, and ``answer`` the answer to it, None where none came.

    ``way``, with the message up to its first number or name, distinguishes one way of failing from another.
    """

    def __init__(self, message, request, way=""):
        super().__init__(message)
        self.message, self.request, self.answer = shown(message, 1000), request, None
        self.way = way, type(self), re.split(r"""[\d[{'"]""", message, maxsplit=1)[0]


class Broken(Failed):
    """No answer: the implementation ended, or wrote something else."""


class GaveUp(BaseException):
    """Ends a check with its failures so far. It is no ``Exception``, so that Hypothesis does not look for a smaller failure."""

    def __init__(self, failure):
        super().__init__(failure.message)
        self.failure = failure


class NotAsked(GaveUp):
    """A check that is not made, as too many requests before have had no answer."""


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
    """Asks a command. It is started when it is first asked, again after each failure, and ended with all its processes.

    ``command``  its words; ``timeout``  seconds for one answer
    """

    def __init__(self, command: list[str], timeout: float = 10.0):
        self.command, self.timeout = command, timeout
        self.process, self.asked, self.hangs = None, 0, 0
        self.first = False  # whether a table ends at its first failure
        self.new_check()
        self.described = self.ask("describe")
        for field, kind in (("name", str), ("version", str), ("requests", list), ("kinds", list)):
            value = self.described.get(field)
            if not isinstance(value, kind) or kind is list and not all(isinstance(item, str) for item in value):
                self.close()
                raise Failed(f"the answer has no {field} as PROTOCOL.md asks for", {"request": "describe"})
        self.requests, self.kinds = self.described["requests"], self.described["kinds"]

    def new_check(self) -> None:
        """Forgets the failures of the check before. ``ways`` has one failure for each way in which a check fails, the one with the
        shortest request; ``further`` are the ways beyond ``WAYS``, and ``case`` is the number and the name of a case of a table (``each``)."""
        self.ways, self.further, self.case = {}, set(), None
        self._since, self._last = None, (None, None)

    @property
    def smallest(self) -> Failed | None:
        """The failure of the check with the shortest request."""
        return min(self.ways.values(), key=lambda failure: len(as_line(failure.request)), default=None)

    def ask(self, request: str, **fields) -> dict:
        """The answer to one request. Raises ``Failed`` where there is none, ``NotSupported`` where there can be none."""
        message = {"request": request, **fields}
        if request != "describe":
            kind = fields.get("projection", {}).get("kind")
            if request not in self.requests or (kind in KINDS and kind not in self.kinds):
                raise NotSupported(request if request not in self.requests else f"kind {kind}")
        if self.hangs >= HANGS:
            raise NotAsked(Broken(f"{HANGS} requests before have had no answer in time", message))
        self.asked, self._last = self.asked + 1, (None, None)
        try:
            answer = self._answer(message)
        except Failed as failure:
            self.fail(failure)
        self._last = message, answer
        return answer

    def fail(self, failure: Failed):
        """Keeps ``failure`` and raises it, or ``GaveUp`` when it is time to end the search for others."""
        if self._last[0] == failure.request:
            failure.answer = self._last[1]
        if self.case and self.case[1]:
            failure.message = f"{shown(self.case[1], 200)}: {failure.message}"
        way = self.case, failure.way
        known = self.ways.get(way)
        if known is None and len(self.ways) >= WAYS:
            self.further.add(way)
        elif known is None or len(as_line(failure.request)) < len(as_line(known.request)):
            self.ways[way] = failure
        self._since = self._since or time.monotonic()
        self._raise(failure)

    def each(self, cases, ask, named=None) -> None:
        """Calls ``ask(case)`` for each case, and then fails as the first one that failed did; where only the first failure is
        wanted, it fails at once. ``named(case)`` is the case's name in the message."""
        first = None
        try:
            for k, case in enumerate(cases):
                self.case = k, named(case) if named else ""
                try:
                    ask(case)
                except Failed as failure:
                    first = first or failure
                    if self.first:
                        break
        finally:
            self.case = None
        if first:
            self._raise(first)

    def memory(self) -> dict[str, int]:
        """The most bytes that the process has had, resident and reserved; empty where the system does not say."""
        try:
            with open(f"/proc/{self.process.pid}/status") as status:
                found = re.findall(r"^(VmHWM|VmPeak):\s+(\d+) kB", status.read(), re.MULTILINE)
        except OSError:
            return {}
        return {name: 1024 * int(kilobytes) for name, kilobytes in found}

    def close(self, patience: float = 1) -> None:
        """Ends the command and all that it has started; it has ``patience`` seconds to end by itself."""
        process, self.process = self.process, None
        if process is not None:
            process.close(patience)

    def _raise(self, failure):
        late = time.monotonic() - self._since > SHRINKING and self.case is None  # a table is gone through to its end
        raise GaveUp(failure) if late or isinstance(failure, _Hung) else failure

    def _answer(self, message) -> dict:
        try:
            self.process = self.process or Command(self.command)
            line = self.process.exchange(as_line(message), self.timeout)
        except NoAnswer as reason:
            self.close(0)
            self.hangs += reason.hung
            raise (_Hung if reason.hung else Broken)(str(reason), message) from None
        try:
            return parsed(line)
        except ValueError as error:
            self.close(0)
            raise Broken(f"{error}: {shown(line[:200])}", message) from None


def as_line(message: dict) -> bytes:
    """A request as it is sent, without the end of the line."""
    try:
        return json.dumps(message, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair cannot be UTF-8, but can be escaped
        return json.dumps(message).encode()


class _Hung(Broken):
    pass
