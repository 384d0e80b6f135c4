"""Canonical JSON: RFC 8785 restricted to strings, booleans, lists, objects and numbers that every language prints alike
(SPEC 8.5)."""

import json

from .errors import FileError

MAX_DEPTH = 16


def encode(value) -> bytes:
    """UTF-8 bytes with sorted keys and no white space. A float that is whole is written as an integer.

    Raises ``FileError`` for null, which nothing here has a use for, and for lone surrogates, which UTF-8 cannot spell.
    """
    try:
        return _text(value).encode("utf-8")
    except UnicodeEncodeError:
        raise FileError("a JSON text holds half a surrogate pair", "8.5") from None


def _text(value) -> str:
    if isinstance(value, dict):
        # RFC 8785 orders keys by UTF-16 code units, which differs from Python's order above the basic plane.
        items = sorted(value.items(), key=lambda item: item[0].encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(f"{_text(key)}:{_text(item)}" for key, item in items) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None:
        raise FileError("a JSON text holds null, which has no meaning here", "8.5")
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def decode(data: bytes):
    """The value of JSON bytes. Raises ``FileError`` for anything but one well-formed value of bounded depth, with
    duplicate keys, numbers from 2^53 on, NaN, null and lone surrogates among what is refused."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise FileError("a JSON text is not UTF-8", "8.5") from None
    if _depth(text) > MAX_DEPTH:
        raise FileError(f"a JSON text is nested deeper than {MAX_DEPTH}", "8.5")
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
        )
        encode(value)  # refuses what JSON can spell and its canonical form cannot
    except json.JSONDecodeError as error:
        raise FileError(f"a JSON text is malformed at character {error.pos}: {error.msg}", "8.5") from None
    return value


def _depth(text: str) -> int:
    """An upper bound of the nesting, brackets inside of strings left out."""
    deepest = depth = 0
    inside = escaped = False
    for character in text:
        if inside:
            inside = escaped or character != '"'
            escaped = not escaped and character == "\\"
        elif character == '"':
            inside = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _object(pairs):
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


def _constant(text: str):
    raise FileError(f"{text} is not JSON", "8.5")
