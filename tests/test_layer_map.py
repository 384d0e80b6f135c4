"""SPEC chapter 7: segments, their parts of stored weights, and the compact form."""

import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, layer_maps

from unilora_spec import Adapter, BaseMismatch, LayerMap, LayerMapError, LimitError, Projection, Segment, check_fit
from unilora_spec.canonical_json import decode, encode

W = {"name": "w", "out": 2, "in": 3, "rank": 1}


def transformer(layers, rank=lambda layer: 4):
    return [
        Segment(f"encoder.layer.{i}.attention.self.{name}.weight", 384, 384, rank(i))
        for i in range(layers)
        for name in ("query", "value")
    ]


# Order and factors (SPEC 7.1, 7.2, 7.7)


@given(layer_maps())
@examples(100)
def test_segments_fill_theta_D_in_order(layer_map):
    end = 0
    for segment, offset in layer_map.placed():
        assert offset == end
        entries = (segment.in_features + segment.out_features) * segment.rank
        end += entries or segment.in_features * segment.out_features
    assert end == layer_map.D


def test_factors_are_A_then_B_row_by_row():
    A, B = Segment("w", out_features=2, in_features=3, rank=2).factors(np.arange(10))
    assert A.tolist() == [[0, 1, 2], [3, 4, 5]] and B.tolist() == [[6, 7], [8, 9]]
    (delta,) = Segment("w", out_features=2, in_features=3, rank=0).factors(np.arange(6))
    assert delta.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(("scaling", "expected"), [("lora", 16 / 3), ("rslora", 16 / 3**0.5)])
def test_scaling(scaling, expected):
    segment = Segment("w", 3, 3, rank=3)
    whole = Segment("v", 2, 2, rank=0)
    layer_map = LayerMap([segment, whole], 16, scaling)
    assert layer_map.factor_scale(segment) == np.float32(expected) and layer_map.factor_scale(whole) == 16
    assert (layer_map.bound, LayerMap([whole]).bound) == (0.02, 0)


# Parts of stored weights (SPEC 7.3 to 7.5)

ROWS = [Segment("w", out_features=out, in_features=3, rank=1, row=row) for row, out in ((0, 2), (3, 1))]
PARTS = {
    "linear": ((4, 3), [Segment("w", 4, 3, 1)], lambda w: [w]),
    "transposed": ((3, 4), [Segment("w", 4, 3, 1, transposed=True)], lambda w: [w.T]),
    "convolution": ((4, 3, 2, 2), [Segment("w", 4, 12, 1)], lambda w: [w.reshape(4, 12)]),
    "rows": ((5, 3), ROWS, lambda w: [w[0:2], w[3:4]]),
    "columns of a transposed": (
        (3, 5),
        [Segment("w", 2, 3, 1, transposed=True, row=r) for r in (0, 2)],
        lambda w: [w.T[0:2], w.T[2:4]],
    ),
    "stack": ((2, 4, 3), [Segment("w", 4, 3, 1, index=i) for i in (1, 0)], lambda w: [w[1], w[0]]),
    "rows of a transposed stack": (
        (2, 3, 5),
        [Segment("w", 2, 3, 1, transposed=True, row=1, index=1)],
        lambda w: [w[1].T[1:3]],
    ),
}


@pytest.mark.parametrize("rank", [1, 0])
@pytest.mark.parametrize("form", PARTS)
def test_merge_adds_to_the_part_alone(form, rank, monkeypatch):
    """Also where ΔW is added in bands of rows, of which those of rank 0 need a piece of θ_D each, and no more."""
    shape, segments, parts = PARTS[form]
    layer_map = LayerMap([replace(segment, rank=rank) for segment in segments], alpha=2)
    p = Projection(D=layer_map.D, d=3, seed=1)
    adapter = Adapter(p, layer_map, np.array([1, -2, 3], np.float32))
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = weight.copy()
    for (_, first, *B), part in zip(adapter.factors(), parts(expected), strict=True):
        part += np.float32(2) * (B[0] @ first if B else first)
    in_bands, asked = weight.copy(), []
    adapter.merge({"w": weight})
    # Every entry is two products, of rank 0 one, and one sum, which NumPy rounds alike whichever way the arrays lie.
    assert np.array_equal(weight, expected)
    expand = type(p).expand
    monkeypatch.setattr("unilora_spec.adapter.BAND", 1)  # each row is a band
    monkeypatch.setattr(
        type(p), "expand", lambda p, theta, start, stop: asked.append(stop - start) or expand(p, theta, start, stop)
    )
    adapter.merge({"w": in_bands})
    assert np.array_equal(in_bands, expected)
    assert sum(asked) == layer_map.D and (rank or set(asked) == {segments[0].in_features})


def test_merge_puts_saved_parameters_in_and_changes_nothing_where_one_does_not_fit():
    layer_map = LayerMap([Segment("w", 1, 1, 1)])
    adapter = Adapter(Projection(D=2, d=1, seed=0), layer_map, np.ones(1, np.float32), saved={"b": np.ones(2)})
    base = {"w": np.zeros((1, 1), np.float32), "b": np.zeros(2, np.float32)}
    for b in ({}, {"b": np.zeros(3, np.float32)}):
        with pytest.raises(BaseMismatch, match=r"parameter b of shape \[2\].*10\.3"):
            adapter.merge({"w": base["w"], **b})
        assert not base["w"].any()
    adapter.merge(base)
    assert base["w"].all() and base["b"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("segment", "shape"),
    [
        (Segment("w", 4, 3, 1), (3, 4)),
        (Segment("w", 4, 3, 1), (4,)),
        (Segment("w", 4, 3, 1), (2, 4, 3)),
        (Segment("w", 4, 3, 1), (5, 3)),
        (Segment("w", 4, 3, 1, transposed=True), (4, 3)),
        (Segment("w", 4, 12, 1, transposed=True), (4, 3, 2, 2)),
        (Segment("w", 4, 3, 1, row=2), (5, 3)),
        (Segment("w", 4, 3, 1, row=2), (6, 4)),
        (Segment("w", 4, 3, 1, index=2), (2, 4, 3)),
        (Segment("w", 4, 3, 1, index=0), (4, 3)),
        (Segment("w", 4, 12, 1, index=0), (2, 4, 3, 4)),
    ],
)
def test_weights_of_another_form_do_not_fit(segment, shape):
    with pytest.raises(BaseMismatch, match=r"the weight w has shape.*SPEC 10\.3") as refusal:
        check_fit(LayerMap([segment]), {"w": shape})
    assert str(list(shape)) in str(refusal.value)


def test_missing_weight_is_named():
    with pytest.raises(BaseMismatch, match=r"no weight v.*SPEC 10\.3"):
        check_fit(LayerMap([Segment("v", 1, 1, 1)]), {"w": (1, 1)})


# The compact form (SPEC 7.8, 7.9)


@given(layer_maps())
@examples(400)
def test_compact_form_round_trip(layer_map):
    text = encode(layer_map.to_json())
    again = LayerMap.from_json(decode(text), layer_map.alpha, layer_map.scaling)
    assert again == layer_map and hash(again) == hash(layer_map) and again.D == layer_map.D
    assert encode(again.to_json()) == text


@given(st.integers(2, 40), st.integers(0, 100))
@examples(20)
def test_layers_fold_into_one_run(count, first):
    segments = [Segment(f"h.{i}.w", 2, 3, 1) for i in range(first, first + count)]
    run = {"layers": [first, first + count], "prefix": "h.", "segments": [{"name": ".w", "out": 2, "in": 3, "rank": 1}]}
    assert LayerMap(segments).to_json() == [run]


def test_a_large_model_costs_hundreds_of_bytes():
    assert len(encode(LayerMap(transformer(32)).to_json())) < 300
    # 128 experts stacked in each of 32 layers: stacks inside of a run.
    stacks = [
        Segment(f"h.{i}.experts.{name}", 8, 8, 1, index=e) for i in range(32) for name in "ud" for e in range(128)
    ]
    assert len(encode(LayerMap(stacks).to_json())) < 300


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["a.1.w", "a.2.w"], [("a.", [1, 3], [".w"])]),
        (["a.9.w", "a.10.w"], [("a.", [9, 11], [".w"])]),
        (["1", "2", "3"], [("", [1, 4], [""])]),
        (["a.1.w", "a.3.w"], ["a.1.w", "a.3.w"]),  # a gap
        (["a.2.w", "a.1.w"], ["a.2.w", "a.1.w"]),  # the wrong way
        (["a.01.w", "a.02.w"], ["a.01.w", "a.02.w"]),  # not how a number is written
        (["a1.w", "a2.w"], ["a1.w", "a2.w"]),  # not a part of its own
        (["a.1w", "a.2w"], ["a.1w", "a.2w"]),
        (["a.9999999999.w", "a.10000000000.w"], ["a.9999999999.w", "a.10000000000.w"]),  # more than nine digits
        (["a.1.b.1", "a.1.b.2", "a.2.b.1", "a.2.b.2"], [("a.", [1, 3], [".b.1", ".b.2"])]),  # covers more
        (["a.1.b.1", "a.1.b.2"], [("a.1.b.", [1, 3], [""])]),
        (["a.1.x", "a.1.y", "a.2.x", "a.2.z"], ["a.1.x", "a.1.y", "a.2.x", "a.2.z"]),
        (["a.1.x", "a.1.y", "a.2.x", "a.2.y", "a.3.x"], [("a.", [1, 3], [".x", ".y"]), "a.3.x"]),
        (["a.1.x", "b", "a.2.x"], ["a.1.x", "b", "a.2.x"]),
    ],
)
def test_folding(names, folded):
    entries = LayerMap([Segment(name, 1, 1, 1) for name in names]).to_json()
    assert [
        (e["prefix"], e["layers"], [s["name"] for s in e["segments"]]) if "layers" in e else e["name"] for e in entries
    ] == folded


def test_stacks_fold_in_ascending_order_alone():
    segments = [Segment("w", 1, 1, 1, index=i) for i in (3, 4, 5, 1, 0, 7)]
    assert [entry["index"] for entry in LayerMap(segments).to_json()] == [[3, 6], 1, 0, 7]


def test_folding_time_is_linear_in_what_does_not_fold():
    one_head = LayerMap([Segment(f"a.0.x{i}", 1, 1, 1) for i in range(65_536)])
    late = LayerMap([Segment(f"a.{i // 32_768}.x{i % 32_768}", 1, 1, int(i < 65_535)) for i in range(65_536)])
    begin = time.perf_counter()
    assert len(one_head.to_json()) == len(late.to_json()) == 65_536
    assert time.perf_counter() - begin < 20  # about 1 s; quadratic would be hours


# Refusals


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": 3}, "name"),
        ({"name": "é" * 257}, "name"),
        ({"out_features": 0}, "out_features"),
        ({"in_features": -1}, "in_features"),
        ({"rank": -1}, "rank"),
        ({"rank": 1.0}, "rank"),
        ({"rank": True}, "rank"),
        ({"rank": 2**40}, "rank"),
        ({"row": -1}, "row"),
        ({"index": "0"}, "index"),
        ({"transposed": 1}, "transposed"),
    ],
)
def test_segment_refusals(values, field):
    with pytest.raises(LayerMapError, match=field) as refusal:
        Segment(**({"name": "w", "out_features": 1, "in_features": 1, "rank": 1} | values))
    assert refusal.value.rule == "7.2"


@pytest.mark.parametrize(
    ("segments", "options", "rule"),
    [
        ([], {}, "7.1"),
        ([Segment(f"w{i}", 1, 1, 1) for i in range(65_537)], {}, "7.1"),
        ([Segment(f"{i:0500}", 1, 1, 1) for i in range(8_389)], {}, "7.1"),  # 2^22 bytes of names are 8,388 of these
        ([Segment("w", 2**39, 2**39, 2)], {}, "1.1"),
        ([Segment("w", 3, 2, 3)], {}, "7.11"),
        ([Segment("w", 2, 3, 3)], {}, "7.11"),
        ([Segment("w", 2, 3, 2), Segment("w", 1, 3, 2, row=2)], {}, "7.11"),  # of its own rows
        ([Segment("w", 1, 1, 1)], {"alpha": 0}, "7.7"),
        ([Segment("w", 1, 1, 1)], {"alpha": 9.9e-5}, "7.7"),
        ([Segment("w", 1, 1, 1)], {"alpha": 2**20 + 1}, "7.7"),
        ([Segment("w", 1, 1, 1)], {"alpha": float("nan")}, "7.7"),
        ([Segment("w", 1, 1, 1)], {"scaling": "none"}, "7.7"),
        ([Segment("w", 1, 1, 1)] * 2, {}, "7.6"),
        ([Segment("w", 2, 1, 1, row=0), Segment("w", 2, 1, 1, row=1)], {}, "7.6"),
        ([Segment("w", 2, 1, 1, row=0), Segment("w", 2, 1, 1)], {}, "7.6"),
        ([Segment("w", 2, 1, 1, row=0), Segment("w", 2, 2, 1, row=2)], {}, "7.6"),
        ([Segment("w", 2, 2, 1, row=0), Segment("w", 2, 2, 1, row=2, transposed=True)], {}, "7.6"),
        ([Segment("w", 2, 1, 1, index=0), Segment("w", 2, 1, 0, index=0)], {}, "7.6"),
        ([Segment("w", 2, 1, 1, index=0), Segment("w", 3, 1, 1, index=1)], {}, "7.6"),
        ([Segment("w", 2, 1, 1, index=0), Segment("w", 2, 1, 1)], {}, "7.6"),
    ],
)
def test_layer_map_refusals(segments, options, rule):
    with pytest.raises(LimitError if rule == "1.1" else LayerMapError) as refusal:
        LayerMap(segments, **options)
    assert refusal.value.rule == rule


def test_limits_themselves_are_allowed():
    assert LayerMap([Segment("w", 2**39, 2**39, 1)], 2**20).D == 2**40
    touching = [Segment("w", 2, 1, 1, row=0), Segment("w", 1, 1, 1, row=2), Segment("é" * 256, 1, 1, 1)]
    assert len(LayerMap(touching, 1e-4)) == 3
    last = LayerMap([Segment("w", 1, 1, 1, index=2**40 - i) for i in (2, 1)])
    assert LayerMap.from_json(last.to_json(), 1) == last


@pytest.mark.parametrize(
    ("entries", "rule"),
    [
        ({}, "7.8"),
        ("w", "7.8"),
        ([3], "7.8"),
        ([[W]], "7.8"),
        ([{}], "7.8"),
        ([{**W, "extra": 1}], "7.8"),
        ([{key: W[key] for key in ("name", "out", "in")}], "7.8"),
        ([{**W, "name": 5}], "7.2"),
        ([{**W, "rank": 1.0}], "7.2"),
        ([{**W, "index": [0, 1]}], "7.8"),
        ([{**W, "index": [2, 1]}], "7.8"),
        ([{**W, "index": [0, 2, 4]}], "7.8"),
        ([{**W, "index": [0, True]}], "7.8"),
        ([{**W, "index": [-1, 3]}], "7.8"),
        ([{**W, "index": [0, 2**40 + 1]}], "7.8"),
        ([{**W, "index": [0, 65_537]}], "7.1"),
        ([{"layers": [0, 2], "prefix": "", "segments": []}], "7.8"),
        ([{"layers": [0, 2], "prefix": "", "segments": W}], "7.8"),
        ([{"layers": [0, 2], "prefix": 1, "segments": [W]}], "7.8"),
        ([{"layers": [0, 2], "segments": [W]}], "7.8"),
        ([{"layers": [0, 2], "prefix": "", "segments": [W], "more": 1}], "7.8"),
        ([{"layers": 2, "prefix": "", "segments": [W]}], "7.8"),
        ([{"layers": [0, 1], "prefix": "", "segments": [W]}], "7.8"),
        ([{"layers": [0, 65_537], "prefix": "", "segments": [W]}], "7.1"),
        ([{"layers": [0, 2**40], "prefix": "", "segments": [{**W, "index": [0, 2**40]}]}], "7.1"),
        ([{"layers": [0, 2], "prefix": "", "segments": [{"out": 1, "in": 1, "rank": 1}]}], "7.8"),
        ([{"layers": [0, 2], "prefix": "", "segments": [{"layers": [0, 2], "prefix": "", "segments": [W]}]}], "7.8"),
        ([{"layers": [0, 60_000], "prefix": "x" * 10**6, "segments": [W]}], "7.2"),
        ([W, W], "7.6"),
    ],
)
def test_compact_form_refusals_cost_nothing(entries, rule):
    tracemalloc.start()
    with pytest.raises(LayerMapError) as refusal:
        LayerMap.from_json(entries, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refusal.value.rule == rule
    assert peak < 8 * 2**20  # the prefix of a million bytes and a few copies of it; what is asked for would be TiB
