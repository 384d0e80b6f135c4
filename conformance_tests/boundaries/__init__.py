"""For every comparison, product, sum, order and limit that SPEC.md names: inputs on each side of it, and inputs where a narrower
type, 8, 16 or 32 bits, float32, float64, signed, wrapping or saturating, goes wrong. Nothing here is random: each run asks all.

A file a chapter. A *line* is one function: its decorator says the rule and, in the words of SPEC.md, what is compared, its docstring
who gets it wrong, and it yields the inputs, each with what must come back. ``limit`` is a line with inputs that are taken and
inputs that are refused, ``exact`` one of numbers, orders and spellings that must come out right. ``of`` are the rows of the table
of SPEC 1.4 that the line stands for, by the text of their first column.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ..oracle.kinds import LAYERED

LINES: list["Line"] = []

WITHOUT = {
    "3.2": "says why the constants of 3.1 are what they are",
    "7.3": "a form, without a number; merging asks it",
    "8.1": "nothing is compared",
    "8.9": "an attack, not a number: memory and time are asked by chapter 8 itself",
    "8.11": "not visible in an answer",
    "8.12": "nothing is compared",
    "10.4": "not visible in an answer",
    "11.4": "a bound on roundings, drawn by chapter 11 itself",
}
"""The rules that have no line, and why. (That of equal numbers h_3 the lower is first, 11.12, cannot be asked: within a block
mix gives no number twice.)"""


@dataclass(frozen=True)
class Input:
    """One input of a line: the request's ``fields``, and ``answer``, the fields that must come back or the rules that refuse."""

    name: str
    fields: dict
    answer: dict | None = None
    refused: frozenset[str] = frozenset()


def gives(name: str, answer: dict, **fields) -> Input:
    return Input(name, fields, answer=answer)


def refused(name: str, rules: str, **fields) -> Input:
    """``rules`` are separated by spaces; any of them may refuse."""
    return Input(name, fields, refused=frozenset(rules.split()))


@dataclass(frozen=True)
class Line:
    """``inputs()`` yields them, all for the request ``asks``; ``kind`` is the one that all of them need, if any."""

    rules: tuple[str, ...]
    what: str
    why: str
    asks: str
    inputs: Callable[[], Iterator[Input]]
    limit: bool
    kind: str | None = None
    of: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        of_kind = f", {self.kind}" if self.kind else ""
        return f"{self.rules[0]}: {self.what}{of_kind}, {self.asks}"


def _line(is_limit, rules, what, asks, kind=None, kinds=(), of=()):
    def add(function):
        why, of_table = " ".join(function.__doc__.split()), (of,) if isinstance(of, str) else of
        for each in kinds or [kind]:
            inputs = partial(function, each) if kinds else function
            own = [LAYERED[each].RULE] if each in LAYERED else []  # a kind's own rule goes with all that is asked of it
            numbers = tuple(dict.fromkeys([*rules.split(), *own]))
            LINES.append(Line(numbers, what, why, asks, inputs, is_limit, each, of_table))
        return function

    return add


def limit(rules: str, what: str, asks: str, **more):
    """Marks a line with both sides of a comparison. With ``kinds``, one for each of them, to whose function it is given."""
    return _line(True, rules, what, asks, **more)


def exact(rules: str, what: str, asks: str, **more):
    """Marks a line of what must come out right."""
    return _line(False, rules, what, asks, **more)


for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
