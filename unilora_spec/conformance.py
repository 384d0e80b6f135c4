"""The NumPy reference as an implementation that the conformance tests ask.

``python -m conformance_tests --impl unilora_spec.conformance``
"""

import base64
import math
from typing import Any

import numpy as np

from . import canonical_json, rest
from .adapter import Adapter, contents_fingerprint, structure_fingerprint
from .errors import FileError
from .layer_map import LayerMap
from .permutation import Permutation, keys, mix
from .protocol import (
    adapter_of,
    answering,
    array_of,
    field_of,
    gather_of,
    pack,
    pack_delta_weight,
    pack_weights,
    projection_of,
    segment_of,
    unpack,
    weights_of,
)
from .serialization import SAVED, check_tensor, decode, describe, encode, is_canonical, parse


def _keys(r: dict[str, Any]) -> dict[str, Any]:
    return {"keys": pack(keys(int(r["seed"]), 10), "keys")}


def _mix(r: dict[str, Any]) -> dict[str, Any]:
    return {"mixed": pack(mix(unpack(r["words"], "words"), r["key"]), "mixed")}


def _permutation(r: dict[str, Any]) -> dict[str, Any]:
    return {"y": pack(Permutation(r["D"], int(r["seed"]))(unpack(r["x"], "x")), "y")}


def _inverse(r: dict[str, Any]) -> dict[str, Any]:
    return {"x": pack(Permutation(r["D"], int(r["seed"])).inverse(unpack(r["y"], "y")), "x")}


def _index(r: dict[str, Any]) -> dict[str, Any]:
    return {"index": pack(gather_of(r).index(r["start"], r["stop"]), "index")}


def _members(r: dict[str, Any]) -> dict[str, Any]:
    p = gather_of(r)
    counts = p.counts(r["start"], r["stop"])
    columns = [p.members(j) for j in range(r["start"], r["stop"])]
    return {"counts": pack(counts, "counts"), "members": pack(np.concatenate([[], *columns]), "members")}


def _scale(r: dict[str, Any]) -> dict[str, Any]:
    return {"scale": pack(gather_of(r).scale(r["start"], r["stop"]), "scale")}


def _initial(r: dict[str, Any]) -> dict[str, Any]:
    layer_map = LayerMap.from_json(r["layers"], 1) if "layers" in r else None
    return {"theta": pack(projection_of(r).initial(layer_map, r["bound"]), "theta")}


def _expand(r: dict[str, Any]) -> dict[str, Any]:
    return {"theta_D": pack(projection_of(r).expand(unpack(r["theta"], "theta"), r["start"], r["stop"]), "theta_D")}


def _adjoint(r: dict[str, Any]) -> dict[str, Any]:
    p = projection_of(r)
    start, stop = p.range_of(r["start"], r["stop"], p.D)
    theta = array_of(r, "theta", p.d) if "theta" in r else None
    return {"theta": pack(p.adjoint(array_of(r, "g", stop - start), start, theta), "theta")}


def _read(r: dict[str, Any]) -> dict[str, Any]:
    data = base64.b64decode(r["file"])
    return read_answer(decode(data), data)


def read_answer(adapter: Adapter, data: bytes) -> dict[str, Any]:
    """The answer to ``read``, of an adapter that a file with these bytes holds."""
    values = {"theta": adapter.theta} | {SAVED + name: value for name, value in adapter.saved.items()}
    tensors = {
        name: {"dtype": adapter.dtypes.get(name, "F32"), "shape": value.shape, "values": pack(value, "values")}
        for name, value in values.items()
    }
    p = adapter.projection
    for name, value in p.tensors.items():
        field = field_of(p.stored[name])
        tensors[name] = {"dtype": p.stored[name], "shape": value.shape, field: pack(value, field)}
    description = canonical_json.encode(describe(adapter)).decode("utf-8")
    return {"description": description, "tensors": tensors, "canonical": is_canonical(adapter, data)}


def _write(r: dict[str, Any]) -> dict[str, Any]:
    tensors = dict(r["tensors"])

    def own(name: str, dtype: str) -> np.ndarray:
        if tensors.get(name, {}).get("dtype") != dtype:
            raise FileError(f"there is no tensor {name} of {dtype}", "8.3")
        return _shaped(name, tensors.pop(name), field_of(dtype))

    projection, layer_map, base = parse(r["description"], own)
    values, dtypes = {}, {}
    for name, tensor in tensors.items():
        check_tensor(name, tensor["dtype"])
        dtypes[name] = tensor["dtype"]
        values[name] = _shaped(name, tensor, "values")
    if "theta" not in values:
        raise FileError("there is no tensor theta", "8.3")
    theta = values.pop("theta")
    saved = {name.removeprefix(SAVED): value for name, value in values.items()}
    return {"file": pack(encode(Adapter(projection, layer_map, theta, base, saved, dtypes)), "file")}


def _shaped(name: str, tensor: dict[str, Any], field: str) -> np.ndarray:
    numbers, shape = unpack(tensor[field], field), tensor["shape"]
    if len(numbers) != math.prod(shape):
        raise FileError(f"{name} has {len(numbers)} numbers, and its shape {shape} says another count", "8.2")
    return numbers.reshape(shape)


def _delta_weight(r: dict[str, Any]) -> dict[str, Any]:
    adapter = adapter_of(r)
    segment, *factors = segment_of(r, adapter, adapter.factors())
    _, delta = segment_of(r, adapter, adapter.delta_weights())
    return pack_delta_weight(segment, factors, delta)


def _fingerprints(r: dict[str, Any]) -> dict[str, Any]:
    names = LayerMap.from_json(r["layers"], 1).by_weight()
    weights = weights_of(r)
    shapes = {name: weights[name].shape for name in names}
    return {"structure": structure_fingerprint(shapes), "contents": contents_fingerprint(names, weights.__getitem__)}


def _rest(r: dict[str, Any]) -> dict[str, Any]:
    tensors = list(rest.of_arrays(weights_of(r)))
    return {"rest": rest.fingerprint(tensors), "differ": rest.differing(r["record"], tensors)}


def _merge(r: dict[str, Any]) -> dict[str, Any]:
    adapter, weights = adapter_of(r), weights_of(r)
    adapter.check_base({name: weight.shape for name, weight in weights.items()})
    same = adapter.same_contents(weights.__getitem__)
    adapter.merge(weights)
    return {"weights": pack_weights(weights), "same_contents": same}


answer = answering(
    "unilora_spec",
    {
        "keys": _keys, "mix": _mix, "permutation": _permutation, "inverse": _inverse, "index": _index,
        "members": _members, "scale": _scale, "initial": _initial, "expand": _expand, "adjoint": _adjoint,
        "read": _read, "write": _write, "delta_weight": _delta_weight, "fingerprints": _fingerprints, "rest": _rest,
        "merge": _merge,
    },
)  # fmt: skip
