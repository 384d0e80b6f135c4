"""JSON that parsers read differently (SPEC 8.5). The rule is about any JSON, so that the place where it is broken may break another too."""

import json

from .case import refused, replaced
from .tiny import TEXT, TINY, metadata, with_text


def cases():
    text = TINY[8:-10].rstrip()
    in_header = {
        "not UTF-8": replaced(b"saved.b", b"saved.\xff"),
        "an overlong UTF-8": replaced(b"saved.b", b"saved.\xc0\x80"),
        "a surrogate in UTF-8": replaced(b"saved.b", b"saved.\xed\xa0\x80"),
        "a byte order mark": with_text(b"{\xef\xbb\xbf" + text[1:]),
        "half a surrogate pair": replaced(b"saved.b", b"saved.\\ud800"),
        "the other half alone": replaced(b"saved.b", b"saved.\\udc00"),
        "two halves in the wrong order": replaced(b"saved.b", b"saved.\\udc00\\ud800"),
        "a control character": replaced(b"saved.b", b"saved.\n"),
        "a NUL": replaced(b"saved.b", b"saved.\0"),
        "an unknown escape": replaced(b"saved.b", b"saved.\\x62"),
        "a short escape": replaced(b"saved.b", b"saved.\\u62"),
        "a trailing comma": with_text(text[:-1] + b",}"),
        "a comment": with_text(text[:-1] + b"/**/}"),
        "single quotes": replaced(b'"saved.b"', b"'saved.b'"),
        "two values": with_text(text + b"{}"),
        "text after the value": with_text(text + b"\0"),
        "nothing after the brace": with_text("{"),
        "an open text": with_text(text[:-30]),
        "another blank": with_text(text + b"\x0c"),
    }  # fmt: skip
    for name, file in in_header.items():
        yield refused("json", "8.2 8.5", name, file)  # 8.2 says that the header is JSON as in 8.5
    number = "8.2 8.3 8.5 8.8"
    for name, spelling in {
        "null": b"null", "NaN": b"[NaN]", "Infinity": b"[Infinity]", "-Infinity": b"[-Infinity]", "a leading zero": b"[02]",
        "a plus": b"[+2]", "a hexadecimal number": b"[0x2]", "no digit after the point": b"[2.]",
        "no digit before the point": b"[.2]", "an exponent without digits": b"[2e]", "2^53": b"[9007199254740992]",
        "-2^53": b"[-9007199254740992]", "2^64 + 2": b"[18446744073709551618]", "a number of 18 digits": b"[000000000000000002]",
        "a number of many digits": b"[" + b"9" * 10**5 + b"]", "1e400": b"[1e400]", "a long fraction": b"[2." + b"0" * 40 + b"]",
        "True": b"[True]",
    }.items():  # fmt: skip
        yield refused("json", number, f"{name} in a shape", replaced(b'"shape":[2]', b'"shape":' + spelling))
    for name, more in {
        "a key twice": b'"theta":{}', "a key twice, the other one escaped": b'"\\u0074heta":{}',
        "a key twice in a tensor": None,
    }.items():  # fmt: skip
        file = (
            with_text(text[:-1] + b"," + more + b"}")
            if more
            else replaced(b'"dtype":"F32"', b'"dtype":"F32","dtype":"F32"')
        )
        yield refused("json", "8.2 8.5", name, file)
    for name, opened, closed, count in (
        ("a depth of 17", b"[", b"]", 16), ("100,000 open lists", b"[", b"]", 10**5), ("20,000 open objects", b'{"a":', b"", 2 * 10**4),
    ):  # fmt: skip
        yield refused("json", "8.2 8.4 8.5", name, with_text(b'{"a":' + opened * count + closed * count + b"}"))
        rules = "8.5 8.6"
        yield refused(
            "json", rules, f"{name} in the description", metadata(unilora=(opened * count + closed * count).decode())
        )
    yield refused("json", "8.5 8.6", "a description that is no JSON", metadata(unilora="import os"))
    yield refused("json", "8.5 8.6", "an empty description", metadata(unilora=""))
    yield refused("json", "8.5", "a description with a byte order mark", metadata(unilora="\ufeff" + json.dumps(TEXT)))
    twice = json.dumps(TEXT)[:-1] + ',"alpha":1}'
    yield refused("json", "8.5", "a key twice in the description", metadata(unilora=twice))
    yield refused(
        "json", "8.5 8.6", "null for a field of the description", metadata(unilora=json.dumps(TEXT | {"base": None}))
    )
    yield refused(
        "json",
        "8.5",
        "half a surrogate pair in the description",
        metadata(unilora=json.dumps(TEXT).replace('"w"', '"\\ud800"')),
    )
