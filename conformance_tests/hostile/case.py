"""What a hostile file is, and how the modules here make one."""

import copy
import json
from dataclasses import dataclass

from .tiny import TEXT, TINY, metadata, with_text

FLAGS = {
    "container": "The safetensors container is taken without a check of its lengths: bytes outside of the file are read.",
    "offsets": "Offsets of tensors are trusted: tensors that overlap, or lie outside of the file, are read.",
    "shape": "A shape is trusted: memory is allocated for numbers that the file does not hold, or products overflow.",
    "tensors": "Tensors of other names, dtypes or shapes are taken for an adapter's.",
    "values": "NaN or infinity reaches a model, and every output of it becomes NaN.",
    "version": "A file that was written for another reader is misread in place of being refused.",
    "json": "JSON that parsers read differently is accepted: two readers see two adapters in one file.",
    "description": "A description with missing, unknown or mistyped fields is accepted: what its writer meant is lost.",
    "limits": "Numbers beyond the limits are accepted, and wrap, round or exhaust the memory later.",
    "layer map": "A layer map that contradicts itself is accepted: two segments change one weight.",
    "table": "The index of kind `table` is taken as it is: entries outside of theta are read. (The kind is optional; without"
    " it all of these are refused as well.)",
    "parts": "Parts that contradict each other are accepted: theta is spread over other entries than it was trained for.",
}
"""What a mistake costs, by the flag of the cases that find it."""


@dataclass(frozen=True)
class Case:
    """One file. Any of ``rules`` may refuse it; without rules it is sound. ``description`` is the one that a writer refuses as well."""

    name: str
    flag: str
    rules: frozenset[str]
    file: bytes
    description: dict | None = None


def refused(flag: str, rules: str, name: str, file: bytes) -> Case:
    """A file that any of ``rules``, which blanks part, may refuse."""
    return Case(name, flag, frozenset(rules.split()), file)


def described(flag: str, rules: str, name: str, change) -> Case:
    """The tiny file with its description changed by ``change(description)``, which may give another one back."""
    description = copy.deepcopy(TEXT)
    description = change(description) or description
    file = metadata(unilora=json.dumps(description, ensure_ascii=False))
    return Case(name, flag, frozenset(rules.split()), file, description)


def field(path: str, value):
    """The change that gives the field at ``path`` another value, or takes it out where None."""

    def change(description):
        *outer, last = path.split(".")
        for key in outer:
            description = description[int(key) if key.isdigit() else key]
        description.pop(last, None) if value is None else description.update({last: value})

    return change


def replaced(old: bytes, new: bytes) -> bytes:
    """The tiny file with a piece of its header replaced, which is there once."""
    assert TINY[8:-10].count(old) == 1
    return with_text(TINY[8:-10].replace(old, new))
