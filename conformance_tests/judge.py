"""Asks an implementation on behalf of a check, compares bits, and says in a sentence what differs."""

import base64
import binascii
import json
import os

import numpy as np

from unilora_spec.protocol import TYPES, pack, unpack

from .answers import shown
from .client import Failed, Implementation, NotSupported
from .header import description_of
from .rules import KINDS, refusing

LONG = 200  # characters of a text that are shown
SHOWN = {"<f4": lambda x: f"{x:.9g} ({int(x.view(np.uint32)):08X})"}


class _Answer(dict):
    """An answer that says which field it lacks, by ``lacks(name)``."""

    def __init__(self, fields, lacks):
        super().__init__(fields)
        self.lacks = lacks

    def __missing__(self, name):
        self.lacks(name)


class Judge:
    """Asks an ``Implementation``. Arrays are given to it, and come back, as NumPy arrays or lists of numbers."""

    def __init__(self, implementation: Implementation):
        self.implementation = implementation

    @property
    def kinds(self) -> list[str]:
        """The projection kinds of SPEC.md that the implementation supports, always in one order."""
        return [kind for kind in KINDS if kind in self.implementation.kinds]

    def needs_kind(self, kind: str) -> None:
        """Ends the check as not supported where the implementation does not have the kind."""
        if kind not in self.kinds:
            raise NotSupported(f"kind {kind}")

    def each(self, cases, ask, named=None) -> None:
        """Calls ``ask(case)`` for each of a table of cases. All that fail are reported, not the first alone, each with the
        text ``named(case)`` if that is given."""
        self.implementation.each(cases, ask, named)

    def ask(self, request: str, **fields) -> dict:
        """The answer, its arrays unpacked; a field that it lacks is a failure. Raises ``Failed`` where it is a refusal."""
        fields = packed(fields)
        answer = self.implementation.ask(request, **fields)
        if "refused" in answer:
            rule = shown(answer["refused"], 100)
            self.fail(f"refused with rule {rule}: {shown(answer.get('message'), 200)}", request, fields, rule)
        unpacked = {name: self._unpacked(name, value, request, fields) for name, value in answer.items()}
        return _Answer(unpacked, lambda name: self.fail(f"the answer has no {name}", request, fields))

    def array(self, name: str, length: int, request: str, **fields) -> np.ndarray:
        """Asks for an array of this length."""
        got = self.ask(request, **fields)[name]
        if len(got) != length:
            self.fail(f"{name} has {len(got)} entries, and must have {length}", request, fields)
        return got

    def gives(self, expected: dict, request: str, **fields) -> dict:
        """Asks, and compares the fields of the answer that ``expected`` has: arrays by their bits."""
        answer = self.ask(request, **fields)
        for name, value in expected.items():
            if fault := differs(name, answer[name], value):
                self.fail(fault, request, fields)
        return answer

    def refuses(self, rules: str | set[str], request: str, **fields) -> str:
        """Asks, and takes a refusal with one of ``rules``, or with one that refuses together with them (rules.TOGETHER),
        alone. Returns its message."""
        fields = packed(fields)
        rules = sorted(refusing({rules} if isinstance(rules, str) else rules, request, _kind_of(fields)))
        answer = self.implementation.ask(request, **fields)
        ours = " or ".join(rules)
        if "refused" not in answer:
            self.fail(f"accepted, but rule {ours} refuses it", request, fields)
        if answer["refused"] not in rules:
            rule = shown(answer["refused"], 100)
            self.fail(f"refused with rule {rule}, but it is {ours} that refuses it", request, fields, rule)
        return shown(answer.get("message"), 1000)

    def within(self, name: str, got, exact, bound, request: str, fields: dict) -> None:
        """Compares an array of an answer with float64 numbers; each entry may be off by its own ``bound``."""
        exact, bound = np.ravel(exact), np.ravel(bound)
        if len(got) != len(exact):
            self.fail(f"{name} has {len(got)} entries, and must have {len(exact)}", request, fields)
        wrong = ~(abs(got.astype(np.float64) - exact) <= bound)
        if wrong.any():
            at = int(np.argmax(wrong))
            self.fail(f"{name}[{at}] is {got[at]:.9g}, not within {bound[at]:.3g} of {exact[at]:.17g}", request, fields)

    def fail(self, message: str, request: str, fields: dict, way: str = ""):
        """Ends the check with a sentence and the request to paste."""
        self.implementation.fail(Failed(message, {"request": request, **packed(fields)}, way))

    def _unpacked(self, name, value, request, fields):
        if name in ("tensors", "weights"):
            if not isinstance(value, dict):
                self.fail(f"{name} is no object: {shown(value, 100)}", request, fields)
            return {key: self._unpacked_values(item, request, fields) for key, item in value.items()}
        if name not in TYPES:
            return value
        try:
            return unpack(value, name)
        except (TypeError, ValueError, AttributeError, binascii.Error):
            self.fail(f"{name} is no array of {TYPES[name]} in base64: {shown(value, 100)}", request, fields)

    def _unpacked_values(self, value, request, fields):
        name = "index" if isinstance(value, dict) and value.get("dtype") == "I32" else "values"
        if not isinstance(value, dict) or name not in value:
            self.fail(f"a tensor or weight of the answer has no {name}: {shown(value, 100)}", request, fields)
        return {**value, name: self._unpacked(name, value[name], request, fields)}


def differs(name: str, got, expected) -> str | None:
    """A sentence on the first difference, or None: of arrays by their bits, of objects field by field."""
    if isinstance(got, dict) and isinstance(expected, dict):
        if got.keys() != expected.keys():
            return f"{name} has the fields {sorted(got)}, and must have {sorted(expected)}"
        faults = (differs(key, got[key], expected[key]) for key in expected)
        return next((f"{name}: {fault}" for fault in faults if fault), None)
    if name == "file":
        return _bytes_differ(*(unpack(pack(value, name), name).tobytes() for value in (got, expected)))
    if name in TYPES:
        got, expected = (unpack(pack(value, name), name) for value in (got, expected))
        if len(got) != len(expected):
            return f"{name} has {len(got)} entries, and must have {len(expected)}"
        bits = got.view(f"u{got.itemsize}") != expected.view(f"u{got.itemsize}")
        if not bits.any():
            return None
        at, show = int(np.argmax(bits)), SHOWN.get(TYPES[name], str)
        return f"{name}[{at}] is {show(got[at])}, and must be {show(expected[at])}"
    if got == expected:
        return None
    if isinstance(got, str) and isinstance(expected, str) and len(expected) > LONG:
        at = len(os.path.commonprefix([got, expected]))
        name = f"{name}, from character {at} on,"
        got, expected = got[at:], expected[at:]
    return f"{name} is {shown(repr(got), LONG)}, and must be {shown(repr(expected), LONG)}"


def _bytes_differ(got, expected):
    if got == expected:
        return None
    at = len(os.path.commonprefix([got, expected]))
    around = slice(max(at - 20, 0), at + 40)
    return f"file[{at}], the first byte that differs, stands in {got[around]!r}, and must in {expected[around]!r}"


def packed(fields: dict) -> dict:
    """Fields of a request or an answer with their arrays as the protocol sends them."""
    return {name: _pack(name, value) for name, value in fields.items()}


def _kind_of(fields):
    """The kind of a request's projection, wherever it has one that can be read."""
    try:
        if "file" in fields:
            fields = {"description": json.loads(description_of(base64.b64decode(fields["file"])))}
        return fields.get("description", fields)["projection"]["kind"]
    except (LookupError, TypeError, ValueError, RecursionError):
        return None


def _pack(name, value):
    if name in ("tensors", "weights"):
        return {key: packed(item) for key, item in value.items()}
    if name == "projection":
        return packed(value)
    return value if name not in TYPES or isinstance(value, str) else pack(value, name)
