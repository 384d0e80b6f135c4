"""What a check does with an implementation: asks it, compares bits, and says in a sentence what differs."""

import binascii

import numpy as np

from unilora_spec.protocol import TYPES, pack, unpack

from .client import Failed, Implementation, NotSupported
from .rules import KINDS

SHOWN = {"<f4": lambda x: f"{x:.9g} ({int(x.view(np.uint32)):08X})"}


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

    def ask(self, request: str, **fields) -> dict:
        """The answer, its arrays unpacked. Raises ``Failed`` where it is a refusal."""
        fields = packed(fields)
        answer = self.implementation.ask(request, **fields)
        if "refused" in answer:
            self.fail(f"refused with rule {answer['refused']}: {answer.get('message')!s:.200}", request, fields)
        return {name: self._unpacked(name, value, request, fields) for name, value in answer.items()}

    def gives(self, expected: dict, request: str, **fields) -> dict:
        """Asks, and compares the fields of the answer that ``expected`` has: arrays by their bits."""
        answer, fields = self.ask(request, **fields), packed(fields)
        for name, value in expected.items():
            if name not in answer:
                self.fail(f"the answer has no {name}", request, fields)
            if fault := differs(name, answer[name], value):
                self.fail(fault, request, fields)
        return answer

    def refuses(self, rules: str | set[str], request: str, **fields) -> str:
        """Asks, and takes a refusal with one of ``rules`` alone. Returns its message."""
        rules, fields = [rules] if isinstance(rules, str) else sorted(rules), packed(fields)
        answer = self.implementation.ask(request, **fields)
        ours = " or ".join(rules)
        if "refused" not in answer:
            self.fail(f"accepted, but rule {ours} refuses it", request, fields)
        if answer["refused"] not in rules:
            self.fail(f"refused with rule {answer['refused']}, but it is {ours} that refuses it", request, fields)
        return str(answer.get("message"))

    def fail(self, message: str, request: str, fields: dict):
        """Ends the check with a sentence and the request to paste."""
        self.implementation.fail(Failed(message, {"request": request, **packed(fields)}))

    def _unpacked(self, name, value, request, fields):
        if name == "tensors" and isinstance(value, dict):
            return {key: self._unpacked_values(tensor, request, fields) for key, tensor in value.items()}
        if name == "weights" and isinstance(value, dict):
            return {key: self._unpacked_values(weight, request, fields) for key, weight in value.items()}
        if name not in TYPES:
            return value
        try:
            return unpack(value, name)
        except (TypeError, ValueError, AttributeError, binascii.Error):
            self.fail(f"{name} is no array of {TYPES[name]} in base64: {value!r:.100}", request, fields)

    def _unpacked_values(self, value, request, fields):
        name = "index" if isinstance(value, dict) and value.get("dtype") == "I32" else "values"
        if not isinstance(value, dict) or name not in value:
            self.fail(f"a tensor or weight of the answer has no {name}: {value!r:.100}", request, fields)
        return {**value, name: self._unpacked(name, value[name], request, fields)}


def differs(name: str, got, expected) -> str | None:
    """A sentence on the first difference, or None: of arrays by their bits, of objects field by field."""
    if isinstance(got, dict) and isinstance(expected, dict):
        if got.keys() != expected.keys():
            return f"{name} has the fields {sorted(got)}, and must have {sorted(expected)}"
        faults = (differs(key, got[key], expected[key]) for key in expected)
        return next((f"{name}: {fault}" for fault in faults if fault), None)
    if name in TYPES:
        got, expected = (unpack(pack(value, name), name) for value in (got, expected))
        if len(got) != len(expected):
            return f"{name} has {len(got)} entries, and must have {len(expected)}"
        bits = got.view(f"u{got.itemsize}") != expected.view(f"u{got.itemsize}")
        if not bits.any():
            return None
        at, show = int(np.argmax(bits)), SHOWN.get(TYPES[name], str)
        return f"{name}[{at}] is {show(got[at])}, and must be {show(expected[at])}"
    return None if got == expected else f"{name} is {got!r:.300}, and must be {expected!r:.300}"


def packed(fields: dict) -> dict:
    """Fields of a request or an answer with their arrays as the protocol sends them."""
    return {name: _pack(name, value) for name, value in fields.items()}


def _pack(name, value):
    if name in ("tensors", "weights"):
        return {key: packed(item) for key, item in value.items()}
    if name == "projection":
        return packed(value)
    return value if name not in TYPES or isinstance(value, str) else pack(value, name)
