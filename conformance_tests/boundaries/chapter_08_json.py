"""SPEC 8.5: JSON, in the header, which 8.2 refuses as well, and in the description, a JSON text within it."""

import json

from .. import hostile
from ..hostile import TENSORS, TEXT, TINY, metadata, with_text
from ..oracle import files
from . import exact, gives, limit, refused
from .chapter_07 import W, described, run

HEADER = TINY[8:-10].rstrip()
RICH = described([W | {"row": 7, "index": [0, 2]}, run(0, 2, W | {"name": ".w"}, prefix="l.")]) | {
    "base": hostile.BASE | {"labels": ["a"]}
}
"""A description with an object of each sort."""
RICH_TEXT = files.describe(RICH | {"layers": files.unfold(RICH["layers"])})
NAMED = TEXT | {"base": hostile.BASE | {"name": "NAME"}}


def in_header(spelling: bytes) -> bytes:
    """The tiny file with a piece of JSON text after `saved.b`."""
    return with_text(HEADER.replace(b'"saved.b"', b'"saved.b' + spelling + b'"'))


def in_description(spelling: str) -> bytes:
    """The tiny file with a piece of JSON text for the base's name."""
    return metadata(unilora=json.dumps(NAMED, ensure_ascii=False).replace("NAME", spelling))


def written(value, spell=json.dumps, twice=None, path=()):
    """A JSON text of a value. ``spell`` spells keys; ``twice`` is (the path of an object, a key and how it is spelled once more)."""
    if isinstance(value, dict):
        items = [f"{spell(key)}:{written(item, spell, twice, (*path, key))}" for key, item in value.items()]
        if twice and twice[0] == path:
            items.append(f"{twice[2]}:{json.dumps(value[twice[1]])}")
        return "{" + ",".join(items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(item, spell, twice, (*path, at)) for at, item in enumerate(value)) + "]"
    return json.dumps(value)


def escaped(text, which=lambda at: True):
    """A JSON text with these of its characters as \\u…."""
    return '"' + "".join(f"\\u{ord(letter):04X}" if which(at) else letter for at, letter in enumerate(text)) + '"'


def objects(value, path=()):
    """The path of each object within a value, and its keys."""
    if isinstance(value, dict):
        yield path, list(value)
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from objects(item, (*path, key))


def spellings(key):
    yield "as it is", json.dumps(key)
    yield "its first character escaped", escaped(key, lambda at: at == 0)
    yield "its last character escaped", escaped(key, lambda at: at == len(key) - 1)
    yield "all escaped, in small letters", escaped(key).lower().replace("\\u", "\\u")


@limit("8.5", "a key twice in one object, however it is escaped", "read")
def twice():
    """Keys that are compared as they are spelled; the last, or the first, of two is taken."""
    yield gives("the description once", {"description": RICH_TEXT}, file=metadata(unilora=written(RICH)))
    header = hostile.tiny_header()
    for path, keys in objects(header):
        for key in keys:
            for how, spelling in spellings(key):
                file = with_text(written(header, twice=(path, key, spelling)))
                yield refused(f"header {'.'.join(path)}: {key}, {how}", "8.2 8.5", file=file)
    for path, keys in objects(RICH):
        for key in keys:
            for how, spelling in spellings(key):
                file = metadata(unilora=written(RICH, twice=(path, key, spelling)))
                yield refused(f"description {'.'.join(map(str, path))}: {key}, {how}", "8.5", file=file)
    for name, first, second in (
        ("a surrogate pair and its UTF-8", '"\\ud835\\udd38"', '"𝔸"'), ("a solidus and its escape", '"a/b"', '"a\\/b"'),
        ("small and capital digits", '"\\u00e9"', '"\\u00E9"'), ("a tabulator in two ways", '"\\t"', '"\\u0009"'),
    ):  # fmt: skip
        tensor = '{"dtype":"F32","shape":[0],"data_offsets":[10,10]}'
        first, second = ('"saved.' + key[1:] for key in (first, second))
        text = HEADER.decode()[:-1] + f",{first}:{tensor},{second}:{tensor}" + "}"
        yield refused(f"two names, {name}", "8.2 8.5", file=with_text(text))


@exact("8.5", "keys that are escaped and are no others", "read")
def escaped_keys():
    """Keys that are looked for as they are spelled."""
    for name, spell in (("all characters", escaped), ("every other", lambda key: escaped(key, lambda at: at % 2))):
        file = metadata(unilora=written(RICH, spell))
        yield gives(f"{name} of the description", {"description": RICH_TEXT}, file=file)
        file = with_text(written(hostile.tiny_header(), spell))
        yield gives(f"{name} of the header", {"tensors": files.as_protocol(TENSORS)}, file=file)
    for key, other in (
        ("é", "e\u0301"),
        ("Å", "Å"),
        ("ß", "SS"),
        ("ı", "i"),
        ("a", "A"),
        ("a", "a\u0000"),
        ("", "\u0000"),
    ):
        given = TENSORS | {f"saved.n{key}": ("F32", [1], [1.0]), f"saved.n{other}": ("F32", [1], [2.0])}
        file = files.write(TEXT, given)
        yield gives(
            f"{key!r} and {other!r} are two", {"tensors": files.as_protocol(given), "canonical": True}, file=file
        )


@exact("8.5", "fields in any order", "read")
def any_order():
    """Fields that are read one after the other."""

    def turned(value):
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(item) for item in value] if isinstance(value, list) else value

    yield gives("backwards", {"description": RICH_TEXT}, file=metadata(unilora=json.dumps(turned(RICH))))
    yield gives("forwards", {"description": RICH_TEXT}, file=metadata(unilora=json.dumps(RICH)))
    yield gives("sorted", {"description": RICH_TEXT}, file=metadata(unilora=json.dumps(RICH, sort_keys=True)))
    yield gives(
        "the header backwards",
        {"tensors": files.as_protocol(TENSORS)},
        file=with_text(json.dumps(turned(hostile.tiny_header()))),
    )


@limit("8.5", "white space: space, tabulator, line feed, carriage return", "read")
def blanks():
    """White space that a language knows beside these; none where it may stand."""
    tokens = [piece for piece in _tokens(json.dumps(TEXT))]
    for blank in (" ", "\t", "\n", "\r", "\r\n \t"):
        text = blank + blank.join(tokens) + blank
        yield gives(
            f"{blank!r} everywhere in the description",
            {"description": files.describe(TEXT)},
            file=metadata(unilora=text),
        )
        text = blank.join(_tokens(HEADER.decode())) + blank
        yield gives(
            f"{blank!r} everywhere in the header", {"tensors": files.as_protocol(TENSORS)}, file=with_text(text)
        )
    for blank in (
        "\x0b",
        "\x0c",
        "\x00",
        "\x1f",
        "\x85",
        "\xa0",
        "\u2003",
        "\u2028",
        "\u3000",
        "\ufeff",
        "\x08",
        "\x7f",
        "/**/",
        "#",
        ";",
    ):
        for at, where in ((1, "after the brace"), (len(tokens), "at the end"), (0, "before the brace")):
            text = "".join(tokens[:at]) + blank + "".join(tokens[at:])
            yield refused(f"{blank!r} in the description, {where}", "8.5", file=metadata(unilora=text))
        yield refused(f"{blank!r} in the header", "8.2 8.5", file=with_text("{" + blank + HEADER.decode()[1:]))
        yield refused(f"{blank!r} after the header", "8.2 8.5", file=with_text(HEADER.decode() + blank))
    for inner in ('"al pha":1', '"alpha":1 0', '"alpha":- 1', '"alpha":1. 5', '"alpha":1e 2', '"alpha":t rue'):
        yield refused(
            f"a blank within {inner}",
            "8.5 8.6 7.7",
            file=metadata(unilora=json.dumps(TEXT).replace('"alpha": 1', inner)),
        )


def _tokens(text):
    """The tokens of a JSON text whose texts have no escapes but of `\\"` and `\\\\`."""
    at = 0
    while at < len(text):
        if text[at] == '"':
            end = at + 1
            while text[end] != '"':
                end += 2 if text[end] == "\\" else 1
            yield text[at : end + 1]
            at = end + 1
        elif text[at] in "{}[]:,":
            yield text[at]
            at += 1
        elif text[at] == " ":
            at += 1
        else:
            end = next(k for k in range(at, len(text)) if text[k] in ",]} ")
            yield text[at:end]
            at = end


PAIRS = {
    "\\ud800\\udc00": "\U00010000", "\\udbff\\udfff": "\U0010ffff", "\\uD83D\\uDE00": "😀", "\\ud83d\\uDe00": "😀", "\\ud7ff": "\ud7ff",
    "\\ue000": "\ue000", "\\uffff": "\uffff", "\\ud800\\udc00\\ud800\\udc00": "\U00010000\U00010000", "\\ud7ff\\ue000": "\ud7ff\ue000",
    "\\\\ud800": "\\ud800", "\\\\ud800\\\\udc00": "\\ud800\\udc00", "\\u0000": "\0", "\\u001f": "\x1f", "\\u0022\\u005C": '"\\',
    "\\/\\b\\f\\n\\r\\t\\\"\\\\": '/\b\f\n\r\t"\\', "\\u00e9\\u00C9": "éÉ", "/": "/", "\x7f": "\x7f",
    "\\u007F\\u0080\\u07ff\\u0800": "\x7f\x80\u07ff\u0800", "\\ufeff": "\ufeff", "\\u2028\\u2029": "\u2028\u2029",
}  # fmt: skip
"""Spellings, and the texts that they are."""
HALVES = (
    "\\ud800", "\\udbff", "\\udc00", "\\udfff", "\\ud800\\ud800", "\\ud800\\udbff", "\\udc00\\ud800", "\\udc00\\udc00", "\\ud800\\u0061", "\\ud800a",
    "\\ud800\\ue000", "\\ud800\\ud7ff", "\\ud800\\n", "\\ud800\\\\udc00", "\\ud800\\ud800\\udc00", "\\ud800\\udc00\\ud800", "\\ud800\\udc00\\udc00",
    "\\ud800 \\udc00", "\\uDBFF\\uDBFF", "\\ud83d\\u0000", "\\ud800\\u", "\\ud800\\udc0",
)  # fmt: skip
"""Half a pair, or what is no pair."""
NO_ESCAPES = (
    "\\a", "\\'", "\\0", "\\x41", "\\v", "\\e", "\\U00000041", "\\u{41}", "\\u004", "\\u00g1", "\\u 041", "\\u-041", "\\u+041", "\\u0x41", "\\ ",
    "\\\n", "\\N", "\\B", "\\u٠٠٤١", "\\uu0041", "\\ud800\\uDG00",
)  # fmt: skip


@limit("8.5", "half a surrogate pair, and other escapes", "read")
def escapes():
    """Two high halves are taken for a pair; a half becomes U+FFFD; digits are read by a function that takes more than digits."""
    for spelling, text in PAIRS.items():
        given = {name + text * (name == "saved.b"): tensor for name, tensor in TENSORS.items()}
        yield gives(
            f"{spelling!r} in the header", {"tensors": files.as_protocol(given)}, file=in_header(spelling.encode())
        )
        expected = files.describe(NAMED | {"base": NAMED["base"] | {"name": text}})
        yield gives(f"{spelling!r} in the description", {"description": expected}, file=in_description(spelling))
    for spelling in (*HALVES, *NO_ESCAPES):
        yield refused(f"{spelling!r} in the header", "8.2 8.5", file=in_header(spelling.encode()))
        yield refused(f"{spelling!r} in the description", "8.5", file=in_description(spelling))
    key = json.dumps(TEXT)[:-1] + ',"%s":1}'
    for spelling in ("\\ud800", "\\ud800\\ud800", "\\udc00\\ud800"):
        yield refused(f"{spelling!r} in a key", "8.5 8.6", file=metadata(unilora=key % spelling))


@limit("8.5", "characters below U+0020 in a text", "read")
def controls():
    """A tabulator, or any of them, that a parser takes as it is."""
    for code in range(0x20):
        yield refused(f"U+{code:04X} in the header", "8.2 8.5", file=in_header(bytes([code])))
        yield refused(f"U+{code:04X} in the description", "8.5", file=in_description(chr(code)))
        yield refused(
            f"U+{code:04X} in a key",
            "8.5",
            file=with_text(HEADER.replace(b'"shape":[1]', b'"sha' + bytes([code]) + b'pe":[1]')),
        )
    for text in (" ", "\x7f", "\x80", "\u2028", "\ufffd", "\uffff", "\U0010ffff"):
        expected = files.describe(NAMED | {"base": NAMED["base"] | {"name": text}})
        yield gives(f"{text!r}", {"description": expected}, file=in_description(text))


SEQUENCES = {
    b"\x7f": True, b"\xc2\x80": True, b"\xdf\xbf": True, b"\xe0\xa0\x80": True, b"\xed\x9f\xbf": True, b"\xee\x80\x80": True,
    b"\xef\xbf\xbf": True, b"\xf0\x90\x80\x80": True, b"\xf4\x8f\xbf\xbf": True, b"\xef\xbb\xbf": True,
    b"\x80": False, b"\xbf": False, b"\xc0\x80": False, b"\xc1\xbf": False, b"\xc2": False, b"\xc2\x41": False, b"\xc2\xc0": False, b"\xe0\x80\x80": False,
    b"\xe0\x9f\xbf": False, b"\xe1\x80": False, b"\xed\xa0\x80": False, b"\xed\xaf\xbf": False, b"\xed\xb0\x80": False, b"\xed\xbf\xbf": False,
    b"\xed\xa0\x80\xed\xb0\x80": False, b"\xf0\x80\x80\x80": False, b"\xf0\x8f\xbf\xbf": False, b"\xf0\x90\x80": False, b"\xf4\x90\x80\x80": False,
    b"\xf5\x80\x80\x80": False, b"\xf8\x88\x80\x80\x80": False, b"\xfc\x84\x80\x80\x80\x80": False, b"\xfe": False, b"\xff": False,
}  # fmt: skip
"""Whether the bytes are UTF-8: the first and the last of each length, what is longer than need be, surrogates, what is above U+10FFFF."""


@limit("8.5", "UTF-8", "read")
def utf8():
    """Sequences that are longer than need be, surrogates, numbers above U+10FFFF."""
    for data, sound in SEQUENCES.items():
        if sound:
            given = {name + data.decode() * (name == "saved.b"): tensor for name, tensor in TENSORS.items()}
            yield gives(f"{data.hex()}", {"tensors": files.as_protocol(given)}, file=in_header(data))
        else:
            yield refused(f"{data.hex()}", "8.2 8.5", file=in_header(data))
    for data in (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"):
        yield refused(f"{data.hex()} before all", "8.2 8.5", file=with_text(data + HEADER))
    yield refused("UTF-16", "8.2 8.5", file=with_text(HEADER.decode().encode("utf-16-le")))
