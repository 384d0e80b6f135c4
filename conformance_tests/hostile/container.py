"""The safetensors container (SPEC 8.2): its lengths, its offsets and the shapes of its tensors."""

import struct

from .case import refused, replaced
from .tiny import BODY, TINY, header, metadata, tensor, with_text

HUGE = 2**53 - 1


def cases():
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
