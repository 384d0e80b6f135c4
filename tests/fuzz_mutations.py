"""Mutations of files, for the fuzzer of the reader and for attacks: in their bytes, their header's text, or a value of it."""

import json
import re
import struct

from test_file_sound import every_value

from unilora_spec.container import MAX_HEADER


def packed(header, body=b"") -> bytes:
    """A file of a header, which may be JSON text or a value, and data. Its length is right."""
    if not isinstance(header, bytes):
        header = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return len(header).to_bytes(8, "little") + header + body


def unpacked(data: bytes) -> tuple[bytes, bytes]:
    """Header and data; of a file whose length is wrong, all as the header."""
    length = int.from_bytes(data[:8], "little")
    return (data[8 : 8 + length], data[8 + length :]) if length <= len(data) else (data[8:], b"")


def mutated(rng, data: bytes, others) -> bytes:
    """``data`` with one change, in its bytes, its header's text, its description's text or a value of either."""
    where = rng.choices(("file", "header", "description", "value", "tensor"), (1, 3, 4, 7, 5))[0]
    if where == "file":
        return changed(rng, data, rng.choice(others))
    header, body = unpacked(data)
    if where == "header":
        return _length_repaired(rng, changed(rng, header, unpacked(rng.choice(others))[0]), body)
    try:
        value = json.loads(header)
        metadata = value["__metadata__"]
        if where == "description":
            text = metadata["unilora"].encode("utf-8", "surrogatepass")
            other = json.loads(unpacked(others[0])[0])["__metadata__"]["unilora"].encode()
            metadata["unilora"] = changed(rng, text, other).decode("utf-8", "replace")
        elif where == "value":
            description = json.loads(metadata["unilora"])
            change_value(rng, description)
            metadata["unilora"] = json.dumps(description, ensure_ascii=rng.random() < 0.5)
        else:
            change_value(rng, value)
            if rng.random() < 0.7:
                body = _laid_out(rng, value, body)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        return _length_repaired(rng, changed(rng, header, TOKENS[0]), body)  # no adapter any more: its text, then
    return packed(value, body)


def _length_repaired(rng, header, body):
    data = packed(header, body)
    if rng.random() > 0.03:
        return data
    wrong = rng.choice((0, 1, len(header) + 1, len(header) + 10, len(header) // 2, 2**18 + 1, 2**63))
    return wrong.to_bytes(8, "little") + data[8:]


TOKENS = (
    r"""
    { } [ ] : , " null true false NaN -Infinity [] {} "" [[]] "a":0, "a":{}, {"name":"w","out":1,"in":1,"rank":1} /**/ ' \ \u
    0 -0 -1 1 2 0.5 -0.0 1e0 1E400 1e-400 255 65535 65536 65537 007 1048576 1048577 0.0001 0.00009999 2147483647 2147483648
    1099511627775 1099511627776 9007199254740991 9007199254740992 -9007199254740992 18446744073709551616 11111111111111111
    [0,2] [0,65536] [1099511627774,1099511627776] [0,0] [2,1] "18446744073709551615" "0" "0.0" 9999999999999999999999999999999999
    "theta" "saved.b" "saved." "__metadata__" "unilora" "format" "version" "1" "2" "F32" "F16" "BF16" "F64" "BOOL" "dtype"
    "shape" "data_offsets" "projection" "balanced" "uniform" "identity" "kind" "seed" "d" "D" "alpha" "layers" "lora" "rslora"
    "scaling" "base" "prefix" "segments" "name" "in" "out" "rank" "row" "index" "transposed" "labels" "architecture"
    "structure" "contents" "w" "\ud800" "\ud83d\ude00" "\u0000" "\"" "\\" "é" "😀"
""".encode().split()
    + [b" ", b"\n", b"\0", "\ufeff".encode(), "\u2028".encode()]
)
TOKEN = re.compile(rb'"[^"]*"|-?[0-9][0-9.eE+-]*|[a-zA-Z]+|[][{}:,]')
NUMBER = re.compile(rb"[0-9]+")


def changed(rng, text: bytes, other: bytes) -> bytes:
    """``text`` with one change of its bytes; ``other`` is what it may be spliced with."""
    at = rng.randrange(len(text) + 1)
    span = 1 + int(rng.expovariate(0.1))
    head, tail = text[:at], text[at:]
    match rng.randrange(11):
        case 0 if tail:
            return head + bytes([tail[0] ^ 1 << rng.randrange(8)]) + tail[1:]
        case 1:
            return head + rng.randbytes(min(span, 8)) + tail[1:]
        case 2:
            return head + tail[span:]
        case 3:
            return head + tail[:span] + tail
        case 4:  # at times up to the limit of a header, mostly a few times
            most = (MAX_HEADER - len(text)) // span if rng.random() < 0.01 else 40
            return head + tail[:span] * rng.randint(2, max(2, most)) + tail
        case 5:
            return head + rng.choice(TOKENS) + tail
        case 6:
            cut = rng.randrange(len(other) + 1)
            return head + other[cut:]
        case 7:
            return head
        case 8 if found := NUMBER.search(text, at):
            digits = bytearray(found.group())
            digits[rng.randrange(len(digits))] = rng.choice(b"0123456789")
            return text[: found.start()] + digits + text[found.end() :]
        case _ if found := TOKEN.search(text, at):
            again = TOKEN.search(text, rng.randrange(len(text)))
            token = again.group() if again and rng.random() < 0.3 else rng.choice(TOKENS)
            return text[: found.start()] + token + text[found.end() :]
    return text


VALUES = (
    None, True, False, -1, 0, 1, 2, 3, 8, 255, 256, 65_535, 65_536, 2**20, 2**31 - 1, 2**31, 2**40 - 1, 2**40, 2**53 - 1,
    2**53, 10**30, 0.5, -0.0, 1e-4, 2.0**20, 1e300, "", "x", "w", "0", "42", "0" * 32, "F16", "BF16", "F32", "uniform",
    "identity", "rslora", "😀", "\ud800", "é" * 256, "x" * 513, "\x00\x1b", "1.2.3", "layer.", [], {}, [0, 2], [2, 4],
    [0, 65_536], [0, 300], [2**40 - 2, 2**40], [1, 2, 3], ["a"], [[]], [{}], [None],
)  # fmt: skip
WORDS = (
    "name",
    "in",
    "out",
    "rank",
    "row",
    "index",
    "transposed",
    "layers",
    "prefix",
    "segments",
    "labels",
    "more",
    "",
)


def change_value(rng, root) -> None:
    """Changes one value inside of ``root``, a value of JSON, in place."""
    places = list(every_value(root))
    place, key = rng.choice(places)
    value = place[key]
    match rng.randrange(8):
        case 0:
            del place[key]
        case 1:
            other, its_key = rng.choice(places)
            place[key] = json.loads(json.dumps(other[its_key]))
        case 2 if isinstance(value, list):
            value.insert(rng.randrange(len(value) + 1), rng.choice(value or VALUES))
        case 2 | 3 if isinstance(value, dict):
            value[rng.choice(WORDS)] = rng.choice(VALUES)
        case 4 if isinstance(place, dict) and len(place) > 1:
            place[rng.choice(list(place))] = place.pop(key)
        case 5 if type(value) in (int, float):
            place[key] = rng.choice((value + 1, value - 1, value * 2, -value, value / 2, rng.getrandbits(40)))
        case 5 if isinstance(value, str):
            place[key] = rng.choice(
                (value + "x", value[:-1], value[::-1], value + ".0.1", "saved." + value, value * 20)
            )
        case _:
            place[key] = json.loads(json.dumps(rng.choice(VALUES)))


def _laid_out(rng, header, body) -> bytes:
    """Offsets that fit the shapes and dtypes of the header's tensors, and data of that length: so that what a change
    of a shape or a dtype means beyond the container is looked at as well."""
    end = 0
    for name, entry in header.items():
        if name != "__metadata__":
            count = struct.calcsize({"F32": "f", "F64": "d"}.get(entry["dtype"], "H"))
            for number in entry["shape"]:
                if type(number) is not int or not 0 <= number < 2**16 or count >= 2**16:
                    raise ValueError("too long to be made")
                count *= number
            entry["data_offsets"] = [end, end + count]
            end += count
    filler = rng.choice((b"\0\0\x80?", b"\0<", b"\x01\x80", b"\xff\x7f\x7f\x7f", rng.randbytes(16)))
    return (body + filler * (end // len(filler) + 1))[:end]
