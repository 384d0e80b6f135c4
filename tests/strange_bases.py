"""Bases of a stranger."""

import io
import signal
import sys

import pytest
from runs import base  # noqa: F401  fixtures


@pytest.fixture(autouse=True)
def yes(monkeypatch):
    """Standard input that says yes to everything, and no hour spent on a pipe that nobody writes to."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 50))
    signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(60)
    yield
    signal.alarm(0)


def _hangs(*_):
    raise TimeoutError("it waits")
