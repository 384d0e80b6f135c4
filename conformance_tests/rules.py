"""The rules of SPEC.md, and which requests of the protocol belong to which level."""

import re
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
    "full": ("delta_weight", "fingerprints", "merge"),
}  # fmt: skip
"""Each level's requests; a level includes those before it."""

NOT_ASKED = {
    "8.11": "how a file comes onto a disk is not visible in an answer",
    "10.4": "names in the files of a base; a request has names of a model",
}
"""The rules without a check, and why."""


def spec_rules() -> dict[str, str]:
    """Each rule's number and its text, in the order of SPEC.md."""
    text = files("unilora_spec").joinpath("SPEC.md").read_text(encoding="utf-8")
    parts = re.split(r"^\*\*(\d+\.\d+)\*\* ", re.sub(r"^## .*$", "", text, flags=re.MULTILINE), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def chapters() -> dict[str, str]:
    """Each chapter's number and title."""
    text = files("unilora_spec").joinpath("SPEC.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^## (\d+) (.*)$", text, re.MULTILINE))


def check(*rules: str, needs: str):
    """Marks a check: the rules that it tests, and the requests, separated by spaces, without which it cannot be made."""
    return pytest.mark.check(rules=rules, needs=tuple(needs.split()))


def level_of(requests) -> str:
    """The lowest level that has all of the requests."""
    return next(name for name in reversed(LEVELS) if set(LEVELS[name]) & set(requests))
