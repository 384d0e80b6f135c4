"""The torch backend and the exported functions, asked as the conformance tests ask them, beside the NumPy reference."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import adapters, examples, projections

from unilora_spec import Projection
from unilora_spec import conformance as reference
from unilora_spec.serialization import encode

pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")

import backends.torch.conformance as of_torch
import export.conformance as of_export

IMPLEMENTATIONS = {"torch": of_torch.answer, "export": of_export.answer}
both = pytest.mark.parametrize("answer", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
SPECIAL = np.array([0, -0.0, 1, 2**-149, -(2**-149), 2**-126, 1.1754942e-38, 3.4028235e38, -3.4028235e38], np.float32)


@pytest.fixture(autouse=True)
def denormals_are_kept():
    """An implementation that makes this thread flush them makes the reference flush them too, and would seem right."""
    yield
    assert np.float32(2**-149) * np.float32(1) > 0


def json_of(p):
    return {"kind": p.kind, "seed": str(p.seed), "d": p.d, "D": p.D}


@st.composite
def slices(draw, most=300):
    """A projection, the request that names it and a slice of it, and a way to fill vectors."""
    p = draw(projections(most=most))
    start = draw(st.integers(0, p.D))
    stop = draw(st.integers(start, p.D))
    return p, {"projection": json_of(p), "start": start, "stop": stop}, np.random.default_rng(draw(st.integers(0, 99)))


def vector(random, length, values=SPECIAL):
    """float32[length], half of it special, half of every size."""
    chance = random.normal(size=length) * 10.0 ** random.integers(-44, 37, length)
    return np.where(random.random(length) < 0.5, random.choice(values, length), chance).astype(np.float32)


def assert_same(answer, request, fields, **arrays):
    """The same answer as the reference's, to the bit, or a refusal by the same rule."""
    request = {"request": request, **fields, **{name: reference.pack(value, name) for name, value in arrays.items()}}
    actual, expected = answer(request), reference.answer(request)
    assert {**actual, "message": ""} == {**expected, "message": ""}
    return expected


def assert_adjoint(answer, p, fields, g):
    """Within the bound of SPEC 6.3, which leaves room for the one rounding of the reference beside it."""
    request = {"request": "adjoint", **fields, "g": reference.pack(g, "g")}
    actual, expected = (reference.unpack(one(request)["theta"], "theta") for one in (answer, reference.answer))
    sums = np.zeros(p.d)
    np.add.at(sums, p.index(fields["start"], fields["stop"]), np.abs(g).astype(np.float64))
    bound = p.counts() * 2.0**-23 * p.scale() * sums + 2.0**-149
    assert (np.abs(actual.astype(np.float64) - expected) <= bound).all()


@both
@examples(60)
@given(slices())
def test_expand_gives_the_bits_of_the_reference(answer, asked):
    p, fields, random = asked
    assert_same(answer, "expand", fields, theta=vector(random, p.d))
    assert_same(answer, "index", fields)


@examples(60)
@given(slices())
def test_adjoint_is_within_its_bound(asked):
    p, fields, random = asked
    g = vector(random, fields["stop"] - fields["start"], SPECIAL[:-2])  # their sums stay finite in float32
    assert_adjoint(of_torch.answer, p, fields, g)


@both
@pytest.mark.parametrize("kind", ["balanced", "uniform", "identity"])
@pytest.mark.parametrize("D", [2**31 - 1, 2**32 + 1, 2**40])
def test_index_of_any_slice(answer, kind, D):
    d = min(D, 2**31 - 1)
    p = {"kind": kind, "seed": "42", "d": d, "D": d if kind == "identity" else D}
    for start in (0, p["D"] // 2, p["D"] - 20):
        assert_same(answer, "index", {"projection": p, "start": start, "stop": start + 20})


@pytest.mark.parametrize("D", [1, 2, 10, 2**20 + 1, 2**40 - 2**20, 2**40])
def test_permutation_and_mix_in_a_graph(D):
    x = np.random.default_rng(D).integers(0, D, 50)
    for entries in (x, x[:0], [D - 1]):
        assert_same(of_export.answer, "permutation", {"seed": str(D), "D": D}, x=entries)
    words = np.append(np.random.default_rng(D).integers(0, 2**32, 50), [0, 2**31, 2**32 - 1])
    for key in (0, D % 2**32, 2**32 - 1):
        assert_same(of_export.answer, "mix", {"key": key}, words=words)


@both
def test_refusals_are_those_of_the_specification(answer):
    good = {"projection": {"kind": "balanced", "seed": "42", "d": 2, "D": 5}, "start": 1, "stop": 4}
    two, three = np.ones(2), np.ones(3)
    asked = [("expand", good, {"theta": np.ones(n)}, "1.3") for n in (0, 1, 3)]
    asked += [("adjoint", good, {"g": np.ones(n)}, "1.3") for n in (0, 1, 5)]
    asked += [("permutation", {"seed": "1", "D": 10}, {"x": [x]}, "1.3") for x in (-1, 10, 2**63 - 1)]
    for wrong in ({"start": -1}, {"stop": 6}, {"start": 3, "stop": 2}):
        fields = good | wrong
        asked += [("expand", fields, {"theta": two}, "1.3"), ("adjoint", fields, {"g": three}, "1.3")]
        asked += [("index", fields, {}, "1.3")]
    for field, value, rule in (("kind", "x", "9.1"), ("seed", str(2**64), "1.2"), ("d", 6, "1.1"), ("D", 2**41, "1.1")):
        asked.append(("index", good | {"projection": good["projection"] | {field: value}}, {}, rule))
    supported = answer({"request": "describe"})["requests"]
    for request, fields, arrays, rule in asked:
        if request in supported:
            assert assert_same(answer, request, fields, **arrays)["refused"] == rule


def assert_close(actual, expected):
    """Sums of up to 5 products in another order, a rounding of 2^-24 each, which may cancel down to a tenth and less."""
    largest = float(np.max(np.abs(expected), initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * largest)


@both
@examples(40)
@given(adapters(), st.integers(0, 99), st.booleans())
def test_merged_weights(answer, adapter, seed, fits):
    random = np.random.default_rng(seed)
    adapter = replace(adapter, theta=random.normal(size=adapter.projection.d).astype(np.float32), base=None, dtypes={})
    shapes = {"another": (2, 3)} | {name: value.shape for name, value in adapter.saved.items()}
    for name, segments in adapter.layer_map.by_weight().items():
        first = segments[0]
        out = max((s.row or 0) + s.out_features for s in segments) + (first.row is not None)
        shape = (first.in_features, out) if first.transposed else (out, first.in_features)
        if first.index is not None:
            shape = (max(s.index for s in segments) + 2, *shape)
        elif not first.transposed and first.in_features % 2 == 0 and random.random() < 0.5:
            shape = (out, first.in_features // 2, 2)  # a convolution
        shapes[name] = shape
    if not fits:
        del shapes[random.choice([name for name in shapes if name != "another"])]
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    file = reference.pack(np.frombuffer(encode(adapter), "u1"), "file")
    request = {"request": "merge", "file": file, "weights": reference.pack_weights(weights)}
    actual, expected = answer(request), reference.answer(request)
    if not fits:
        assert actual["refused"] == expected["refused"] == "10.3"
        return
    assert actual.keys() == expected.keys() and actual["same_contents"] == expected["same_contents"]
    actual, expected = reference.weights_of(actual), reference.weights_of(expected)
    for name, value in expected.items():
        assert_close(actual[name], value)
    for k in {0, len(adapter.layer_map) - 1, len(adapter.layer_map)}:
        request = {"request": "delta_weight", "file": file, "segment": k}
        actual, expected = answer(request), reference.answer(request)
        if k == len(adapter.layer_map):
            assert actual["refused"] == expected["refused"] == "1.3"
            continue
        assert (actual["A"], actual["B"]) == (expected["A"], expected["B"])
        assert_close(*(reference.unpack(one["delta"], "delta") for one in (actual, expected)))


@pytest.mark.skipif(not shutil.which("g++"), reason="torch's default compiler writes C++, and there is no g++ here")
def test_compiled_expand_and_adjoint():
    answer = of_torch.implementation("compiled", of_torch.compiled_expand())
    random = np.random.default_rng(0)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for d, n in [(3, 3), (3, 7), (3, 1), (3, 0), (1, 1), (1, 0), (1, 40), (70, 70_000), (2, 2)]:
            p = Projection(kind="uniform", D=n + 5, d=d, seed=42)
            fields = {"projection": json_of(p), "start": 2, "stop": 2 + n}
            assert_same(answer, "expand", fields, theta=vector(random, d))
            assert_adjoint(answer, p, fields, vector(random, n, SPECIAL[:-2]))
