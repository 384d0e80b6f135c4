"""What a Python implementation needs to answer the conformance tests (conformance_tests/PROTOCOL.md).

An implementation is a module with ``answer``, which ``answering`` makes of a function for each request.
"""

import base64
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .adapter import Adapter
from .errors import KindError, LimitError, UniLoraError
from .gather import Gather
from .layer_map import LayerMap
from .projection import KINDS, Projection, kind_named
from .segment import Segment
from .serialization import decode

VERSION = "1"
SMALL = 2**20  # entries of θ_D: up to so many are made whole where a slice is asked, of more the slice alone
TYPES = {
    "keys": "<u4", "words": "<u4", "mixed": "<u4", "x": "<i8", "y": "<i8", "index": "<i8", "counts": "<i8", "members": "<i8", "scale": "<f4", "theta": "<f4",
    "frozen": "<f4",
    "theta_D": "<f4", "g": "<f4", "A": "<f4", "B": "<f4", "delta": "<f4", "values": "<f4", "file": "u1",
}  # fmt: skip
"""The element type of each array of the protocol, by its field."""


def unpack(text: str, field: str) -> np.ndarray:
    """The array of a field of a request."""
    return np.frombuffer(base64.b64decode(text), TYPES[field])


def field_of(dtype: str) -> str:
    """The field that holds the numbers of a file's tensor."""
    return "index" if dtype == "I32" else "values"


def pack(array: Any, field: str) -> str:
    """An array, or the bytes of a file, as a field of an answer."""
    data = array if isinstance(array, bytes | bytearray) else np.ascontiguousarray(array, TYPES[field]).data
    return base64.b64encode(data).decode()


def projection_of(request: dict[str, Any]) -> Projection:
    """The projection that a request names."""
    p = request["projection"]
    of_kind = kind_named(p["kind"])
    tensors = {name: unpack(p[name], name) for name in of_kind.stored}
    layer_map = LayerMap.from_json(p["layers"], 1) if of_kind.layered else None
    options = {name: p[name] for name in of_kind.known_options}
    return Projection(  # type: ignore[abstract]  # the kind says of which class it is
        p["kind"], D=p["D"], d=p["d"], seed=int(p["seed"]), layer_map=layer_map, tensors=tensors, **options
    )


def gather_of(request: dict[str, Any]) -> Gather:
    """The projection that a request names, where it asks for rows or columns. Raises ``KindError`` for a kind that has none (SPEC 9.3)."""
    projection = projection_of(request)
    if not isinstance(projection, Gather):
        raise KindError(f"kind {projection.kind} has no index: an entry depends on more than one trained number", "9.3")
    return projection


def array_of(request: dict[str, Any], field: str, length: int) -> np.ndarray:
    """The array of a field, which must have this length (SPEC 1.3)."""
    array = unpack(request[field], field)
    if len(array) != length:
        raise LimitError(f"{field} has {len(array)} entries; it must have {length}", "1.3")
    return array


def adapter_of(request: dict[str, Any]) -> Adapter:
    """The adapter in a request's file."""
    return decode(base64.b64decode(request["file"]))


def segment_of(request: dict[str, Any], adapter: Adapter, items: Iterable[Any]) -> Any:
    """The one of ``items`` that belongs to the segment whose number the request names; they are in the order of the segments."""
    k, count = request["segment"], len(adapter.layer_map)
    if not 0 <= k < count:
        raise LimitError(f"segment {k} is not in [0, {count})", "1.3")
    return next(itertools.islice(items, k, None))


def weights_of(request: dict[str, Any]) -> dict[str, np.ndarray]:
    """The weights of a request by name, as copies that may be changed."""
    return {name: unpack(w["values"], "values").reshape(w["shape"]).copy() for name, w in request["weights"].items()}


def pack_delta_weight(segment: Segment, factors: Sequence[Any], delta: np.ndarray) -> dict[str, Any]:
    """The answer to ``delta_weight``, of the segment's ``factors`` and ΔW. A and B are empty where its rank is 0."""
    A, B = factors if segment.rank else ([], [])
    return {"A": pack(A, "A"), "B": pack(B, "B"), "delta": pack(delta, "delta")}


def pack_weights(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
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


def answering(
    name: str, requests: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]], kinds: Iterable[str] = KINDS
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The function ``answer`` of an implementation that has a function for each of its ``requests``, and these ``kinds``.

    It answers ``describe`` itself; a refusal of the specification is an answer too.
    """
    description = {"name": name, "version": VERSION, "requests": ["describe", *requests], "kinds": list(kinds)}

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request of PROTOCOL.md."""
        try:
            return description if request["request"] == "describe" else requests[request["request"]](request)
        except UniLoraError as error:
            return {"refused": error.rule, "message": error.message}

    return answer


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answers each line of standard input with ``answer``'s dictionary. What ``answer`` prints goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)
        for line in sys.stdin.buffer:
            output.write(json.dumps(answer(json.loads(line))) + "\n")
            output.flush()
