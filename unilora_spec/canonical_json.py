"""Canonical JSON: RFC 8785 restricted to strings, booleans, lists, objects and numbers that every language prints alike
(SPEC 8.5)."""

import json
from typing import Any, NoReturn

from .errors import FileError
from .nesting import nesting

MAX_DEPTH = 16
MAX_VALUES = 2**21  # a parsed value takes up to 100 bytes; the header of a base of 200,000 tensors has so many
_NULL = "a JSON text holds null, which has no meaning here"


def encode(value: Any) -> bytes:
    """UTF-8 bytes with sorted keys and no white space. A float that is whole is written as an integer.

    Raises ``FileError`` for null, which nothing here has a use for, and for lone surrogates, which UTF-8 cannot spell.
    """
    return _utf8(_text(value))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        # RFC 8785 orders keys by UTF-16 code units, which differs from Python's order above the basic plane.
        items = sorted(value.items(), key=lambda item: item[0].encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(f"{_text(key)}:{_text(item)}" for key, item in items) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None:
        raise FileError(_NULL, "8.5")
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise FileError("a JSON text holds half a surrogate pair", "8.5") from None


def decode(data: bytes) -> Any:
    """The value of JSON bytes. Raises ``FileError`` for anything but one well-formed value of bounded depth, with
    duplicate keys, numbers from 2^53 on, NaN, null and lone surrogates among what is refused."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise FileError("a JSON text is not UTF-8", "8.5") from None
    found = nesting(data)
    if found.deepest > MAX_DEPTH:
        raise FileError(f"a JSON text is nested deeper than {MAX_DEPTH}", "8.5")
    if found.values > MAX_VALUES:
        raise FileError(f"a JSON text has {found.values:,} values; {MAX_VALUES:,} is the limit", "8.5")
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
        )
    except json.JSONDecodeError as error:
        raise FileError(f"a JSON text is malformed at character {error.pos}: {error.msg}", "8.5") from None
    _check(value)
    return value


def _check(value: Any) -> None:
    """Raises ``FileError`` for what JSON can spell and its canonical form cannot: null and half surrogate pairs."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check(key)
            _check(item)
    elif isinstance(value, list):
        for item in value:
            _check(item)
    elif isinstance(value, str):
        _utf8(value)
    elif value is None:
        raise FileError(_NULL, "8.5")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise FileError("a JSON object has the same key twice", "8.5")
    return value


def _integer(text: str) -> int:
    if len(text) > 17 or not -(2**53) < int(text) < 2**53:
        raise FileError(f"the number {text:.20} is not below 2^53", "8.5")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if len(text) > 32 or not abs(value) < 2**53:
        raise FileError(f"the number {text:.20} is not a finite number below 2^53", "8.5")
    return value


def _constant(text: str) -> NoReturn:
    raise FileError(f"{text} is not JSON", "8.5")
