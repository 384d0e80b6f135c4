"""SPEC 8.2, 8.3 and 8.8: tensors and their numbers."""

import json
import struct

from ..hostile import TENSORS, TEXT, TINY, header, tensor, with_text
from ..oracle import files
from . import exact, gives, limit, refused
from .chapter_06 import bits
from .chapter_07 import W, described, file_of
from .chapter_08 import B, sound, stored


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
                yield stored(f"{sign * value!r} in {dtype}", {B: (dtype, [1], [sign * value])})
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
            yield stored(f"{dtype}, {named}", {B: (dtype, [len(given)], given)})


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


@limit("8.2", "as many values as their shape says", "write")
def values():
    """Values that are cut, padded or written past the shape."""
    yield stored("one of [1]", {})
    yield stored("none of [0]", {B: ("BF16", [0], [])})
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
