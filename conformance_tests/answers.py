"""From a line of an implementation to an object, and from what it says to what is shown: neither is trusted."""

import json
import math
import re
from collections import Counter

from unilora_spec.command import printable

DEEPEST = 16  # lists and objects in each other; the answers of PROTOCOL.md have three
MOST = 2**20  # values: each costs memory many times its text
LONGEST_NUMBER = 32  # characters, as in SPEC 8.5
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)  # nothing in it is tried twice


def parsed(line: bytes) -> dict:
    """The JSON object of an answer. Raises ``ValueError``, with a sentence, where it is none or parsers would differ."""
    bare = _TEXT.sub(b"", line)
    if bare.count(b",") + bare.count(b"[") + bare.count(b"{") > MOST:
        raise ValueError(f"it has more than {MOST} values")
    _check_depth(bare)
    try:
        answer = json.loads(
            line.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_whole,
            parse_float=_fraction,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is no UTF-8") from None
    if not isinstance(answer, dict):
        raise ValueError("it is another value")
    return answer


def shown(value, most: int = 300) -> str:
    """A text, or the repr of a value, as one line of at most so many characters, control characters spelled out."""
    text = value if isinstance(value, str) else repr(value)
    rest = f" … ({len(text)} characters)" if len(text) > most else ""
    return printable(text[:most]).replace("\n", "\\n") + rest


def _check_depth(bare):
    """``bare`` has no texts. Before the parser sees it, which calls itself for each list in a list."""
    depth = 0
    for bracket in re.finditer(rb"[\[{\]}]", bare):
        depth += 1 if bracket.group() in b"[{" else -1
        if depth > DEEPEST:
            raise ValueError(f"lists and objects in it are nested deeper than {DEEPEST}")


def _object(pairs):
    value = dict(pairs)
    if len(value) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {shown(twice, 40)} is there twice")
    return value


def _whole(text):
    return int(_bounded(text))


def _fraction(text):
    if not math.isfinite(number := float(_bounded(text))):
        raise ValueError(f"the number {text} is beyond float64")
    return number


def _bounded(text):
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number in it has {len(text)} characters, more than {LONGEST_NUMBER}")
    return text


def _constant(text):
    raise ValueError(f"{text} is not JSON")
