"""Values of θ_D, limits and kinds (SPEC 1, 6, 9)."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from projections import LARGEST, dense, of, same_bits, table
from strategies import OF_NUMBERS, examples, finite, projection, projections, seeds

from conformance_tests.oracle import arithmetic
from unilora_spec import KindError, LayerMap, LimitError, Projection, Segment

# Values (SPEC 6)


@given(projections(), st.data())
@examples(100)
def test_expand_gives_the_naive_bits(p, data):
    theta = np.array(data.draw(st.lists(finite, min_size=p.d, max_size=p.d)), np.float32)
    assert same_bits(p.expand(theta), arithmetic.expand(*of(p), theta.tolist()))


@pytest.mark.parametrize("D", [1, 2, 3, 7, 1000, 12345, 2**20 + 1])
def test_scale_gives_the_naive_bits(D):
    assert same_bits(Projection(kind="balanced", D=D, d=1, seed=0).scale(), [arithmetic.scale(D)])


@given(projections(), st.data())
@examples(80)
def test_adjoint_is_the_transpose(p, data):
    g = np.array(
        data.draw(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=p.D, max_size=p.D)), np.float32
    )
    P, wide = dense(p), g.astype(np.float64)
    # One rounding to float32 (2^-24), and less than D roundings of 2^-53 each on either side; a subnormal loses 2^-150.
    bound = abs(P.T @ wide) * 2**-24 + p.D * 2**-52 * (P.T @ abs(wide)) + 2.0**-150
    assert (abs(p.adjoint(g) - P.T @ wide) <= bound).all()


@given(projections(kinds=("balanced", "uniform", "table")), st.sampled_from([0.02, 0.5, 1e-3]))
@examples(40)
def test_initial_vector(p, bound):
    layer_map = LayerMap([Segment("w", 1, 1, 1)])
    assert same_bits(
        p.initial(layer_map, bound), [arithmetic.f32(arithmetic.start(p.seed, j) * bound) for j in range(p.d)]
    )


@given(seeds)
@examples(20)
def test_identity_starts_as_lora_does(seed):
    layer_map = LayerMap([Segment("v", out_features=2, in_features=3, rank=2), Segment("w", 1, 16, 1)])
    p = Projection(kind="identity", D=layer_map.D, d=layer_map.D, seed=seed)
    expected = [0.0] * p.d
    for first, stop, columns in ((0, 6, 3), (10, 26, 16)):
        for j in range(first, stop):
            expected[j] = arithmetic.f32(arithmetic.start(seed, j) * (1 / columns**0.5))
    assert same_bits(p.initial(layer_map), expected)
    assert same_bits(p.expand(p.initial(layer_map)), expected)


# Limits and kinds (SPEC 1, 9)


@pytest.mark.parametrize(
    ("D", "d", "seed", "rule"),
    [
        (0, 1, 0, "1.1"),
        (-5, 1, 0, "1.1"),
        (LARGEST + 1, 1, 0, "1.1"),
        (5, 0, 0, "1.1"),
        (5, -1, 0, "1.1"),
        (5, 6, 0, "1.1"),
        (LARGEST, 2**31, 0, "1.1"),
        (5, 2, -1, "1.2"),
        (5, 2, 2**64, "1.2"),
    ],
)
@pytest.mark.parametrize("kind", OF_NUMBERS)
def test_limits(kind, D, d, seed, rule):
    with pytest.raises(LimitError) as refusal:
        Projection(kind=kind, D=D, d=d, seed=seed, tensors={"index": []} if kind == "table" else {})
    assert refusal.value.rule == rule


def test_limits_themselves_are_allowed():
    p = Projection(D=LARGEST, d=2**31 - 1, seed=2**64 - 1)
    assert p.kind == "balanced" and p.counts(0, 1)[0] == LARGEST // (2**31 - 1) + 1
    assert Projection(D=1, d=1, seed=0).index().tolist() == [0]


def test_identity_needs_d_of_D():
    with pytest.raises(LimitError, match=r"d is 4 and D is 5.*SPEC 9\.2"):
        Projection(kind="identity", D=5, d=4, seed=0)


def test_unknown_kind_is_named():
    with pytest.raises(KindError, match=r"'lora-fa'.*balanced, chain, .*SPEC 9\.1"):
        Projection(kind="lora-fa", D=5, d=2, seed=0)


@pytest.mark.parametrize("kind", OF_NUMBERS)
@pytest.mark.parametrize(
    "request_",
    [
        lambda p: p.index(-1, 2),
        lambda p: p.index(3, 2),
        lambda p: p.index(0, 6),
        lambda p: p.counts(0, p.d + 1),
        lambda p: p.members(-1),
        lambda p: p.members(p.d),
        lambda p: p.expand(np.zeros(p.d + 1, np.float32)),
        lambda p: p.expand(np.zeros((p.d, 1), np.float32)),
        lambda p: p.expand(np.zeros(p.d, np.float32), 0, 6),
        lambda p: p.adjoint(np.zeros(6, np.float32)),
        lambda p: p.adjoint(np.zeros(2, np.float32), 4),
        lambda p: p.adjoint(np.zeros(2, np.float32), -1),
    ],
)
def test_requests_outside_are_refused(kind, request_):
    with pytest.raises(LimitError) as refusal:
        request_(projection(kind, 5, 5, 1))
    assert refusal.value.rule == "1.3"


@pytest.mark.parametrize("kind", OF_NUMBERS)
def test_projections_are_values(kind):
    p = projection(kind, 9, 9, 2)
    twins = [copy.deepcopy(p), pickle.loads(pickle.dumps(p)), projection(kind, 9, 9, 2)]
    if kind != "table":
        twins.append(eval(repr(p), {"Projection": Projection}))
    for twin in twins:
        assert twin == p and hash(twin) == hash(p) and np.array_equal(twin.index(), p.index())
    assert p != projection(kind, 9, 9, 3)


# A kind with a tensor of its own (SPEC 9.4)


def test_tables_are_equal_where_their_entries_are():
    p = table([0, 1, 2, 1, 0])
    assert p == table(np.array([0, 1, 2, 1, 0], np.uint8)) and p != table([0, 1, 2, 1, 1])
    given = np.array([0, 1, 2, 1, 0], np.int32)
    p = table(given)
    given[:] = 0
    assert p.index().tolist() == [0, 1, 2, 1, 0]
    with pytest.raises(ValueError, match="read-only"):
        p.tensors["index"][0] = 5


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ([0, 1, 2, 3, 0], "index[3] is 3; give a column from 0 to 2, as d is 3"),
        ([0, -1, 2, 3, 0], "index[1] is -1"),
        ([0, 2**32, 0, 0, 0], "index[1] is 4294967296"),
        ([0, 1, 2, 0], "index is int64 [4]; it must be whole numbers [5]"),
        ([[0, 1, 2, 0, 0]], "index is int64 [1, 5]"),
        ([0.0, 1.0, 2.0, 0.0, 0.0], "index is float64 [5]"),
    ],
)
def test_tables_that_are_none(index, sentence):
    with pytest.raises(LimitError) as refusal:
        table(index)
    assert sentence in str(refusal.value) and refusal.value.rule == "9.4"


def test_tensors_of_another_kind():
    with pytest.raises(KindError, match=r"kind table needs tensor 'index', which comes with.*SPEC 8\.3"):
        Projection("table", D=5, d=2, seed=0)
    with pytest.raises(KindError, match="kind balanced has no tensor 'index'"):
        Projection("balanced", D=5, d=2, seed=0, tensors={"index": [0] * 5})
