"""Parses the answers of an implementation, and makes its texts fit to be shown: it is trusted with neither."""

import json
import math
import re
from collections import Counter

from unilora_spec.command import printable

DEEPEST = 16  # lists and objects in each other; the answers of PROTOCOL.md have three
MOST = 2**20  # values: each costs memory many times its text
LONGEST_NUMBER = 32  # characters, as in SPEC 8.5
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)  # it never backtracks


def parsed(line: bytes) -> dict:
    """The JSON object of an answer. Raises ``ValueError``, with a sentence, where it is none or parsers would differ."""
    bare = _TEXT.sub(b"", line)
    if not bare.lstrip().startswith(b"{"):
        raise ValueError("the answer is not a JSON object")
    if bare.count(b",") + bare.count(b"[") + bare.count(b"{") > MOST:
        raise ValueError(f"the answer has more than {MOST} values")
    _check_depth(bare)
    try:
        return json.loads(
            line.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_whole,
            parse_float=_fraction,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"the answer is not a JSON object ({error.msg} at character {error.pos})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"the answer is not UTF-8 at byte {error.start}") from None


def shown(value, most: int = 300) -> str:
    """A text, or the repr of a value, as one line of at most so many characters, control characters spelled out."""
    text = value if isinstance(value, str) else repr(value)
    rest = f" … ({len(text)} characters)" if len(text) > most else ""
    return printable(text[:most]).replace("\n", "\\n") + rest


def _check_depth(bare):
    """Raises ``ValueError`` for JSON that nests too deep, before a parser sees it, which recurses. ``bare`` is the JSON without its texts."""
    depth = 0
    for bracket in re.finditer(rb"[\[{\]}]", bare):
        depth += 1 if bracket.group() in b"[{" else -1
        if depth > DEEPEST:
            raise ValueError(f"the answer nests lists and objects deeper than {DEEPEST}")


def _object(pairs):
    value = dict(pairs)
    if len(value) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the answer has the key {shown(twice, 40)} twice in one object")
    return value


def _whole(text):
    return int(_bounded(text))


def _fraction(text):
    if not math.isfinite(number := float(_bounded(text))):
        raise ValueError(f"the answer has the number {text}, beyond float64")
    return number


def _bounded(text):
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"the answer has a number of {len(text)} characters, more than {LONGEST_NUMBER}")
    return text


def _constant(text):
    raise ValueError(f"the answer has {text}, which is not JSON")
