"""The NumPy reference as an implementation that the conformance tests ask (conformance_tests/PROTOCOL.md).

``python -m conformance_tests --impl unilora_spec.conformance``; the first half is what every module of its kind needs.
"""

import base64
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from . import canonical_json
from .adapter import Adapter, contents_fingerprint, structure_fingerprint
from .errors import FileError, LimitError, UniLoraError
from .layer_map import LayerMap
from .permutation import Permutation, keys, mix
from .projection import KINDS, Projection
from .serialization import SAVED, check_tensor, decode, describe, encode, is_canonical, parse

VERSION = "1"
TYPES = {
    "keys": "<u4", "words": "<u4", "mixed": "<u4", "x": "<i8", "y": "<i8", "index": "<i8", "counts": "<i8", "members": "<i8", "scale": "<f4", "theta": "<f4",
    "theta_D": "<f4", "g": "<f4", "A": "<f4", "B": "<f4", "delta": "<f4", "values": "<f4", "file": "u1",
}  # fmt: skip
"""The element type of each array of the protocol, by its field."""


def unpack(text: str, field: str) -> np.ndarray:
    """The array of a field of a request."""
    return np.frombuffer(base64.b64decode(text), TYPES[field])


def pack(array, field: str) -> str:
    """An array, or the bytes of a file, as a field of an answer."""
    data = array if isinstance(array, bytes | bytearray) else np.ascontiguousarray(array, TYPES[field])
    return base64.b64encode(data).decode()


def projection_of(request: dict) -> Projection:
    """The projection that a request names."""
    p = request["projection"]
    return Projection(p["kind"], D=p["D"], d=p["d"], seed=int(p["seed"]))


def array_of(request: dict, field: str, length: int) -> np.ndarray:
    """The array of a field, which must have this length (SPEC 1.3)."""
    array = unpack(request[field], field)
    if len(array) != length:
        raise LimitError(f"{field} has {len(array)} entries; it must have {length}", "1.3")
    return array


def adapter_of(request: dict) -> Adapter:
    """The adapter in a request's file."""
    return decode(base64.b64decode(request["file"]))


def segment_of(request: dict, adapter: Adapter, items: Iterable):
    """That one of ``items``, which the adapter's segments give in order, whose number the request names."""
    k, count = request["segment"], len(adapter.layer_map)
    if not 0 <= k < count:
        raise LimitError(f"segment {k} is not in [0, {count})", "1.3")
    return next(itertools.islice(items, k, None))


def weights_of(request: dict) -> dict[str, np.ndarray]:
    """The weights of a request by name, to be changed."""
    return {name: unpack(w["values"], "values").reshape(w["shape"]).copy() for name, w in request["weights"].items()}


def pack_weights(weights: Mapping[str, np.ndarray]) -> dict:
    """Weights as the field of an answer."""
    return {name: {"shape": weight.shape, "values": pack(weight, "values")} for name, weight in weights.items()}


def numbered(adapter: Adapter, names: Iterable[str]) -> Adapter:
    """The adapter with ``0.weight``, ``1.weight``, … for the weights ``names``, and without its base, which has the names.

    A weight may have any text as its name; the modules and graphs of frameworks cannot.
    """
    number = {name: f"{k}.weight" for k, name in enumerate(dict.fromkeys([*names, *adapter.saved]))}
    segments = [replace(segment, name=number[segment.name]) for segment in adapter.layer_map.segments]
    layer_map = LayerMap(segments, adapter.layer_map.alpha, adapter.layer_map.scaling)
    saved = {number[name]: value for name, value in adapter.saved.items()}
    return Adapter(adapter.projection, layer_map, adapter.theta, saved=saved)


def answering(name: str, requests: Mapping[str, Callable[[dict], dict]]) -> Callable[[dict], dict]:
    """The function ``answer`` of an implementation that has a function for each of its ``requests``.

    It answers ``describe`` itself; a refusal of the specification is an answer too.
    """
    description = {"name": name, "version": VERSION, "requests": ["describe", *requests], "kinds": list(KINDS)}

    def answer(request: dict) -> dict:
        """The answer to one request of PROTOCOL.md."""
        try:
            return description if request["request"] == "describe" else requests[request["request"]](request)
        except UniLoraError as error:
            return {"refused": error.rule, "message": error.message}

    return answer


def serve(answer: Callable[[dict], dict]) -> None:
    """Answers each line of standard input with ``answer``'s dictionary. What ``answer`` prints goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)
        for line in sys.stdin.buffer:
            output.write(json.dumps(answer(json.loads(line))) + "\n")
            output.flush()


def _keys(r):
    return {"keys": pack(keys(int(r["seed"]), 10), "keys")}


def _mix(r):
    return {"mixed": pack(mix(unpack(r["words"], "words"), r["key"]), "mixed")}


def _permutation(r):
    return {"y": pack(Permutation(r["D"], int(r["seed"]))(unpack(r["x"], "x")), "y")}


def _inverse(r):
    return {"x": pack(Permutation(r["D"], int(r["seed"])).inverse(unpack(r["y"], "y")), "x")}


def _index(r):
    return {"index": pack(projection_of(r).index(r["start"], r["stop"]), "index")}


def _members(r):
    p = projection_of(r)
    counts = p.counts(r["start"], r["stop"])
    columns = [p.members(j) for j in range(r["start"], r["stop"])]
    return {"counts": pack(counts, "counts"), "members": pack(np.concatenate([[], *columns]), "members")}


def _scale(r):
    return {"scale": pack(projection_of(r).scale(r["start"], r["stop"]), "scale")}


def _initial(r):
    layer_map = LayerMap.from_json(r["layers"], 1) if "layers" in r else None
    return {"theta": pack(projection_of(r).initial(layer_map, r["bound"]), "theta")}


def _expand(r):
    return {"theta_D": pack(projection_of(r).expand(unpack(r["theta"], "theta"), r["start"], r["stop"]), "theta_D")}


def _adjoint(r):
    p = projection_of(r)
    start, stop = p.range_of(r["start"], r["stop"], p.D)
    return {"theta": pack(p.adjoint(array_of(r, "g", stop - start), start), "theta")}


def _read(r):
    data = base64.b64decode(r["file"])
    adapter = decode(data)
    values = {"theta": adapter.theta} | {SAVED + name: value for name, value in adapter.saved.items()}
    tensors = {
        name: {"dtype": adapter.dtypes.get(name, "F32"), "shape": value.shape, "values": pack(value, "values")}
        for name, value in values.items()
    }
    description = canonical_json.encode(describe(adapter)).decode("utf-8")
    return {"description": description, "tensors": tensors, "canonical": is_canonical(adapter, data)}


def _write(r):
    projection, layer_map, base = parse(r["description"])
    values, dtypes = {}, {}
    for name, tensor in r["tensors"].items():
        check_tensor(name, tensor["dtype"])
        dtypes[name] = tensor["dtype"]
        values[name] = unpack(tensor["values"], "values").reshape(tensor["shape"])
    if "theta" not in values:
        raise FileError("there is no tensor theta", "8.3")
    theta = values.pop("theta")
    saved = {name.removeprefix(SAVED): value for name, value in values.items()}
    return {"file": pack(encode(Adapter(projection, layer_map, theta, base, saved, dtypes)), "file")}


def _delta_weight(r):
    adapter = adapter_of(r)
    _, A, B = segment_of(r, adapter, adapter.factors())
    _, delta = segment_of(r, adapter, adapter.delta_weights())
    return {"A": pack(A, "A"), "B": pack(B, "B"), "delta": pack(delta, "delta")}


def _fingerprints(r):
    names = LayerMap.from_json(r["layers"], 1).by_weight()
    weights = weights_of(r)
    shapes = {name: weights[name].shape for name in names}
    return {"structure": structure_fingerprint(shapes), "contents": contents_fingerprint(names, weights.get)}


def _merge(r):
    adapter, weights = adapter_of(r), weights_of(r)
    adapter.check_base({name: weight.shape for name, weight in weights.items()})
    same = adapter.same_contents(weights.get)
    adapter.merge(weights)
    return {"weights": pack_weights(weights), "same_contents": same}


answer = answering(
    "unilora_spec",
    {
        "keys": _keys, "mix": _mix, "permutation": _permutation, "inverse": _inverse, "index": _index,
        "members": _members, "scale": _scale, "initial": _initial, "expand": _expand, "adjoint": _adjoint,
        "read": _read, "write": _write, "delta_weight": _delta_weight, "fingerprints": _fingerprints, "merge": _merge,
    },
)  # fmt: skip
