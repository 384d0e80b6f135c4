"""The base that an adapter belongs to (SPEC 10)."""

from .. import hostile
from ..oracle import files
from .case import vector


def base():
    weights = {
        "w": {"shape": [2, 3], "values": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]},
        "é": {"shape": [1, 2, 1], "values": [-0.0, 2.0**-149]},
    }
    plain = {name: (weight["shape"], weight["values"]) for name, weight in weights.items()}
    layers = [{"name": "é", "out": 1, "in": 2, "rank": 1}, {"name": "w", "out": 2, "in": 3, "rank": 1}]
    structure, contents = files.fingerprints(layers, plain)
    expected = {"structure": structure, "contents": contents}
    yield vector(
        "10.1", "two weights, one of them of three dimensions", "fingerprints", expected, layers=layers, weights=weights
    )
    w = {"shape": [2, 3], "values": [1.0] * 6}
    for comment, given in (
        ("the weight is missing", {"b": {"shape": [1], "values": [0.0]}}),
        ("the weight is turned", {"w": w | {"shape": [3, 2]}, "b": {"shape": [1], "values": [0.0]}}),
        ("the saved parameter is missing", {"w": w}),
        ("the saved parameter has another shape", {"w": w, "b": {"shape": [1, 1], "values": [0.0]}}),
    ):
        yield vector("10.3", comment, "merge", refused=["10.3"], file=hostile.TINY, weights=given)
