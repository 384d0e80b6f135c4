"""The findings of a part of ``make gpu``: each is a dictionary with ``name``, ``status`` and a sentence, ``says``.

A figure has a ``line`` too, as ``measure.compared`` makes it.
"""

import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PASSED, FAILED, MEASURED, NOTED = "passed", "failed", "measured", "noted"
REHEARSED, LEFT_OUT = "rehearsed", "left out"
OURS = ("backends", "benchmarks", "conformance_tests", "export", "tests", "unilora_spec")
LONGEST = 400  # characters of an error that are shown; all of it is in the part's log


@dataclass(frozen=True)
class Context:
    """What a part works with: whether there is a GPU, when its time is over (``time.monotonic``), a folder of ONNX files or None."""

    gpu: bool
    end: float
    files: Path | None = None

    @property
    def device(self) -> str:
        """Where tensors go: without a GPU, Triton's interpreter takes those of the CPU."""
        return "cuda" if self.gpu else "cpu"

    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.monotonic()


def checked(name: str, count: int, faults: list[str]) -> dict:
    """The finding of a check of ``count`` cases, with a sentence in ``faults`` for each case that is wrong."""
    if faults:
        return finding(name, FAILED, f"{len(faults)} of {count:,} cases are wrong, the first: {faults[0]}")
    return finding(name, PASSED, f"{count:,} cases" if count != 1 else "as it must be")


def finding(name: str, status: str, says: str, line: dict | None = None) -> dict:
    """A finding with this status and sentence."""
    return {"name": name, "status": status, "says": says, "line": line}


def left_out(name: str, reason: str) -> dict:
    """The finding that something was not looked at, which is no failure."""
    return finding(name, LEFT_OUT, reason)


def guarded(name: str, found: Iterable[dict], of_others: bool = False) -> Iterator[dict]:
    """The findings, with an error that ends them as the last finding, so that it does not end what comes after them.

    A missing package is no failure, and neither is an error in the code ``of_others``.
    """
    try:
        yield from found
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in OURS:
            yield finding(name, FAILED, reason(error))
        else:
            yield left_out(name, f"needs the package {package}, which is not installed")
    except Exception as error:  # noqa: BLE001  whatever a GPU, a driver or a library may raise is an answer
        traceback.print_exc()
        yield finding(name, LEFT_OUT if of_others else FAILED, reason(error))


def reason(error: Exception) -> str:
    """An error as one line: its class, and the first line of what it says."""
    says = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {says}"[:LONGEST]
