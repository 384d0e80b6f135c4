"""The NumPy reference as an implementation that the conformance tests ask (conformance_tests/PROTOCOL.md).

``python -m conformance_tests --impl unilora_spec.conformance``
"""

import base64
import itertools

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
    """An array as a field of an answer."""
    return base64.b64encode(np.ascontiguousarray(array, TYPES[field])).decode()


def projection_of(request: dict) -> Projection:
    """The projection that a request names."""
    p = request["projection"]
    return Projection(p["kind"], D=p["D"], d=p["d"], seed=int(p["seed"]))


def answer(request: dict) -> dict:
    """The answer to one request; a refusal of the specification is an answer too."""
    try:
        return REQUESTS[request["request"]](request)
    except UniLoraError as error:
        return {"refused": error.rule, "message": error.message}


def _describe(r):
    return {"name": "unilora_spec", "version": VERSION, "requests": sorted(REQUESTS), "kinds": list(KINDS)}


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
    p, g = projection_of(r), unpack(r["g"], "g")
    start, stop = p.range_of(r["start"], r["stop"], p.D)
    if len(g) != stop - start:
        raise LimitError(f"g has {len(g)} entries; the slice has {stop - start}", "1.3")
    return {"theta": pack(p.adjoint(g, start), "theta")}


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
    return {
        "file": pack(np.frombuffer(encode(Adapter(projection, layer_map, theta, base, saved, dtypes)), "u1"), "file")
    }


def _delta_weight(r):
    adapter, k = decode(base64.b64decode(r["file"])), r["segment"]
    if not 0 <= k < len(adapter.layer_map):
        raise LimitError(f"segment {k} is not in [0, {len(adapter.layer_map)})", "1.3")
    _, A, B = next(itertools.islice(adapter.factors(), k, None))
    _, delta = next(itertools.islice(adapter.delta_weights(), k, None))
    return {"A": pack(A, "A"), "B": pack(B, "B"), "delta": pack(delta, "delta")}


def _fingerprints(r):
    names = LayerMap.from_json(r["layers"], 1).by_weight()
    weights = _weights(r)
    shapes = {name: weights[name].shape for name in names}
    return {"structure": structure_fingerprint(shapes), "contents": contents_fingerprint(names, weights.get)}


def _merge(r):
    adapter, weights = decode(base64.b64decode(r["file"])), _weights(r)
    adapter.check_base({name: weight.shape for name, weight in weights.items()})
    same = adapter.same_contents(weights.get)
    adapter.merge(weights)
    merged = {name: {"shape": weight.shape, "values": pack(weight, "values")} for name, weight in weights.items()}
    return {"weights": merged, "same_contents": same}


def _weights(r):
    return {name: unpack(w["values"], "values").reshape(w["shape"]).copy() for name, w in r["weights"].items()}


REQUESTS = {
    "describe": _describe, "keys": _keys, "mix": _mix, "permutation": _permutation, "inverse": _inverse, "index": _index,
    "members": _members, "scale": _scale, "initial": _initial, "expand": _expand, "adjoint": _adjoint, "read": _read,
    "write": _write, "delta_weight": _delta_weight, "fingerprints": _fingerprints, "merge": _merge,
}  # fmt: skip
