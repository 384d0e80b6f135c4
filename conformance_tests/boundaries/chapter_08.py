"""SPEC 8: the file. JSON has a file of its own, chapter_08_json.py."""

import json
import struct

from .. import hostile
from ..hostile import BODY, TENSORS, TEXT, TINY, header, metadata, tensor, with_text
from ..oracle import files
from . import exact, gives, limit, refused
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


def stored(name, tensors, text=TEXT):
    given = TENSORS | tensors
    return gives(name, {"file": files.write(text, given)}, description=text, tensors=files.as_protocol(given))


@exact("8.7", "spaces up to a multiple of 8", "write")
def padding():
    """Each of the eight remainders; 0 to 7 spaces, never 8."""
    for more in range(8):
        text = TEXT | {"base": hostile.BASE | {"name": "x" * more}}
        yield stored(f"{more} more", {}, text)


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
    yield stored("of one size", given)
    yield stored(
        "of two sizes", {name: (("F16", "F32")[at % 2], *rest) for at, (name, (_, *rest)) in enumerate(given.items())}
    )
    yield stored(
        "of one size, F16 and BF16",
        {name: (("F16", "BF16")[at % 2], *rest) for at, (name, (_, *rest)) in enumerate(given.items())},
    )
    yield stored(
        "theta in F16",
        {"theta": ("F16", [2], [1.0, -0.5]), "saved.z": ("F32", [1], [1.0]), "saved.a": ("F32", [2], [1.0, 2.0])},
    )
    yield stored(
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
        yield stored(f"{more} bytes", {}, TEXT | {"base": hostile.BASE | {"name": "x" * more}})
    for more in (room + 8, room + 9, room + 100):
        text = TEXT | {"base": hostile.BASE | {"name": "x" * more}}
        yield refused(f"{more} bytes", "8.2 8.10", description=text, tensors=files.as_protocol(TENSORS))
