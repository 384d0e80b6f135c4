"""SPEC 8: the file. JSON has a file of its own, chapter_08_json.py."""

import json
import struct

from .. import hostile
from ..hostile import BODY, TENSORS, TEXT, TINY, header, metadata, tensor, with_text
from ..oracle import files
from . import exact, gives, limit, refused
from .chapter_06 import bits
from .chapter_07 import W, described, file_of, run

DESCRIPTION = files.describe(TEXT)
B = "saved.b"


def sound(name, file, tensors=None, **more):
    """The tiny adapter, however its file is written."""
    answer = {"description": DESCRIPTION} | more
    return gives(name, answer | ({"tensors": files.as_protocol(tensors)} if tensors else {}), file=file)


@limit("8.2", "N, of 8 bytes", "read", of="N")
def lengths():
    """N in 32 or 63 bits, or added to 8 in them: the length is that of the header again."""
    N = int.from_bytes(TINY[:8], "little")
    yield sound("as it is", TINY)
    text = TINY[8:-10].rstrip()
    for blanks in (0, 1, 7, 1000, 2**18 - len(text)):
        yield sound(f"{blanks} blanks", with_text(text.ljust(len(text) + blanks)))
    yield refused("2^18 + 1 bytes", "8.2", file=with_text(text.ljust(2**18 + 1)))
    for bit in (16, 24, 31, 32, 33, 40, 48, 53, 56, 62, 63):
        yield refused(f"N + 2^{bit}", "8.2", file=struct.pack("<Q", N + 2**bit) + TINY[8:])
    for name, value in (
        ("2^64 − 1", 2**64 - 1), ("2^64 − 8", 2**64 - 8), ("2^64 − 16", 2**64 - 16), ("2^63 − 8", 2**63 - 8), ("2^32 − 8", 2**32 - 8),
        ("2^32 − 1", 2**32 - 1), ("0", 0), ("1", 1), ("one more than the file has", len(TINY) - 7),
        ("the whole file", len(TINY)), ("N − 1", N - 1 - (len(TINY[8:-10]) - len(text))), ("N in big-endian", int.from_bytes(TINY[:8], "big")), ("-N", 2**64 - N),
    ):  # fmt: skip
        yield refused(name, "8.2 8.5", file=struct.pack("<Q", value) + TINY[8:])
    for length in (0, 1, 7, 8, 9):
        yield refused(f"a file of {length} bytes", "8.2 8.5", file=TINY[:length])


@limit("8.2", "a shape of at most 64 numbers", "read")
def dimensions():
    """A fixed number of dimensions."""
    for count in (0, 1, 2, 8, 32, 63, 64):
        given = TENSORS | {B: ("BF16", [1] * count, [0.25])}
        yield sound(f"{count}", files.write(TEXT, given), given)
    for count in (65, 66, 256, 1000):
        yield refused(f"{count}", "8.2", file=tensor(B, shape=[1] * count))


EMPTY = {"F32": 4, "F16": 2, "BF16": 2}


@limit("8.2", "the product of the other numbers and the size below 2^53", "read", of="the product of a shape · size")
def behind_a_zero():
    """A product of elements and not of bytes; one that wraps at 32 or 64 bits, or is rounded in a float64."""
    for dtype, size in EMPTY.items():
        most = 2**53 // size - 1
        for shape in ([0, most], [most, 0], [0, 2**26, 2**27 // size - 1], [0] * 64, [0, 1], [0, 2**31, 2], [0, 2**32]):
            given = TENSORS | {"saved.e": (dtype, shape, [])}
            yield sound(f"{dtype} {shape[:4]}", files.write(TEXT, given), given)
        for shape in (
            [0, most + 1], [most + 1, 0], [0, 2**26, 2**27 // size], [2**53 - 1, 0], [0, 2**52, 2], [0, 2**32, 2**32], [0, 2**31, 2**33],
            [2**32, 0, 2**32], [0, *[2] * 63], [0, *[2**16] * 4], [0, 2**53 - 1, 2**53 - 1], [0, *[2**53 - 1] * 63], [0, 2**30, 2**30, 2**4],
        ):  # fmt: skip
            empty = {"dtype": dtype, "shape": shape, "data_offsets": [10, 10]}
            yield refused(f"{dtype} {shape[:4]}", "8.2", file=header(lambda h, e=empty: h.update({"saved.e": e})))


@limit("8.2", "end − begin is the product of the shape and the size", "read")
def sizes():
    """A size in elements; a product that wraps: 2^30 + 2 and 2^64 + 2 numbers of 4 bytes have 8 bytes in 32 and in 64."""
    two = 2 * 3**3 * 19 * 43 * 5419, 77158673929  # 2^64 + 2
    yield sound("2 numbers of 4 bytes", TINY)
    yield sound("1 number of 2 bytes", tensor(B, shape=[1, 1]))
    rules = "8.2 8.3 8.8"
    for shape in (
        [2**30 + 2],
        [2**32 + 2],
        [2**15, 2**15 + 1],
        list(two),
        [2**32, 2**32, 2],
        [2**31 + 1, 2],
        [1],
        [3],
        [0],
        [2, 0],
    ):
        yield refused(f"theta of {shape}", rules, file=tensor(shape=shape))
    for shape in ([2**31 + 1], [2**32 + 1], [2**16 + 1, 2**16], [2**16, 2**16, 2**16, 2**16], [2], [0]):
        yield refused(f"a saved BF16 of {shape}", "8.2", file=tensor(B, shape=shape))
    for offsets in (
        [8, 9],
        [8, 12],
        [8, 8],
        [9, 10],
        [7, 9],
        [8, 2**32 + 10],
        [2**32 + 8, 2**32 + 10],
        [0, 2],
        [10, 12],
    ):
        yield refused(f"a saved BF16 at {offsets}", "8.2", file=tensor(B, data_offsets=offsets))
    for offsets in (
        [0, 2],
        [0, 4],
        [0, 16],
        [0, 9],
        [0, 7],
        [4, 8],
        [-8, 0],
        [8, 0],
        [2**32, 2**32 + 8],
        [0, 8 - 2**32],
    ):
        yield refused(f"theta at {offsets}", "8.2", file=tensor(data_offsets=offsets))
    for size in (1, 2, 8):
        head = {
            "__metadata__": files.metadata(DESCRIPTION),
            "theta": {"dtype": "F16", "shape": [2], "data_offsets": [0, size]},
        }
        yield refused(f"two F16 in {size} bytes", "8.2", file=with_text(json.dumps(head), bytes(size)))


@exact("8.2", "ordered by begin and end, each begins where the last one ended", "read")
def order():
    """Tensors that are sorted by begin alone, where one without an entry begins with another; fields in any order."""
    value = hostile.tiny_header()
    empty = {"dtype": "F32", "shape": [0], "data_offsets": None}
    for at in (0, 8, 10):
        for count in (1, 3):
            more = {f"saved.e{k}": empty | {"data_offsets": [at, at]} for k in range(count)}
            expected = TENSORS | dict.fromkeys(more, ("F32", [0], []))
            for name, items in (("first", {**more, **value}), ("last", {**value, **more})):
                yield sound(f"{count} empty at {at}, {name}", with_text(json.dumps(items)), expected, canonical=False)
    for names in ((B, "theta", "__metadata__"), ("theta", "__metadata__", B), ("theta", B, "__metadata__")):
        yield sound(
            f"{', '.join(names)}",
            with_text(json.dumps({name: value[name] for name in names})),
            TENSORS,
            canonical=False,
        )
    turned = {name: dict(reversed(entry.items())) for name, entry in reversed(value.items())}
    yield sound("all fields backwards", with_text(json.dumps(turned)), TENSORS, canonical=False)
    swapped = json.loads(json.dumps(value))
    swapped[B]["data_offsets"], swapped["theta"]["data_offsets"] = [0, 2], [2, 10]
    yield sound(
        "the smaller tensor first", with_text(json.dumps(swapped), BODY[8:] + BODY[:8]), TENSORS, canonical=False
    )


@exact("8.3", "float16 and bfloat16, all of their finite numbers", "read")
def all_halves():
    """Numbers below the normal range that are read as 0, or as if they were in it; bytes in big-endian."""
    for dtype, end in (("F16", 0x7C00), ("BF16", 0x7F80)):
        patterns = [*range(end), *range(0x8000, 0x8000 + end)]
        data = struct.pack(f"<{len(patterns)}H", *patterns)
        yield _whole(f"{dtype}", dtype, data)


def _whole(name, dtype, data):
    count = len(data) // files.SIZES[dtype]
    text = described([W | {"out": 256, "in": 256, "rank": 0}])
    text["projection"]["d"] = count
    head = {
        "__metadata__": files.metadata(files.describe(text)),
        "theta": {"dtype": dtype, "shape": [count], "data_offsets": [0, len(data)]},
    }
    theta = {"dtype": dtype, "shape": [count], "values": files.widened(data, dtype)}
    return gives(name, {"tensors": {"theta": theta}}, file=with_text(json.dumps(head), data))


@limit("8.3", "what rounds to infinity in the dtype", "write")
def largest():
    """65519.996 is 65504 in float16, and 65520 is refused; a comparison with 65504, or a cut in place of rounding, shows here."""
    inside = {
        "F16": [65504.0, *bits(0x477FE001, 0x477FEFFF, 0x477FE800), 65472.0, 65488.0, 65519.0],
        "BF16": bits(0x7F7F0000, 0x7F7F0001, 0x7F7F7FFF, 0x7F7E8000, 0x7F7E7FFF, 0x7F7F7F7F),
        "F32": bits(0x7F7FFFFF, 0x7F7FFFFE, 0x7F7F8000),
    }
    outside = {
        "F16": [
            65520.0,
            *bits(0x477FF001),
            65535.0,
            65536.0,
            1e6,
            *bits(0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x7F800001, 0x7FFFFFFF),
        ],
        "BF16": bits(0x7F7F8000, 0x7F7F8001, 0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x7F800001, 0x7FFF8000, 0x7FFFFFFF),
        "F32": bits(0x7F800000, 0x7FC00000, 0x7F800001, 0x7FFFFFFF),
    }
    for dtype, values in inside.items():
        for sign in (1, -1):
            for value in values:
                yield _stored(f"{sign * value!r} in {dtype}", {B: (dtype, [1], [sign * value])})
            for value in outside[dtype]:
                given = files.as_protocol(TENSORS | {B: (dtype, [1], [_signed(sign, value)])})
                yield refused(
                    f"{struct.pack('>f', _signed(sign, value)).hex()} in {dtype}",
                    "8.3",
                    description=TEXT,
                    tensors=given,
                )


def _signed(sign, value):
    """With its bits, of NaN too."""
    return (
        value
        if sign > 0
        else struct.unpack("<f", struct.pack("<I", struct.unpack("<I", struct.pack("<f", value))[0] | 2**31))[0]
    )


def _stored(name, tensors, text=TEXT):
    given = TENSORS | tensors
    return gives(name, {"file": files.write(text, given)}, description=text, tensors=files.as_protocol(given))


@exact("8.3", "rounded to nearest, ties to even, below the normal range too", "write", of="bits + 0x7FFF + 1")
def roundings():
    """Ties upwards, away from 0 or cut off; numbers below the normal range that are flushed, or rounded with the bits of those in it."""
    halves = [
        n * 2.0**-25
        for n in (0, 1, 2, 3, 4, 5, 6, 7, 2045, 2046, 2047, 2048, 2049, 2050, 4093, 4095, 4096, 4097, 4098, 4099, 4100)
    ]
    halves += [2.0**-25 + 2.0**-40, 2.0**-25 - 2.0**-40, 2.0**-26, 2.0**-14 - 2.0**-26, 2.0**-14, 2.0**-149, 2.0**-126]
    halves += [1 + n * 2.0**-11 for n in range(8)] + [2049.0, 2050.0, 2051.0, 2053.0, 65488.0, 65456.0]
    words = (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x10000, 0x17FFF, 0x18000, 0x18001, 0x1FFFF, 0x7F8000, 0x7FFFFF, 0x800000, 0x808000, 0x818000,
             0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x3FFF8000, 0x3F7F8000, 0x7F7E8000, 0x7F7F7FFF)  # fmt: skip
    for dtype, values in (("F16", halves), ("BF16", bits(*words)), ("F32", bits(*words, 0x7F7FFFFF))):
        for sign, named in ((1, "positive"), (-1, "negative")):
            given = [_signed(sign, value) for value in values]
            yield _stored(f"{dtype}, {named}", {B: (dtype, [len(given)], given)})


@limit("8.3 8.8", "a theta of shape [d]", "read")
def theta():
    """A length in 32 bits, a count of numbers in place of a shape."""
    yield sound("as it is", TINY, TENSORS)
    for shape in ([2, 1], [1, 2], [1, 2, 1], []):
        yield refused(f"{shape}", "8.2 8.3 8.8", file=tensor(shape=shape))
    for d in (1, 3, 4, 5):
        yield refused(f"d = {d}", "8.3 8.8", file=file_of(TEXT | {"projection": TEXT["projection"] | {"d": d}}))
    large = {
        "projection": {"kind": "balanced", "seed": "42", "d": 2, "D": 2**32 + 5},
        "layers": [W | {"out": 5, "in": 2**32}],
    }
    yield gives("a large D", {"description": files.describe(TEXT | large)}, file=file_of(TEXT | large))
    large["projection"]["d"] = 2**31 - 1
    yield refused("d = 2^31 − 1", "8.3 8.8", file=file_of(TEXT | large))
    large["projection"]["d"] = 2**32 + 2
    yield refused("d = 2^32 + 2", "1.1 8.3 8.8", file=file_of(TEXT | large))


@limit("8.8", "D and the layer map", "read")
def parts():
    """A D in 32 bits."""
    yield sound("as it is", TINY)
    for D in (4, 6, 2, 2**31 + 5, 2**32 + 5, 2**40, 5 + 2**8, 5 + 2**16):
        yield refused(f"D = {D}", "8.8", file=file_of(described([W], D)))
    yield refused("D = 2^40 + 5", "1.1 8.8", file=file_of(described([W], 2**40 + 5)))
    large = [W | {"out": 5, "in": 2**32}]
    yield gives("2^32 + 5", {"description": files.describe(described(large))}, file=file_of(described(large)))
    yield refused("5 for 2^32 + 5", "8.8", file=file_of(described(large, 5)))
    yield refused("the weight saved too", "8.8", file=header(lambda h: h.update({"saved.w": h.pop(B)})))
    yield sound("another name", header(lambda h: h.update({"saved.w ": h.pop(B)})))
    yield sound("the name in capitals", header(lambda h: h.update({"saved.W": h.pop(B)})))


def _text_of(value):
    return lambda h: h.update(value)


def wrong_beside_the_version():
    """What 8.4 says comes after format and version: name → a change of the header, all of it sound JSON."""

    def entry(name="theta", **fields):
        return lambda h: h[name].update(fields)

    def meta(**fields):
        return lambda h: h["__metadata__"].update(fields)

    def text(value):
        return meta(unilora=json.dumps(value))

    return {
        "an unknown dtype": entry(dtype="F4"),
        "a dtype of number": entry(dtype=4),
        "an unknown field of a tensor": entry(more=1),
        "a tensor without a shape": lambda h: h["theta"].pop("shape"),
        "a tensor of text": _text_of({"theta": "F32"}),
        "a tensor of list": _text_of({"saved.b": [1]}),
        "a shape with a point": entry(shape=[2.0]),
        "a negative shape": entry(shape=[-2]),
        "a shape of 65 numbers": entry(shape=[2] + [1] * 64),
        "a shape of text": entry(shape="2"),
        "a longer shape": entry(shape=[3]),
        "a shape of truth": entry(shape=[True, 2]),
        "negative offsets": entry(data_offsets=[-8, 0]),
        "three offsets": entry(data_offsets=[0, 8, 8]),
        "an overlap": entry("saved.b", data_offsets=[6, 8]),
        "a gap": entry("saved.b", data_offsets=[9, 11]),
        "offsets beyond the file": entry(data_offsets=[0, 2**40]),
        "a tensor too few": lambda h: h.pop("saved.b"),
        "no tensor": lambda h: (h.pop("saved.b"), h.pop("theta")),
        "a tensor of another name": lambda h: h.update(more=h.pop("saved.b")),
        "a saved tensor without a name": lambda h: h.update({"saved.": h.pop("saved.b")}),
        "an index": lambda h: h.update(index=h.pop("saved.b")),
        "metadata of number": meta(more=1),
        "metadata of list": meta(more=[1]),
        "a further field of the metadata": meta(more=""),
        "a description of object": meta(unilora={}),
        "no description": lambda h: h["__metadata__"].pop("unilora"),
        "a description that is no JSON": meta(unilora="?"),
        "an empty description": meta(unilora=""),
        "a description with a key twice": meta(unilora='{"a":1,"a":1}'),
        "a description of another form": text({"adapter": 2}),
        "a description of list": text([]),
        "an unknown kind": text(TEXT | {"projection": {"kind": "next", "more": 1}}),
        "a D of another layer map": text(TEXT | {"projection": TEXT["projection"] | {"D": 6}}),
        "a seed of 2^64": text(TEXT | {"projection": TEXT["projection"] | {"seed": str(2**64)}}),
        "an alpha of 0": text(TEXT | {"alpha": 0}),
        "a rank above both sides": text(TEXT | {"layers": [W | {"rank": 3}]}),
    }


@limit("8.4", "format and version before all else", "read")
def version_first():
    """A reader that looks at the version after the tensors, the metadata or the description refuses newer files for the wrong reason."""
    yield sound("as it is", TINY)
    for what, change in wrong_beside_the_version().items():
        for other in (
            {"version": "2"},
            {"format": "next"},
            {"format": "pt", "version": "7"},
            {"version": None},
            {"format": None},
        ):

            def both(value, change=change, other=other):
                change(value)
                value["__metadata__"] = {k: v for k, v in (value["__metadata__"] | other).items() if v is not None}

            yield refused(f"{other}, {what}", "8.4", file=header(both))
    nan = struct.pack("<I", 0x7FC00000) + BODY[4:]
    yield refused(
        "version 2, and NaN in theta", "8.4", file=header(lambda h: h["__metadata__"].update(version="2"), nan)
    )
    yield refused(
        "version 2, and bytes behind",
        "8.4 8.2",
        file=header(lambda h: h["__metadata__"].update(version="2"), BODY + b"\0"),
    )
    for version in ("2", "0", "1.0", "01", "1 ", " 1", "+1", "１", "", "4294967297", "1\u0000"):
        yield refused(f"version {version!r}", "8.4", file=metadata(version=version))
    for form in ("Unilora", "UNILORA", "unilora ", "", "uni-lora", "pt"):
        yield refused(f"format {form!r}", "8.4", file=metadata(format=form))
    for version in (1, 2, True, ["1"], {"1": 1}):
        yield refused(f"version {version!r}", "8.2 8.4", file=metadata(version=version))
    for more in ({"more": ""}, {"Format": "unilora"}, {"": ""}, {"unilora ": DESCRIPTION}, {"unilora": None}):
        yield refused(f"{', '.join(more)} in the metadata, or not", "8.4", file=metadata(**more))
    yield refused("no metadata", "8.4", file=header(lambda h: h.pop("__metadata__")))
    for value in ("unilora", [], 1, True, ["format", "unilora"]):
        yield refused(f"metadata {value!r}", "8.2 8.4", file=header(_text_of({"__metadata__": value})))
    yield refused("metadata {}", "8.4", file=header(_text_of({"__metadata__": {}})))


SEEDS = {
    "0": True, "1": True, "42": True, "4294967296": True, "9007199254740993": True, "9223372036854775808": True, "18446744073709551615": True,
    "": False, "00": False, "042": False, "+42": False, "-0": False, "-1": False, " 42": False, "42 ": False, "4 2": False, "42\n": False,
    "0x2a": False, "4e1": False, "42.0": False, "4_2": False, "٤٢": False, "４２": False, "²": False, "42\u0000": False, "1" * 21: False,
    "18446744073709551616": False, "18446744073709551658": False, "99999999999999999999": False, "100000000000000000042": False,
}  # fmt: skip
"""Whether a text is a seed."""


@limit("8.6 1.2", "a seed, the decimal number without leading zeros", "read")
def seeds():
    """What a language's own reader of numbers takes: signs, blanks, digits of other scripts, what follows the number."""
    for seed, fits in SEEDS.items():
        text = TEXT | {"projection": TEXT["projection"] | {"seed": seed}}
        if fits:
            yield gives(f"{seed!r}", {"description": files.describe(text)}, file=file_of(text))
        else:
            yield refused(f"{seed!r}", "8.6 1.2", file=file_of(text))


@limit("8.6", "the fields of a description and no others", "read")
def fields():
    """A field of another level, a name that any object of the language has, labels that are equal."""
    base = hostile.BASE
    for name, more in {
        "a base": {"base": base}, "an architecture": {"base": base | {"architecture": ""}}, "labels": {"base": base | {"labels": ["a", "b"]}},
        "labels that are equal": {"base": base | {"labels": ["a", "a", "", ""]}}, "no labels": {"base": base | {"labels": []}},
        "10,000 labels": {"base": base | {"labels": ["x"] * 10_000}},
        "an empty name": {"base": base | {"name": ""}}, "rslora": {"scaling": "rslora"}, "lora": {"scaling": "lora"},
    }.items():  # fmt: skip
        yield gives(name, {"description": files.describe(TEXT | more)}, file=file_of(TEXT | more))
    for key in (
        "more",
        "",
        "Alpha",
        "alpha ",
        "d",
        "kind",
        "name",
        "labels",
        "__proto__",
        "constructor",
        "toString",
        "hasOwnProperty",
        "version",
        "\u0000",
    ):
        yield refused(f"{key!r} in the description", "8.6", file=file_of(TEXT | {key: 1}))
        yield refused(
            f"{key!r} in the base",
            "8.6",
            file=file_of(TEXT | {"base": {key: 1} | base | ({key: 1} if key in base else {})}),
        )
        if key not in ("d", "kind"):
            yield refused(
                f"{key!r} in the projection", "8.6", file=file_of(TEXT | {"projection": TEXT["projection"] | {key: 1}})
            )
        if key != "name":
            yield refused(f"{key!r} in a segment", "7.8 7.2", file=file_of(described([W | {key: 1}], 5)))
            yield refused(f"{key!r} in a run", "7.8", file=file_of(described([run(0, 2) | {key: 1}], 10)))
    for digits in (
        "0" * 31,
        "0" * 33,
        "A" * 32,
        "g" * 32,
        "0" * 31 + " ",
        "٠" * 32,
        "0" * 64,
        "",
        "0" * 31 + "\n",
        "0" * 32 + "\n",
    ):
        for key in ("structure", "contents"):
            yield refused(f"{key} {digits!r}", "8.6", file=file_of(TEXT | {"base": base | {key: digits}}))


@exact("8.7", "spaces up to a multiple of 8", "write")
def padding():
    """Each of the eight remainders; 0 to 7 spaces, never 8."""
    for more in range(8):
        text = TEXT | {"base": hostile.BASE | {"name": "x" * more}}
        yield _stored(f"{more} more", {}, text)


@exact("8.7", "larger elements first, then whole names by their bytes", "write")
def order_of_data():
    """Names without `saved.`, in UTF-16 code units, or without regard to capitals; bytes that are compared as if they were signed."""
    names = (
        "saved.b",
        "saved.a",
        "saved.B",
        "saved.",
        "saved.\x7f",
        "saved.é",
        "saved.\uffff",
        "saved.𝔸",
        "saved.t",
        "saved.u",
        "saved.ab",
        "saved.theta",
    )
    given = {name + "!" * (name == "saved."): ("F32", [1], [float(at)]) for at, name in enumerate(names)}
    yield _stored("of one size", given)
    yield _stored(
        "of two sizes", {name: (("F16", "F32")[at % 2], *rest) for at, (name, (_, *rest)) in enumerate(given.items())}
    )
    yield _stored(
        "of one size, F16 and BF16",
        {name: (("F16", "BF16")[at % 2], *rest) for at, (name, (_, *rest)) in enumerate(given.items())},
    )
    yield _stored(
        "theta in F16",
        {"theta": ("F16", [2], [1.0, -0.5]), "saved.z": ("F32", [1], [1.0]), "saved.a": ("F32", [2], [1.0, 2.0])},
    )
    yield _stored(
        "empty ones between", {"saved.a": ("F32", [0], []), "saved.z": ("F32", [3, 0], []), "saved.m": ("F16", [0], [])}
    )


@limit("8.10", "what is sound and not canonical", "read")
def not_canonical():
    """A reader that refuses what only a writer must keep, or calls it canonical."""
    runs = [W | {"name": f"l.{n}.w"} for n in range(3)]
    value = hostile.tiny_header()
    yield sound("the canonical file", TINY, TENSORS, canonical=True)
    text = TINY[8:-10].rstrip()
    for name, file in {
        "no padding": with_text(text), "one space more": with_text(TINY[8:-10] + b" "), "a line feed for a space": with_text(text + b"\n "),
        "blanks within": with_text(text.replace(b'"dtype":', b'"dtype" :\t')), "keys in another order": with_text(json.dumps(dict(reversed(value.items())))),
        "an escape": with_text(TINY[8:-10].replace(b'"BF16"', b'"\\u0042F16"')), "scaling": file_of(TEXT | {"scaling": "lora"}),
        "alpha with a point": metadata(unilora=DESCRIPTION.replace('"alpha":1', '"alpha":1.0')),
        "alpha with an exponent": metadata(unilora=DESCRIPTION.replace('"alpha":1', '"alpha":1e0')),
        "transposed as false": file_of(described([W | {"transposed": False}])),
    }.items():  # fmt: skip
        yield sound(name, file, canonical=False)
    for name, entries in {
        "a run that is not folded": runs, "a run of two and one more": [run(0, 2, W | {"name": ".w"}, prefix="l."), runs[2]],
        "a stack that is not folded": [W | {"index": 0}, W | {"index": 1}],
        "a run of numbers that are no layers": [run(0, 3, W | {"name": "w"}, prefix="x")],
        "a run of 6,000 whose canonical header is too long": [run(0, 6000, W | {"name": ""}, prefix="x")],
    }.items():  # fmt: skip
        text = files.describe(described(files.unfold(entries)))
        yield gives(name, {"description": text, "canonical": False}, file=file_of(described(entries)))
    folded = files.write(described(runs), hostile.TENSORS)
    yield gives("a run that is folded", {"canonical": True}, file=folded)
    yield refused("a header above 256 KiB", "8.2", file=with_text(TINY[8:-10].ljust(2**18 + 8)))


@limit("8.2 8.10", "a canonical header of at most 256 KiB", "write")
def longest_header():
    """A limit that is compared before the padding."""
    room = 2**18 - len(files.write(TEXT | {"base": hostile.BASE | {"name": ""}}, TENSORS)) + 18
    for more in (room - 8, room - 7, room - 1, room):
        yield _stored(f"{more} bytes", {}, TEXT | {"base": hostile.BASE | {"name": "x" * more}})
    for more in (room + 8, room + 9, room + 100):
        text = TEXT | {"base": hostile.BASE | {"name": "x" * more}}
        yield refused(f"{more} bytes", "8.2 8.10", description=text, tensors=files.as_protocol(TENSORS))


@limit("8.2", "as many values as their shape says", "write")
def values():
    """Values that are cut, padded or written past the shape."""
    yield _stored("one of [1]", {})
    yield _stored("none of [0]", {B: ("BF16", [0], [])})
    for shape, count in (
        ([1], 0),
        ([1], 2),
        ([2], 1),
        ([0], 1),
        ([2, 2], 2),
        ([], 0),
        ([], 2),
        ([2**16, 2**16], 0),
        ([2**32], 0),
        ([3, 0], 3),
    ):
        given = files.as_protocol(TENSORS) | {B: {"dtype": "F32", "shape": shape, "values": [0.5] * count}}
        yield refused(f"{count} of {shape}", "8.2", description=TEXT, tensors=given)
    given = files.as_protocol(TENSORS)
    for values in ([1.0], [1.0, 2.0, 3.0], []):
        theta = {"theta": {"dtype": "F32", "shape": [2], "values": values}}
        yield refused(f"{len(values)} of theta's two", "8.2 8.3 8.8 1.3", description=TEXT, tensors=given | theta)
