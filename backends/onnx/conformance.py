"""The ONNX backend as an implementation that the conformance tests ask (conformance_tests/PROTOCOL.md).

``python -m conformance_tests --impl backends.onnx.conformance``

The backend computes nothing of the projection: θ_D and its adjoint are the graph's, whose functions answer for
themselves (export.conformance). It takes an adapter from a file, holds it as a training does, writes that as a state,
goes on from the state, and writes the adapter again. A file that is read or written here has gone all this way.
"""

import base64
import tempfile
from pathlib import Path

from unilora_spec import Adapter
from unilora_spec.conformance import answer as reference
from unilora_spec.conformance import read_answer
from unilora_spec.protocol import answering, pack, serve
from unilora_spec.serialization import decode, encode

from ..runs.state import State, load_state, save_state


def _read(r):
    data = base64.b64decode(r["file"])
    return read_answer(_trained(decode(data)), data)


def _write(r):
    found = reference(r)
    if "refused" in found:
        return found
    return {"file": pack(encode(_trained(decode(base64.b64decode(found["file"])))), "file")}


def _trained(adapter: Adapter) -> Adapter:
    """The adapter after a training of no steps that was interrupted and resumed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state.safetensors")
        save_state(State.of(adapter), adapter, {}, path)
        return load_state(path, adapter, {}).adapter(adapter)


answer = answering("backends.onnx", {"read": _read, "write": _write})

if __name__ == "__main__":
    serve(answer)
