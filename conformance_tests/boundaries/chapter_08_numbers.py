"""SPEC 8.5: nesting and numbers, and what a writer writes."""

import json
import math

from .. import hostile
from ..hostile import TENSORS, TEXT, metadata, with_text
from ..oracle import files
from . import exact, gives, limit, refused
from .chapter_07 import W, described, run
from .chapter_08_json import HEADER, NAMED, in_description


@limit("8.5", "nesting of at most 16", "read")
def depths():
    """The outermost counted as 0; brackets within a text. What is less deep is refused by another rule than 8.5, or taken."""
    for depth in (2, 15, 16):
        nested = "[" * (depth - 1) + "]" * (depth - 1)
        yield refused(f"{depth} in the header", "8.2", file=with_text(HEADER.replace(b'"shape":[1]', b'"shape":' + nested[1:-1].encode())) if depth > 3
                      else with_text(HEADER.replace(b"[1]", b"[[1]]")))  # fmt: skip
        yield refused(
            f"{depth} in the description",
            "8.6 7.7",
            file=metadata(unilora=json.dumps(TEXT).replace('"alpha": 1', f'"alpha": {nested}')),
        )
    for depth in (17, 18, 32, 64, 128, 1000, 20_000):
        for opened, closed in (("[", "]"), ('{"a":', "}")):
            inner = opened * (depth - 1) + ("1" if closed == "}" else "") + closed * (depth - 1)
            yield refused(
                f"{depth} of {opened} in the header",
                "8.2 8.5",
                file=with_text(HEADER[:-1] + f',"saved.n":{inner}}}'.encode()),
            )
            text = json.dumps(TEXT).replace('"alpha": 1', f'"alpha": {inner}')
            yield refused(f"{depth} of {opened} in the description", "8.5 8.6 7.7", file=metadata(unilora=text))
    for text in ("[" * 100, '[{\\"' * 50, "}" * 40, '\\\\\\"[' * 30):
        expected = files.describe(NAMED | {"base": NAMED["base"] | {"name": json.loads(f'"{text}"')}})
        yield gives(f"{text[:12]!r} … in a text", {"description": expected}, file=in_description(text))


ALPHAS = {
    "1": 1, "1.0": 1, "1.5": 1.5, "1e0": 1, "1E2": 100, "1e+2": 100, "1E+02": 100, "0.5e1": 5, "50e-1": 5, "1e-4": 1e-4, "0.0001": 1e-4, "0.1": 0.1,
    "1000e-3": 1, "1048576": 2**20, "1048576.0": 2**20, "0.00000000000000000000001e23": 1, "0.000100e+0004": 1,
    "1." + "0" * 30: 1, "0." + "9" * 30: 1.0, "1.000000000000000111022302462516": 1.0000000000000002, "1.000000000000000111022302462515": 1,
    "1.00000000000000011102230246251": 1, "123456.78901234567": 123456.78901234567, "1.1000000000000000888178419700125": None, "0.10000000000000000555111512312578": None,
    "1.100000000000000088817841970012": 1.1, "12345678901234567e-14": 123.45678901234567, "1048575.9999999999417923390865325": None,
    "1048575.999999999941792339086532": 1048575.9999999999, "1." + "0" * 31: None, "1." + "0" * 300: None, "10000000000e-10": 1,
    "1." + "0" * 27 + "e+0": 1, "1." + "0" * 28 + "e+0": None, "0." + "0" * 29 + "e1": None, "1." + "0" * 28 + "e1": 10, "1." + "0" * 29 + "e1": None, "0.5": 0.5,
}  # fmt: skip
"""Spellings of alpha, and what they are; None: more than 32 characters."""
NO_NUMBERS = (
    "01", "00", "-01", "+1", ".5", "5.", "-.5", "1.e2", "1e", "1e+", "1e1.5", "1.5.2", "0x10", "0b1", "0o7", "1_0", "1,5", "١", "１", "²", "Infinity",
    "-Infinity", "+Infinity", "NaN", "nan", "inf", "-", "--1", "+-1", "1f", "1d", "1L", "1n", "1m", "0x1p3", "True", "TRUE", "False", "None", "nil", "nul",
    "undefined", "", "'1'", "1e1e1", "1-", "e1", "1 2", "1/2", "(1)", "1//", "\\u0031", "0e", "00.5", "0x", "1e٢", "#1", "$1", "1%", "tru", "truee", "[1,]",
    "[,1]", "[1 2]", "{}", "{1:1}", "{'a':1}", "{a:1}", '{"a":1,}', '{"a"1}', '{"a":}', "[", "]", '"', '"\\"',
)  # fmt: skip
"""What is no JSON, or as ``{}``, no number."""


@limit("8.5", "a number of at most 32 characters", "read")
def spelled_numbers():
    """A length that is not counted with its sign and exponent; a decimal that is rounded twice, or digit by digit."""
    for spelling, alpha in ALPHAS.items():
        text = json.dumps(TEXT).replace('"alpha": 1', f'"alpha": {spelling}')
        assert (alpha is None) == (len(spelling) > 32), spelling
        if alpha is None:
            yield refused(f"{len(spelling)} characters, {spelling[:40]}", "8.5", file=metadata(unilora=text))
        else:
            yield gives(spelling, {"description": files.describe(TEXT | {"alpha": alpha})}, file=metadata(unilora=text))
    for spelling in (
        "1e400",
        "-1e400",
        "1e99999999999999",
        "9007199254740992.0",
        "9007199254740993.5",
        "1e16",
        "-1e16",
        "1e308",
        "9e15",
        "1e-400",
    ):
        text = json.dumps(TEXT).replace('"alpha": 1', f'"alpha": {spelling}')
        yield refused(spelling, "8.5 7.7", file=metadata(unilora=text))
    for spelling in NO_NUMBERS:
        text = json.dumps(TEXT).replace('"alpha": 1', f'"alpha": {spelling}')
        yield refused(repr(spelling), "8.5 8.6 7.7", file=metadata(unilora=text))
        text = HEADER.replace(b'"shape":[1]', f'"shape":[{spelling}]'.encode())
        yield refused(
            f"{spelling!r} in a shape",
            "8.5 8.2",
            file=with_text(text) if spelling else with_text(HEADER.replace(b"[1]", b"[,]")),
        )


@limit("8.5 8.6", "whole numbers below 2^53, of at most 17 characters; -0 is 0", "read")
def whole_numbers():
    """Numbers that wrap at 32 or 64 bits, or are read as a float64; a sign that is counted, or a zero that keeps it."""
    zeros = (
        json.dumps(described([W | {"row": 0, "index": 0}, W | {"row": 2, "index": 0}]))
        .replace('"row": 0', '"row": -0')
        .replace('"index": 0', '"index": -0')
    )
    expected = files.describe(described([W | {"row": 0, "index": 0}, W | {"row": 2, "index": 0}]))
    yield gives("-0 for a row and an index", {"description": expected}, file=metadata(unilora=zeros))
    runs = described([run(0, 2, W | {"name": ".w"}, prefix="l.")])
    text = json.dumps(runs).replace("[0, 2]", "[-0, 2]")
    yield gives(
        "-0 for a first layer",
        {"description": files.describe(runs | {"layers": files.unfold(runs["layers"])})},
        file=metadata(unilora=text),
    )
    yield gives(
        "-0 for an offset", {"tensors": files.as_protocol(TENSORS)}, file=with_text(HEADER.replace(b"[0,8]", b"[-0,8]"))
    )
    rank = described([W | {"rank": 0}])
    yield gives(
        "-0 for a rank",
        {"description": files.describe(rank)},
        file=metadata(unilora=json.dumps(rank).replace('"rank": 0', '"rank": -0')),
    )
    empty = TENSORS | {"saved.e": ("F32", [0], [])}
    text = files.write(TEXT, empty)[8:-10].rstrip().replace(b'"shape":[0]', b'"shape":[-0]')
    yield gives("-0 for a shape", {"tensors": files.as_protocol(empty)}, file=with_text(text))
    for spelling in (
        "9007199254740991", "9007199254740992", "9007199254740993", "18446744073709551618", "18446744073709551621", "4294967298", "4294967301", "-9007199254740991",
        "-9007199254740992", "-90071992547409910", "90071992547409910", "99999999999999999", "100000000000000000", "000000000000000005", "00000000000000005",
        "-18446744073709551611", "340282366920938463463374607431768211461", "1" * 100, "5.0", "5e0", "5E0", "0.5e1", "50e-1", "-5", "05", "+5",
    ):  # fmt: skip
        text = json.dumps(TEXT).replace('"D": 5', f'"D": {spelling}')
        yield refused(f"D = {spelling}", "8.5 8.6 1.1 8.8", file=metadata(unilora=text))
        text = HEADER.replace(b'"shape":[2]', f'"shape":[{spelling}]'.encode())
        yield refused(f"theta of [{spelling}]", "8.5 8.2 8.3 8.8", file=with_text(text))
    for spelling in ("null", "true", "false", '"5"', "[5]", "{}", "[]"):
        for key, rules in (
            ('"D": 5', "8.5 8.6 1.1 8.8"),
            ('"d": 2', "8.5 8.6 1.1"),
            ('"rank": 1', "8.5 7.2 7.8"),
            ('"alpha": 1', "8.5 8.6 7.7"),
        ):
            text = json.dumps(TEXT).replace(key, key.split(":")[0] + f": {spelling}")
            yield refused(f"{spelling} for {key.split(':')[0]}", rules, file=metadata(unilora=text))


@exact("8.5", "the shortest decimal that gives the same float64 back, the closest of them", "write")
def shortest():
    """16 or 17 digits always; a point, an exponent or a zero too many; a float32."""
    values = [
        1,
        1.0,
        2**20,
        1e-4,
        0.5,
        0.1,
        0.2,
        0.3,
        0.1 + 0.2,
        1 / 3,
        2 / 3,
        1e5,
        1e5 + 0.1,
        123456.78901234567,
        1048575.9999999999,
        0.00010000000000000002,
    ]
    values += [math.nextafter(x, up) for x in (1, 2, 4, 1024, 0.5, 0.001, 0.0625, 65536, 2**19) for up in (0, 2**21)]
    values += (
        [2.0**-n for n in range(1, 14)]
        + [2.0**n + 2.0**-n for n in range(1, 16)]
        + [9.5367431640625e-1, 5e-4, 1.7976931348623157, 299792.458, 0.0009765625]
    )
    for name, alpha in {repr(alpha): alpha for alpha in values}.items():
        text = TEXT | {"alpha": alpha}
        yield gives(name, {"file": files.write(text, TENSORS)}, description=text, tensors=files.as_protocol(TENSORS))


@exact("8.5", "texts that are escaped in one way, keys by their UTF-16 code units", "write")
def canonical_texts():
    """Escapes in capitals, of more than need be, or none; keys by code points or bytes."""
    for code in (
        *range(0x20),
        0x22,
        0x2F,
        0x5C,
        0x7F,
        0x80,
        0xA0,
        0x2028,
        0xD7FF,
        0xE000,
        0xFEFF,
        0xFFFF,
        0x10000,
        0x10FFFF,
    ):
        text, given = (
            TEXT | {"base": hostile.BASE | {"name": chr(code), "labels": ["a" + chr(code)]}},
            TENSORS | {"saved." + chr(code): ("F32", [1], [1.0])},
        )
        yield gives(
            f"U+{code:04X}", {"file": files.write(text, given)}, description=text, tensors=files.as_protocol(given)
        )
    names = ["\U00010000", "\U0010ffff", "\ue000", "\uffff", "\ud7ff", "a", "A", "é", "~", "\x7f", "\x80", "aa", "a\0"]
    given = TENSORS | {"saved." + name: ("F32", [1], [float(at)]) for at, name in enumerate(names)}
    yield gives("keys", {"file": files.write(TEXT, given)}, description=TEXT, tensors=files.as_protocol(given))
