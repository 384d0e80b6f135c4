"""An implementation, asked line by line (PROTOCOL.md), and what it does wrong in answering."""

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
HANGS = 3  # after which nothing more is asked: each costs the whole time limit
WAYS = 20  # in which one check fails that are kept; the others are counted


class Failed(AssertionError):
    """An answer that is wrong. ``request`` is what to paste, ``answer`` what came to it, None where nothing did.

    ``way``, with the message up to its first number or name, tells one way of failing from another.
    """

    def __init__(self, message, request, way=""):
        super().__init__(message)
        self.message, self.request, self.answer = shown(message, 1000), request, None
        self.way = way, type(self), re.split(r"""[\d[{'"]""", message, maxsplit=1)[0]


class Broken(Failed):
    """No answer: the implementation ended, or wrote something else."""


class GaveUp(BaseException):
    """A check that is ended with its failures so far. Not an ``Exception``, so that no smaller one is looked for."""

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
        """Forgets the failures of the check before. ``ways`` has one for each way in which a check fails, that with the
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
        """Calls ``ask(case)`` for each case, whichever fail unless only the ``first`` is wanted, and fails then as the first of them;
        ``named(case)`` is said with it."""
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
        """The most bytes that the process has had, resident and reserved, where the system tells; else nothing."""
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
    """A request as it is sent, but for the end of the line."""
    try:
        return json.dumps(message, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair has no UTF-8, only an escape
        return json.dumps(message).encode()


class _Hung(Broken):
    pass
