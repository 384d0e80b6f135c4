"""Sound files of adapters, and changes of their bytes."""

import json

import numpy as np
from test_spec_text import TINY

from unilora_spec.serialization import encode

DATA = encode(TINY)


def header_of(data):
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def with_header(text, body=DATA[-10:]):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return len(text).to_bytes(8, "little") + text + body


def changed(change, body=DATA[-10:]):
    """The tiny file with its header changed by ``change(header)``."""
    header = header_of(DATA)
    change(header)
    return with_header(header, body)


def described(change):
    """The tiny file with its description changed by ``change(description)``."""

    def apply(header):
        description = json.loads(header["__metadata__"]["unilora"])
        change(description)
        header["__metadata__"]["unilora"] = json.dumps(description)

    return changed(apply)


def same(a, b):
    """The same adapter, its numbers by their bits."""
    assert (a.projection, a.layer_map, a.base, dict(a.dtypes)) == (b.projection, b.layer_map, b.base, dict(b.dtypes))
    for x, y in zip([a.theta, *a.saved.values()], [b.theta, *(b.saved[name] for name in a.saved)], strict=True):
        assert x.dtype == y.dtype == np.float32 and x.shape == y.shape and x.tobytes() == y.tobytes()
