"""Files that must be refused, each with the rules that refuse it, and files at the limits that must be read.

All are the tiny adapter of SPEC 8 with one thing changed. A flag groups the cases by the mistake that accepts them;
``FLAGS`` says what the mistake costs.
"""

import copy
import json
import math
import struct
from dataclasses import dataclass

from .oracle import files

FLAGS = {
    "container": "The safetensors container is taken without a check of its lengths: bytes outside of the file are read.",
    "offsets": "Offsets of tensors are trusted: tensors that overlap, or lie outside of the file, are read.",
    "shape": "A shape is trusted: memory is allocated for numbers that the file does not hold, or products overflow.",
    "tensors": "Tensors of other names, dtypes or shapes are taken for an adapter's.",
    "values": "NaN or infinity reaches a model, and every output of it becomes NaN.",
    "version": "A file that was written for another reader is misread in place of being refused.",
    "json": "JSON that parsers read differently is accepted: two readers see two adapters in one file.",
    "description": "A description with missing, unknown or mistyped fields is accepted: what its writer meant is lost.",
    "limits": "Numbers beyond the limits are accepted, and wrap, round or exhaust the memory later.",
    "layer map": "A layer map that contradicts itself is accepted: two segments change one weight.",
    "table": "The index of kind `table` is taken as it is: entries outside of theta are read. (The kind is optional; without"
    " it all of these are refused as well.)",
    "parts": "Parts that contradict each other are accepted: theta is spread over other entries than it was trained for.",
}

TEXT = {
    "projection": {"kind": "balanced", "seed": "42", "d": 2, "D": 5},
    "alpha": 1,
    "layers": [{"name": "w", "out": 2, "in": 3, "rank": 1}],
}
TENSORS = {"theta": ("F32", [2], [1.0, -0.5]), "saved.b": ("BF16", [1], [0.25])}
TINY = files.write(TEXT, TENSORS)
TABLE = TEXT | {"projection": TEXT["projection"] | {"kind": "table"}}
TABLE_TENSORS = TENSORS | {"index": ("I32", [5], [0, 1, 1, 0, 1])}
BODY = TINY[-10:]
HUGE = 2**53 - 1
BASE = {"name": "b", "structure": "0" * 32, "contents": "9f" * 16}


FOLDINGS = {
    "two runs after each other": ["a.0.x", "a.1.x", "b.0", "b.1"],
    "a run that a gap ends": ["a.0.x", "a.1.x", "a.3.x", "a.4.x"],
    "a run of the first number where the second one repeats as well": ["a.0.0", "a.0.1", "a.1.0", "a.1.1"],
    "a run of the second number": ["a.0.0", "a.0.1", "a.0.2", "a.1.0"],
    "numbers that descend": ["a.2", "a.1", "a.0"],
    "a head that is the whole name": ["0", "1", "2"],
    "9 and 10": ["l.9.x", "l.10.x", "l.11.x"],
    "a number with a zero before it is text": ["l.01.x", "l.02.x"],
    "and begins no run": ["l.01.x", "l.2.x", "l.3.x"],
    "nine digits are a number": ["l.999999998", "l.999999999"],
    "a run may go on to ten digits": ["l.999999999", "l.1000000000"],
    "ten digits are text": ["l.1000000000", "l.1000000001"],
    "digits of other scripts are text": ["l.٠", "l.١"],
    "a head that another name begins with": ["l.1.x", "l.10.x", "l.2.x"],
    "blocks of two": ["l.0.a", "l.0.b", "l.1.a", "l.1.b", "l.2.a"],
    "blocks in another order": ["l.0.a", "l.0.b", "l.1.b", "l.1.a"],
    "a dot at the end": ["l.0.", "l.1."],
    "empty parts": ["..0..", "..1.."],
    "only eight numbers count": ["a.1.2.3.4.5.6.7.8.0", "a.1.2.3.4.5.6.7.8.1"],
    "the eighth number counts": ["a.1.2.3.4.5.6.7.0", "a.1.2.3.4.5.6.7.1"],
    "a number twice in the name": ["l.0.0.x", "l.1.0.x", "l.1.1.x"],
}
"""Names of segments in order, where a run of layers begins, ends, or is none (SPEC 7.9)."""


def text_of(segments, wrong=0) -> dict:
    """The description of the tiny file with these segments instead; ``wrong`` is added to its D."""
    D = sum(map(files.size, segments)) + wrong
    return TEXT | {"layers": segments, "projection": TEXT["projection"] | {"D": D}}


@dataclass(frozen=True)
class Case:
    """One file. Any of ``rules`` may refuse it; without rules it is sound. ``description`` is the one that a writer refuses as well."""

    name: str
    flag: str
    rules: frozenset[str]
    file: bytes
    description: dict | None = None


def tiny_header() -> dict:
    """The header of the tiny file."""
    return json.loads(TINY[8:-10])


def with_text(text, body=BODY) -> bytes:
    """A file with this header, text or bytes."""
    text = text if isinstance(text, bytes) else text.encode("utf-8")
    return struct.pack("<Q", len(text)) + text + body


def header(change, body=BODY) -> bytes:
    """The tiny file with its header changed by ``change(header)``."""
    value = tiny_header()
    change(value)
    return with_text(json.dumps(value), body)


def tensor(name="theta", body=BODY, **changes) -> bytes:
    """The tiny file with fields of one tensor's entry changed."""
    return header(lambda value: value[name].update(changes), body)


def metadata(**changes) -> bytes:
    """The tiny file with fields of its metadata changed, or taken out where None."""

    def change(value):
        value["__metadata__"] |= changes
        value["__metadata__"] = {key: item for key, item in value["__metadata__"].items() if item is not None}

    return header(change)


def size(entry) -> int:
    """The entries of θ_D that an entry of the compact form takes."""
    if "layers" in entry:
        return (entry["layers"][1] - entry["layers"][0]) * sum(map(size, entry["segments"]))
    first, end = entry["index"] if isinstance(entry.get("index"), list) else (0, 1)
    return (end - first) * files.size(entry)


def _cases():
    def refused(flag, rules, name, file):
        return Case(name, flag, frozenset(rules.split()), file)

    def described(flag, rules, name, change):
        description = copy.deepcopy(TEXT)
        description = change(description) or description
        file = metadata(unilora=json.dumps(description, ensure_ascii=False))
        return Case(name, flag, frozenset(rules.split()), file, description)

    def field(path, value):
        def change(description):
            *outer, last = path.split(".")
            for key in outer:
                description = description[int(key) if key.isdigit() else key]
            description.pop(last, None) if value is None else description.update({last: value})

        return change

    def replaced(old, new):
        assert TINY[8:-10].count(old) == 1
        return with_text(TINY[8:-10].replace(old, new))

    # Container (8.2)
    yield refused("container", "8.2", "an empty file", b"")
    yield refused("container", "8.2", "seven bytes", TINY[:7])
    yield refused("container", "8.2 8.5", "no header", struct.pack("<Q", 0))
    yield refused("container", "8.2", "a header longer than the file", struct.pack("<Q", len(TINY) - 7) + TINY[8:])
    yield refused("container", "8.2", "a header length of 2^63", struct.pack("<Q", 2**63) + TINY[8:])
    yield refused("container", "8.2", "a header length of 2^64 - 1", b"\xff" * 8 + TINY[8:])
    yield refused("container", "8.2", "a header length of 2^64 - 8", struct.pack("<Q", 2**64 - 8) + TINY[8:])
    yield refused("container", "8.2", "a header length in big-endian", struct.pack(">Q", len(TINY) - 18) + TINY[8:])
    yield refused("container", "8.2", "a header above 256 KiB", with_text(TINY[8:-10].ljust(2**18 + 1)))
    yield refused("container", "8.2", "a blank before the brace", with_text(b" " + TINY[8:-10]))
    yield refused("container", "8.2 8.4", "a list for a header", with_text("[]"))
    yield refused("container", "8.2", "trailing bytes", TINY + b"\0")
    yield refused("container", "8.2", "a missing byte", TINY[:-1])
    yield refused("container", "8.2", "no data", TINY[:-10])
    yield refused("container", "8.2 8.4", "metadata of list", header(lambda h: h.update(__metadata__=[])))
    yield refused("container", "8.2 8.4", "metadata with a number", metadata(version=1))

    # Offsets and shapes (8.2)
    b = "saved.b"
    yield refused("offsets", "8.2", "a gap", tensor(b, BODY + b"\0", data_offsets=[9, 11]))
    yield refused("offsets", "8.2", "an overlap", tensor(b, BODY[:-2], data_offsets=[6, 8]))
    yield refused("offsets", "8.2", "an overlap of the whole", tensor(b, BODY[:-2], data_offsets=[0, 2]))
    yield refused(
        "offsets", "8.2", "a gap before all", header(lambda h: (h.pop(b), h["theta"].update(data_offsets=[2, 10])))
    )
    yield refused("offsets", "8.2", "a tensor without an entry", header(lambda h: h.pop(b)))
    yield refused("offsets", "8.2", "end before begin", tensor(b, data_offsets=[10, 8]))
    yield refused("offsets", "8.2", "negative offsets", tensor(data_offsets=[-8, 0]))
    yield refused("offsets", "8.2", "one offset", tensor(data_offsets=[8]))
    yield refused("offsets", "8.2", "three offsets", tensor(data_offsets=[0, 8, 8]))
    yield refused("offsets", "8.2", "offsets with a point", tensor(data_offsets=[0.0, 8.0]))
    yield refused("offsets", "8.2", "offsets with an exponent", replaced(b"[0,8]", b"[0,8e0]"))
    yield refused("offsets", "8.2", "offsets of truth", tensor(data_offsets=[False, 8]))
    yield refused("offsets", "8.2", "offsets of text", tensor(data_offsets=["0", "8"]))
    yield refused("offsets", "8.2", "huge offsets", tensor(data_offsets=[0, HUGE]))
    yield refused("offsets", "8.2", "offsets beyond the file", tensor(data_offsets=[10, 18]))
    shape = "8.2 8.3 8.8"
    yield refused("shape", shape, "a huge shape", tensor(shape=[HUGE] * 64))
    yield refused("shape", shape, "a shape whose product is 2 modulo 2^64", tensor(shape=[2**33 + 2, 2**31]))
    yield refused("shape", shape, "a shape of 65 numbers", tensor(shape=[2] + [1] * 64))
    yield refused("shape", shape, "a longer shape", tensor(shape=[3]))
    yield refused("shape", shape, "a shorter shape", tensor(shape=[1]))
    yield refused("shape", shape, "a negative shape", tensor(shape=[-2]))
    yield refused("shape", shape, "two negative numbers", tensor(shape=[-2, -1]))
    yield refused("shape", shape, "a shape with a point", tensor(shape=[2.0]))
    yield refused("shape", shape, "a shape of text", tensor(shape="2"))
    yield refused("shape", shape, "a shape of truth", tensor(b, shape=[True]))
    for name, numbers in (("2^62", [2**31, 2**31, 0]), ("2^106", [HUGE, HUGE, 0]), ("2^63", [0] + [2] * 63)):
        empty = {"dtype": "F32", "shape": numbers, "data_offsets": [10, 10]}
        yield refused(
            "shape", "8.2", f"a shape of {name} behind a zero", header(lambda h, e=empty: h.update({"saved.e": e}))
        )

    # Tensors and values (8.2, 8.3)
    yield refused("tensors", "8.2 8.3", "an unknown dtype", tensor(dtype="F128"))
    yield refused("tensors", "8.2 8.3", "a dtype in small letters", tensor(dtype="f32"))
    yield refused("tensors", "8.2 8.3", "a dtype of list", tensor(dtype=["F32"]))
    yield refused("tensors", "8.2 8.3", "a dtype of whole numbers", tensor(b, dtype="I16"))
    yield refused("tensors", "8.2 8.3", "a dtype of 8 bytes", tensor(dtype="F64", shape=[1]))
    yield refused("tensors", "8.2", "an unknown field of a tensor", tensor(more=1))
    yield refused("tensors", "8.2", "a tensor without a shape", header(lambda h: h["theta"].pop("shape")))
    yield refused("tensors", "8.2", "a tensor of text", header(lambda h: h.update(theta="F32")))
    yield refused("tensors", "8.3 8.8", "no theta", header(lambda h: h.update({"saved.t": h.pop("theta")})))
    yield refused("tensors", "8.3 8.8", "theta of two dimensions", tensor(shape=[2, 1]))
    yield refused(
        "tensors",
        "8.3 8.8",
        "theta of no dimension",
        tensor("theta", BODY[:4] + BODY[-2:], shape=[], data_offsets=[0, 4]).replace(b"[8, 10]", b"[4, 6] "),
    )
    yield refused("tensors", "8.3 8.8", "theta of another length", tensor(shape=[4], dtype="F16"))
    yield refused("tensors", "8.3", "another tensor", header(lambda h: h.update(more=h.pop(b))))
    yield refused("tensors", "8.3", "a tensor named in capitals", header(lambda h: h.update({"Saved.b": h.pop(b)})))
    yield refused("tensors", "8.3", "a saved tensor without a name", header(lambda h: h.update({"saved.": h.pop(b)})))
    for name, bits in (
        ("NaN", 0x7FC00000),
        ("a signalling NaN", 0x7F800001),
        ("infinity", 0x7F800000),
        ("-infinity", 0xFF800000),
    ):
        yield refused("values", "8.3", f"{name} in theta", TINY[:-6] + struct.pack("<I", bits) + TINY[-2:])
    yield refused("values", "8.3", "NaN in a saved BF16", TINY[:-2] + b"\x81\x7f")
    yield refused("values", "8.3", "infinity in a saved BF16", TINY[:-2] + b"\x80\xff")
    yield refused("values", "8.3", "NaN in F16", tensor(b, BODY[:-2] + b"\x01\x7c", dtype="F16"))
    yield refused("values", "8.3", "infinity in F16", tensor(b, BODY[:-2] + b"\x00\xfc", dtype="F16"))

    # Format and version (8.4)
    yield refused(
        "version",
        "8.4",
        "a file of other tensors",
        with_text('{"theta":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', BODY[:8]),
    )
    yield refused("version", "8.4", "another format", metadata(format="pt"))
    yield refused("version", "8.4", "no format", metadata(format=None))
    yield refused("version", "8.4", "no description", metadata(unilora=None))
    yield refused("version", "8.4", "another field of the metadata", metadata(more=""))
    for version in ("2", "1.0", "01", "", None):
        yield refused("version", "8.4", f"version {version!r}", metadata(version=version))

    def newer(value):
        value["__metadata__"]["version"] = "2"
        value["theta"] = {"dtype": "F4", "shape": [2], "data_offsets": [0, 1], "more": 1}

    yield refused("version", "8.4", "version 2 with tensors of its own", header(newer))
    yield refused("version", "8.4", "version 2 with metadata of its own", metadata(version="2", more=[1]))
    yield refused("version", "8.4", "version 2 with a description of its own", metadata(version="2", unilora="?"))

    # JSON (8.5): the rule is about any JSON, so that the place where it is broken may break another as well.
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

    # Description (8.6)
    yield refused("description", "8.6", "a list for a description", metadata(unilora=json.dumps([TEXT])))
    for path, value in (
        ("more", 1), ("projection.more", 1), ("base", BASE | {"more": 1}), ("alpha", None), ("layers", None),
        ("projection.kind", None), ("projection.seed", None), ("projection.d", None), ("projection.D", None),
        ("projection", None), ("base", {"name": "b", "structure": "0" * 32}), ("base", {}), ("base", "b"),
        ("alpha", True), ("alpha", "1"), ("projection.seed", 42), ("projection.seed", "042"), ("projection.seed", "-1"),
        ("projection.seed", "+1"), ("projection.seed", " 1"), ("projection.seed", ""), ("projection.seed", "٤٢"),
        ("projection.seed", "0x2a"), ("projection.seed", "4_2"), ("projection.kind", 1), ("projection.d", "2"),
        ("projection.d", True), ("layers", {}), ("scaling", True), ("base", BASE | {"structure": "0" * 31}),
        ("base", BASE | {"structure": "0" * 33}), ("base", BASE | {"contents": "A" * 32}), ("base", BASE | {"name": 1}),
        ("base", BASE | {"labels": [1]}), ("base", BASE | {"labels": "x"}), ("base", BASE | {"architecture": 1}),
        ("base", BASE | {"problem_type": 1}), ("base", BASE | {"problem_type": "ranking"}), ("base", BASE | {"problem_type": ""}),
        ("base", BASE | {"rest": ["0" * 16]}), ("base", BASE | {"rest": "0" * 15}), ("base", BASE | {"rest": "A" * 16}),
    ):  # fmt: skip
        several = {"layers": "7.8 8.6", "projection.seed": "1.2 8.6", "alpha": "7.7 8.6", "scaling": "7.7 8.6"}
        rules = (several | {"projection.kind": "8.6 9.1"}).get(path, "8.6")
        shown = "no " + path if value is None else f"{path} = {json.dumps(value, ensure_ascii=False)}"
        yield described("description", rules, shown, field(path, value))
    yield described("description", "1.2 8.6", "seed 2^64", field("projection.seed", str(2**64)))
    yield described("description", "1.2 8.6", "a seed of 21 digits", field("projection.seed", "1" * 21))
    for path in ("projection.d", "projection.D"):
        value = float(TEXT["projection"][path[-1]])
        yield refused(
            "description",
            "8.6",
            f"{path} with a point",
            metadata(unilora=json.dumps(TEXT | {"projection": TEXT["projection"] | {path[-1]: value}})),
        )

    # Limits and parts (1, 7.7, 8.8, 9)
    yield described("limits", "1.1 8.3 8.8", "d = 0", field("projection.d", 0))
    yield described("limits", "1.1 8.3 8.8", "d = -1", field("projection.d", -1))
    yield described("limits", "1.1 8.3 8.8", "d above D", field("projection.d", 6))
    yield described("limits", "1.1 8.8", "D = 0", field("projection.D", 0))
    yield described("limits", "1.1 8.8", "D above 2^40", field("projection.D", 2**40 + 1))
    yield described("limits", "9.1", "an unknown kind", field("projection.kind", "lora-fa"))
    yield described(
        "limits", "9.1", "an unknown kind with fields of its own", field("projection", {"kind": "lora-fa", "rank": 4})
    )
    yield described("limits", "9.2", "identity with d below D", field("projection.kind", "identity"))
    for alpha in (0, -1, 9.9e-5, 2**20 + 1, 1e15):
        yield described("limits", "7.7", f"alpha = {alpha}", field("alpha", alpha))
    yield described("limits", "7.7 8.6", "an unknown scaling", field("scaling", "dora"))
    yield described("parts", "8.8", "D above the layer map's", field("projection.D", 6))
    yield described("parts", "8.8", "D below the layer map's", field("projection.D", 4))
    yield described("parts", "8.3 8.8", "d below theta's length", field("projection.d", 1))
    yield described("parts", "8.8", "a parameter both adapted and saved", field("layers.0.name", "b"))

    # The kind with a tensor of its own (9.4)
    def tabled(rules, name, *index, text=TABLE):
        tensors = TENSORS | ({"index": index} if index else {})
        return refused("table", rules, name, files.write(text, tensors))

    yield tabled("8.3 9.4", "a table without an index")
    yield tabled("8.3", "an index without a table", *TABLE_TENSORS["index"], text=TEXT)
    yield tabled("8.3 9.4", "an index of F32", "F32", [5], [0.0, 1.0, 1.0, 0.0, 1.0])
    yield tabled("8.3 9.4", "an index of F16", "F16", [5], [0.0, 1.0, 1.0, 0.0, 1.0])
    index = files.write(TABLE, TABLE_TENSORS)
    for dtype in ("U32", "I64", "I16"):
        yield refused("table", "8.2 8.3 9.4", f"an index of {dtype}", index.replace(b'"I32"', f'"{dtype}"'.encode()))
    for shape in ([4], [6], [5, 1], [1, 5], [], [0]):
        count = math.prod(shape)
        yield tabled("8.3 8.8 9.4", f"an index of shape {shape}", "I32", shape, [0] * count)
    for at, value in ((0, -1), (0, 2), (4, 2), (4, -(2**31)), (2, 2**31 - 1)):
        columns = [0, 1, 1, 0, 1]
        columns[at] = value
        yield tabled("9.4", f"{value} for the column of row {at}", "I32", [5], columns)
    yield tabled(
        "8.8",
        "a table of a D above the layer map's",
        "I32",
        [6],
        [0] * 6,
        text=TABLE | {"projection": TABLE["projection"] | {"D": 6}},
    )
    yield tabled(
        "8.6",
        "the columns as a field",
        "I32",
        [5],
        [0] * 5,
        text=TABLE | {"projection": TABLE["projection"] | {"index": [0] * 5}},
    )
    yield refused("table", "8.3", "theta as I32", index.replace(b'"F32"', b'"I32"'))

    largest = TEXT["projection"] | {"d": 2**31 - 1, "D": 2**40}
    wide = [TEXT["layers"][0] | {"in": 2**39, "out": 2**39}]
    yield refused(
        "parts",
        "8.3 8.8",
        "the largest d",
        metadata(unilora=json.dumps(TEXT | {"projection": largest, "layers": wide})),
    )

    # Layer map (7)
    W = TEXT["layers"][0]

    def layers(name, rules, entries):
        """D agrees with the entries where it can, so that nothing but the fault is refused."""
        try:
            D = sum(map(size, entries))
            D = D if 2 <= D <= 2**40 else 5
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            D = 5
        projection = TEXT["projection"] | {"D": D}
        return described("layer map", rules, name, lambda text: text | {"layers": entries, "projection": projection})

    yield layers("no segments", "7.1 1.1 8.8", [])
    too_many = "7.1 7.8"
    yield layers("65,537 segments in a stack", too_many, [W | {"index": [0, 65_537]}])
    yield layers("2^40 segments in a stack", too_many + " 1.1 8.8", [W | {"index": [0, 2**40]}])
    run = {"layers": [0, 65_537], "prefix": "", "segments": [W | {"name": ""}]}
    yield layers("65,537 segments in a run", too_many, [run])
    yield layers(
        "2^80 segments",
        too_many + " 1.1 8.8",
        [run | {"layers": [0, 2**40], "segments": [W | {"name": "", "index": [0, 2**40]}]}],
    )
    yield layers(
        "65,537 segments in two stacks", too_many, [W | {"index": [0, 32_768]}, W | {"index": [32_768, 65_537]}]
    )
    yield layers("4 MiB of names and more", "7.1", [run | {"layers": [0, 60_000], "prefix": "x" * 100}])
    wide = [run | {"layers": [0, 60_000], "prefix": "😀" + "x" * 12}]  # below 2^22 bytes of UTF-8
    yield layers("4 MiB of names and more, by characters beyond ASCII", "7.1", wide)
    segment = "7.2 7.8"
    for key in ("name", "out", "in", "rank"):
        yield layers(f"a segment without {key}", segment, [{k: v for k, v in W.items() if k != key}])
    for change in (
        {"name": ""}, {"name": "x" * 513}, {"name": "é" * 257}, {"name": 1}, {"out": 0}, {"in": 0}, {"rank": -1},
        {"rank": "1"}, {"rank": True}, {"out": 2**40}, {"in": 2**40}, {"transposed": 1}, {"transposed": "true"}, {"row": -1},
        {"row": 2**40}, {"row": True}, {"index": -1}, {"index": 2**40}, {"more": 1},
    ):  # fmt: skip
        shown = json.dumps(change, ensure_ascii=False)
        smaller = " 7.11" if 0 in change.values() else ""  # of no rows or columns, rank 1 is too much
        yield layers(f"a segment with {shown:.40}", segment + " 1.1 8.8" + smaller, [W | change])
    yield refused(
        "layer map",
        "7.2 7.8",
        "a rank with a point",
        metadata(unilora=json.dumps(TEXT | {"layers": [W | {"rank": 1.0}]})),
    )
    yield layers("an entry of text", "7.8", ["w"])
    yield layers("D above 2^40 by one segment", "1.1 8.8", [W | {"rank": 2**20, "in": 2**20, "out": 2**20}])
    square = {"rank": 2**40 - 1, "in": 2**40 - 1, "out": 2**40 - 1}
    yield layers("D above 2^64", "1.1 8.8", [W | square])
    yield layers("D of 5 modulo 2^64", "1.1 8.8", [W | {"rank": 2**31, "in": 2**32, "out": 2**32}, W | {"name": "v"}])
    direct = W | {"name": "v", "rank": 0}
    yield layers("D above 2^40 by one segment of rank 0", "1.1 8.8", [direct | {"in": 2**20, "out": 2**20 + 1}])
    yield layers("D above 2^64 by rank 0", "1.1 8.8", [direct | {"in": 2**40 - 1, "out": 2**40 - 1}])
    yield layers("D of 5 modulo 2^64 by rank 0", "1.1 8.8", [direct | {"in": 2**32, "out": 2**32}, W])
    rank = "7.11"
    yield layers("a rank above out", rank, [W | {"rank": 3}])
    yield layers("a rank above in", rank, [W | {"out": 3, "in": 2, "rank": 3}])
    yield layers(
        "a rank above the rows of a part", rank, [W | {"row": 0, "out": 9, "in": 9}, W | {"row": 9, "in": 9, "rank": 3}]
    )
    yield layers("a rank above out of a transposed weight", rank, [W | {"transposed": True, "rank": 3}])
    yield layers("a rank above out in a stack", rank, [W | {"index": [0, 2], "rank": 3}])
    yield layers(
        "a rank above out in a run", rank, [run | {"layers": [0, 2], "segments": [W | {"name": "", "rank": 3}]}]
    )
    yield layers("a rank of 2^22", rank, [W | {"out": 1, "in": 1, "rank": 2**22}])
    yield layers("rows of rank 0 that overlap others", "7.6", [W | {"row": 0}, direct | {"name": "w", "row": 1}])
    for name, change in {
        "a range of one": {"layers": [0, 1]}, "a range of none": {"layers": [0, 0]}, "a range backwards": {"layers": [2, 0]},
        "a range of one number": {"layers": [2]}, "a range of three numbers": {"layers": [0, 2, 4]}, "a negative range": {"layers": [-1, 1]},
        "a range beyond 2^40": {"layers": [2**40, 2**40 + 2]}, "a range of text": {"layers": ["0", "2"]}, "a range of truth": {"layers": [False, 2]},
        "a prefix of number": {"prefix": 1}, "a run without segments": {"segments": []}, "a run of no list": {"segments": {}},
        "a run in a run": {"segments": [run | {"layers": [0, 2]}]}, "an unknown field of a run": {"more": 1},
    }.items():  # fmt: skip
        yield layers(name, "7.2 7.8", [run | {"layers": [0, 2]} | change])
    for key in ("prefix", "layers"):
        yield layers(f"a run without {key}", "7.8", [{k: v for k, v in (run | {"layers": [0, 2]}).items() if k != key}])
    yield layers("an empty name", "7.2 7.8", [W | {"name": ""}])
    yield layers("a stack of one", "7.8", [W | {"index": [0, 1]}])
    yield layers("a stack backwards", "7.8", [W | {"index": [5, 0]}])
    two = "7.6"
    row = W | {"row": 0}
    yield layers("one weight twice", two, [W, W])
    yield layers("rows that overlap", two, [row, row | {"row": 1}])
    yield layers(
        "rows that overlap, in descending order", two, [row | {"row": 5, "out": 4}, row | {"row": 4, "out": 2}]
    )
    yield layers("rows inside of rows", two, [row | {"out": 9}, row | {"row": 3, "out": 1}])
    yield layers("rows that overlap, others between", two, [row, row | {"row": 4}, row | {"row": 1, "out": 1}])
    yield layers("one index twice", two, [W | {"index": 0}, W | {"index": 0}])
    yield layers("an index within a stack", two, [W | {"index": [0, 4]}, W | {"index": 3}])
    yield layers("other columns", two, [row, row | {"row": 2, "in": 4}])
    yield layers("stored one way and the other", two, [row, row | {"row": 2, "transposed": True}])
    yield layers("a part and the whole", two, [row, W])
    yield layers("an index and none", two, [W | {"index": 0}, W])
    yield layers("other rows at another index", two, [W | {"index": 0}, W | {"index": 1, "out": 3}])
    yield layers("a weight twice by a run", two, [run | {"layers": [0, 2], "segments": [W, W]}])
    yield layers("a weight twice by a run and alone", two, [run | {"layers": [0, 2]}, W | {"name": "1"}])


CASES: tuple[Case, ...] = tuple(_cases())


def _sound():
    def sound(name, description=TEXT, tensors=TENSORS, change=None, text=None):
        file = files.write(description, tensors)
        if change:
            value = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
            change(value)
            file = with_text(json.dumps(value), BODY)
        return Case(name, "edge", frozenset(), with_text(text) if text else file)

    def mapped(name, entries):
        D = sum(map(size, entries))
        description = TEXT | {"layers": entries, "projection": TEXT["projection"] | {"D": D}}
        return sound(name, change=lambda value: value["__metadata__"].update(unilora=json.dumps(description)))

    W = TEXT["layers"][0]
    run = {"layers": [0, 2], "prefix": "", "segments": [W | {"name": ""}]}
    text = TINY[8:-10].rstrip()
    yield sound("a header of 256 KiB", text=text.ljust(2**18))
    yield sound("a header without padding", text=text)
    yield sound("minus zero for zero", text=text.replace(b"[0,8]", b"[-0,8]"))
    yield sound(
        "alpha in 32 characters",
        change=lambda h: h["__metadata__"].update(
            unilora=json.dumps(TEXT).replace(': 1, "lay', ": 1." + "0" * 30 + ', "lay')
        ),
    )
    yield sound(
        "alpha with an exponent",
        change=lambda h: h["__metadata__"].update(unilora=json.dumps(TEXT).replace(': 1, "lay', ': 0.01E+2, "lay')),
    )
    yield sound("a shape of 64 numbers", tensors=TENSORS | {"saved.b": ("BF16", [1] * 64, [0.25])})
    yield sound("a shape of no number", tensors=TENSORS | {"saved.b": ("BF16", [], [0.25])})
    yield sound("an empty tensor", tensors=TENSORS | {"saved.e": ("F16", [3, 0, 2], [])})
    yield sound("brackets in a name", tensors=TENSORS | {"saved." + '[{"' * 40: ("F32", [1], [1.0])})
    yield sound("a name of blanks and controls", tensors=TENSORS | {"saved. \x00\x1f\x7f\u2028": ("F32", [1], [1.0])})
    yield sound(
        "names beyond the basic plane",
        tensors=TENSORS | {"saved.\ue000": ("F32", [1], [1.0]), "saved.𝔸": ("F32", [1], [2.0])},
    )
    yield sound(
        "names that JavaScript knows",
        tensors=TENSORS | {"saved.__proto__": ("F32", [1], [1.0]), "saved.constructor": ("F32", [1], [2.0])},
    )
    yield sound("the largest seed", TEXT | {"projection": TEXT["projection"] | {"seed": str(2**64 - 1)}})
    for alpha in (1e-4, 2**20, 0.1, 1048575.9999999999):
        yield sound(f"alpha = {alpha}", TEXT | {"alpha": alpha})
    yield sound("empty texts in the base", TEXT | {"base": BASE | {"name": "", "architecture": "", "labels": ["", ""]}})
    yield sound("no labels", TEXT | {"base": BASE | {"labels": []}})
    yield sound(
        "scaling written out", change=lambda h: h["__metadata__"].update(unilora=json.dumps(TEXT | {"scaling": "lora"}))
    )
    yield mapped("65,536 segments", [run | {"layers": [0, 65_536]}])
    yield mapped("65,536 segments in a stack", [W | {"index": [0, 65_536]}])
    yield mapped("a name of 512 bytes", [W | {"name": "é" * 256}])
    yield mapped("numbers up to 2^40", [run | {"layers": [2**40 - 2, 2**40]}])
    yield mapped("a run that ends with nothing", [run])
    yield mapped("a stack in a run", [run | {"segments": [W | {"name": ".x", "index": [3, 5]}]}])
    yield mapped("D = 2^40", [W | {"rank": 2**19, "in": 2**20, "out": 2**20}])
    yield mapped("D = 2^40 by rank 0", [W | {"rank": 0, "in": 2**20, "out": 2**20}])
    yield mapped("rank 0 beside others", [W | {"row": 0, "rank": 0}, W | {"row": 2}, W | {"row": 4, "rank": 0}])
    yield mapped("rows that meet", [W | {"row": 2}, W | {"row": 0}])
    yield mapped("rows of different indices", [W | {"row": 0, "index": 0}, W | {"row": 1, "index": 1}])


SOUND: tuple[Case, ...] = tuple(_sound())


def description_of(case: Case) -> str:
    """The canonical description of a sound file, by the oracle."""
    header = json.loads(case.file[8 : 8 + int.from_bytes(case.file[:8], "little")])
    description = json.loads(header["__metadata__"]["unilora"])
    return files.describe(description | {"layers": files.unfold(description["layers"])})
