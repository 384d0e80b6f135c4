"""An adapter's tensors and their values (SPEC 8.2, 8.3)."""

import struct

from .case import refused
from .tiny import BODY, TINY, header, tensor


def cases():
    b = "saved.b"
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
