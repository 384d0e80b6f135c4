"""The rules of SPEC.md, and which requests of the protocol belong to which level."""

import re
from dataclasses import dataclass
from importlib.resources import files

import pytest

from .oracle.kinds import LAYERED, PROGRAMS

KINDS = ("balanced", "uniform", "identity", "table", *LAYERED)  # SPEC 9.1
OF_NUMBERS = tuple(kind for kind in KINDS if kind not in LAYERED)
"""Those that need no layer map."""
GATHERS = tuple(kind for kind in KINDS if kind not in PROGRAMS)
"""Those whose rows hold one entry each."""

LEVELS = {
    "projection": (
        "keys", "mix", "permutation", "inverse", "index", "members", "scale", "initial", "expand", "adjoint",
    ),
    "file": ("read", "write"),
    "full": ("delta_weight", "fingerprints", "rest", "merge"),
}  # fmt: skip
"""Each level's requests; a level includes those before it."""

NOT_ASKED = {
    "8.11": "how a file comes onto a disk is not visible in an answer",
    "8.12": "how this document grows; an implementation is asked for what it says today",
    "10.4": "names in the files of a base; a request has names of a model",
}
"""The rules without a check, and why."""

TOGETHER = (
    ("8.2", "8.10", "write", "of a canonical header above 256 KiB 8.2 says that none is written, 8.10 that there is no form"),
    ("7.4", "10.3", "merge", "a weight without the dimensions that its segments name: 7.4 says what they are, 10.3 asks for them"),
    *((LAYERED[kind].RULE, "11.1", kind, "a kind's own rule and the one common to all kinds say which numbers it may have")
      for kind in LAYERED),
)  # fmt: skip
"""Pairs of rules that refuse the same: both, the request or the kind with which they do, and why. Either is right then."""


def refusing(rules, request: str, kind: str | None = None) -> set[str]:
    """``rules``, and the rules that may refuse such a request, of such a kind, in the place of one of them."""
    found = set(rules)
    for one, other, where, _ in TOGETHER:
        if where in (request, kind) and found & {one, other}:
            found |= {one, other}
    return found


def spec_rules() -> dict[str, str]:
    """Each rule's number and its text, in the order of SPEC.md."""
    text = files("unilora_spec").joinpath("SPEC.md").read_text(encoding="utf-8")
    parts = re.split(r"^\*\*(\d+\.\d+)\*\* ", re.sub(r"^## .*$", "", text, flags=re.MULTILINE), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def chapters() -> dict[str, str]:
    """Each chapter's number and title."""
    text = files("unilora_spec").joinpath("SPEC.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^## (\d+) (.*)$", text, re.MULTILINE))


def check(*rules: str, needs: str, drawn: bool = True):
    """Marks a check: the rules that it tests, the requests, separated by spaces, without which it cannot be made, and whether its
    inputs are drawn by a seed, or the same at each run."""
    return pytest.mark.check(rules=rules, needs=tuple(needs.split()), drawn=drawn)


def level_of(requests) -> str:
    """The lowest level that has all of the requests."""
    return next(name for name in reversed(LEVELS) if set(LEVELS[name]) & set(requests))


@dataclass(frozen=True)
class Selection:
    """Which checks to make: those of these rules and chapters, all where none is named; of these only those of ``level`` and the levels
    before it; unless ``drawn``, only those that ask the same at each run."""

    rules: frozenset[str] = frozenset()
    chapters: frozenset[str] = frozenset()
    level: str | None = None
    drawn: bool = True

    @property
    def is_all(self) -> bool:
        return self == Selection()

    def takes(self, rules, needs, drawn) -> bool:
        """Whether a check with this mark is selected."""
        named = not (self.rules or self.chapters) or any(
            rule in self.rules or rule.split(".")[0] in self.chapters for rule in rules
        )
        levels = list(LEVELS)
        in_level = self.level is None or levels.index(level_of(needs)) <= levels.index(self.level)
        return named and in_level and (self.drawn or not drawn)
