"""SPEC chapter 10: fingerprints, and what an adapter is not put onto."""

import copy

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from conformance_tests import hostile
from conformance_tests.oracle import files
from conformance_tests.rules import check
from conformance_tests.spelling import canonical
from conformance_tests.strategies import few, floats, layer_maps, moderate, names, vectors

from .test_07_layer_map import base_of, small_adapters

OF_A_DTYPE = st.sampled_from([floats, moderate, floats.map(lambda x: files.rounded(x, "BF16")).filter(np.isfinite)])


def plain(weights):
    return {name: (weight["shape"], list(weight["values"])) for name, weight in weights.items()}


@check("10.1", "10.2", needs="fingerprints")
@given(st.data())
def test_fingerprints(judge, data):
    """The SHA-256 of the adapted weights' names and shapes, and of their values, in the order of their names."""
    segments = data.draw(layer_maps())
    weights = base_of(data.draw, segments)
    for weight in weights.values():
        weight["values"] = data.draw(vectors(len(weight["values"]), floats))
    structure, contents = files.fingerprints(segments, plain(weights))
    expected = {"structure": structure, "contents": contents}
    judge.gives(expected, "fingerprints", layers=files.fold(segments), weights=weights)


def adapter_and_base(judge, data):
    """A description, its tensors but for saved ones, and weights that fit."""
    description, tensors = data.draw(small_adapters(judge.kinds, base=st.none()))
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("saved.")}
    return description, tensors, base_of(data.draw, description["layers"])


@check("10.3", needs="merge")
@few()
@given(st.data())
def test_base_on_record(judge, data):
    """Another structure than the one on record is refused; other contents are reported, and merged."""
    description, tensors, weights = adapter_and_base(judge, data)
    structure, contents = files.fingerprints(description["layers"], plain(weights))

    def ask(case):
        record, expected = case
        base = {"name": "b", "structure": record[0], "contents": record[1]}
        fields = {"file": canonical(description | {"base": base}, tensors), "weights": weights}
        if expected is None:
            judge.refuses("10.3", "merge", **fields)
        else:
            judge.gives({"same_contents": expected}, "merge", **fields)

    judge.each(
        (((structure, contents), True), ((structure, "0" * 32), False), (("0" * 32, contents), None)),
        ask,
    )


@check("10.3", needs="merge")
@few()
@given(st.data())
def test_base_that_does_not_fit(judge, data):
    """A weight that is missing, or has other dimensions than its segments, is refused."""
    description, tensors, weights = adapter_and_base(judge, data)
    s = data.draw(st.sampled_from(description["layers"]))
    name, shape = s["name"], weights[s["name"]]["shape"]
    rows, columns = (-1, -2) if s.get("transposed") else (1, 2) if "index" in s else (0, 1)
    wrong = {
        "missing": None,
        "one dimension": [int(np.prod(shape))],
        "columns": [n + (axis == columns % len(shape)) for axis, n in enumerate(shape)],
        "rows": [n - (axis == rows % len(shape)) for axis, n in enumerate(shape)],
        "another axis": [1, *shape] if "index" in s or s.get("transposed") else None,
        "turned": shape[::-1] if len(shape) == 2 and shape[0] != shape[1] and "row" not in s else None,
    }
    if "row" in s:  # rows beyond those of the segments may be there, so take all but the first of them away
        wrong["rows"] = [1 if axis == rows % len(shape) else n for axis, n in enumerate(shape)]
        if s["row"] + s["out"] <= 1:
            del wrong["rows"]
    if "index" in s:
        wrong["stack"] = [s["index"], *shape[1:]]

    def ask(fault):
        changed, other = copy.deepcopy(weights), wrong[fault]
        if other is None:
            del changed[name]
        else:
            changed[name] = {"shape": other, "values": np.zeros(int(np.prod(other)), np.float32)}
        judge.refuses({"7.4", "10.3"}, "merge", file=canonical(description, tensors), weights=changed)

    judge.each([fault for fault in wrong if wrong[fault] is not None or fault == "missing"], ask, str)


@check("10.3", needs="merge")
def test_saved_parameters_that_do_not_fit(judge):
    """A saved parameter that the base does not have, or has with another shape, is refused."""
    w = {"shape": [2, 3], "values": [1.0] * 6}
    saved = ({}, {"b": {"shape": [2], "values": [0.0] * 2}}, {"b": {"shape": [1, 1], "values": [0.0]}})
    judge.each(saved, lambda b: judge.refuses("10.3", "merge", file=hostile.TINY, weights={"w": w} | b))


@check("10.5", "10.6", needs="rest")
@given(st.data())
def test_rest(judge, data):
    """A few values of each tensor, as they are in both short forms; and which groups differ from a record."""
    sizes = st.integers(0, 3) | st.sampled_from([1, 63, 64, 65, 200])
    weights = {
        name: {
            "shape": [2, n] if n % 2 == 0 else [n],
            "values": data.draw(vectors(2 * n if n % 2 == 0 else n, data.draw(OF_A_DTYPE))),
        }
        for name in data.draw(st.lists(names, max_size=6, unique=True))
        for n in [data.draw(sizes)]
    }
    entries = files.rest(plain(weights))
    record = "".join(sorted(entries.values()))
    changed = data.draw(
        st.just(record) | st.just("") | st.sampled_from("0123456789abcdef").map(lambda c: record.replace(c, "0"))
    )
    expected = {"rest": record, "differ": files.differ(entries, changed)}
    judge.gives(expected, "rest", weights=weights, record=changed)
