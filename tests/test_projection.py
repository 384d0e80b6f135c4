"""SPEC chapters 1 to 6 and 9: the projection, against the same written one number at a time (conformance_tests.oracle)."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import OF_NUMBERS, examples, finite, projection, projections, seeds

from conformance_tests.oracle import arithmetic
from unilora_spec import KindError, LayerMap, LimitError, Projection, Segment
from unilora_spec.permutation import Permutation, keys

LARGEST = 2**40
SIZES = st.one_of(st.integers(1, 300), st.integers(1, LARGEST), st.sampled_from([2**32, LARGEST - 1, LARGEST]))


def of(p):
    """What the oracle takes for a projection."""
    return p.kind, p.D, p.d, p.tensors["index"] if p.kind == "table" else p.seed


def dense(p):
    """P as a matrix in float64, from index and scale."""
    P = np.zeros((p.D, p.d))
    P[np.arange(p.D), p.index()] = p.scale()[p.index()]
    return P


def same_bits(a, b):
    return np.array_equal(np.asarray(a, np.float32).view(np.uint32), np.asarray(b, np.float32).view(np.uint32))


# Keys and permutation (SPEC 2 to 4)


def test_known_answers():
    assert keys(42, 4) == [3184996902, 686809907, 1196582743, 1478287871]
    p = Projection(kind="balanced", D=36864, d=5760, seed=42)
    assert p.index(0, 8).tolist() == [805, 2990, 5608, 1842, 5693, 5545, 1564, 5238]
    ends = Permutation(LARGEST, 42)(np.array([0, 1, LARGEST - 1]))
    assert ends.tolist() == [891194291790, 639380665421, 108532803222]


@given(seeds)
@examples(50)
def test_keys(seed):
    assert keys(seed, 10) == arithmetic.keys(seed)


@pytest.mark.parametrize("seed", [0, 42, 2**64 - 1])
def test_small_permutations_are_bijections(seed):
    for D in range(1, 258):
        permutation, x = Permutation(D, seed), np.arange(D)
        y = permutation(x)
        assert np.array_equal(np.sort(y), x) and np.array_equal(permutation.inverse(y), x)


def test_large_permutation_is_a_bijection():
    D = 300_007  # more than four blocks, and no square
    y = Permutation(D, 7)(np.arange(D))
    assert np.array_equal(np.bincount(y, minlength=D), np.ones(D))


@given(SIZES, seeds, st.data())
@examples(150)
def test_permutation_is_the_naive_one(D, seed, data):
    x = data.draw(st.integers(0, D - 1) | st.just(D - 1))
    permutation = Permutation(D, seed)
    y = permutation(np.array([x]))
    assert y[0] == arithmetic.walk(D, seed, x)[-1] and permutation.inverse(y)[0] == x


# Rows and columns (SPEC 4, 5)


@given(projections())
@examples(80)
def test_index_is_the_naive_one(p):
    assert p.index().tolist() == [arithmetic.index(*of(p), i) for i in range(p.D)]


@given(projections(), st.data())
@examples(100)
def test_slices_are_parts_of_the_whole(p, data):
    start, stop = sorted(data.draw(st.tuples(st.integers(0, p.D), st.integers(0, p.D))))
    theta = np.linspace(-1, 1, p.d, dtype=np.float32)
    assert np.array_equal(p.index(start, stop), p.index()[start:stop])
    assert same_bits(p.expand(theta, start, stop), p.expand(theta)[start:stop])
    g = np.ones(p.D, np.float32)
    g[:start] = g[stop:] = 0
    assert same_bits(p.adjoint(g[start:stop], start), p.adjoint(g))
    first, last = sorted(data.draw(st.tuples(st.integers(0, p.d), st.integers(0, p.d))))
    assert np.array_equal(p.counts(first, last), p.counts()[first:last])
    assert same_bits(p.scale(first, last), p.scale()[first:last])


@given(projections())
@examples(80)
def test_members_are_the_inverse_of_index(p):
    index, counts = p.index(), p.counts()
    for j in range(p.d):
        assert p.members(j).tolist() == np.flatnonzero(index == j).tolist()  # ascending, as flatnonzero is
    assert counts.tolist() == np.bincount(index, minlength=p.d).tolist()
    if p.kind == "balanced":
        assert counts.max() - counts.min() <= 1


def test_blocks_join_without_a_seam():
    D = 200_000  # three blocks and a piece
    for kind in ("balanced", "uniform", "table"):
        p = projection(kind, D, 777, 5)
        index, theta = p.index(), np.linspace(-1, 1, 777, dtype=np.float32)
        assert p.members(3).tolist() == np.flatnonzero(index == 3).tolist()
        assert same_bits(p.expand(theta), (theta * p.scale())[index])
        assert np.array_equal(p.counts(), np.bincount(index, minlength=777))


@given(projections())
@examples(60)
def test_isometry(p):
    P = dense(p)
    # n_j squares of float32(1/√n_j), each off by at most 2·2^-24 relative: the sum, 1, is off by 2^-23.
    used = np.diag((p.counts() > 0).astype(float))
    assert np.allclose(P.T @ P, used, rtol=0, atol=2**-23)


@given(st.integers(0, LARGEST - 1), seeds, st.integers(1, 2**31 - 1))
@examples(100)
def test_uniform_index_up_to_the_limit(i, seed, d):
    p = Projection(kind="uniform", D=LARGEST, d=d, seed=seed)
    assert p.index(i, i + 1)[0] == arithmetic.index("uniform", LARGEST, d, seed, i)


@pytest.mark.parametrize("boundary", [2**31, 2**32])
@pytest.mark.parametrize("kind", ["balanced", "uniform"])
def test_slices_across_the_ends_of_32_bits(kind, boundary):
    """Llama-3 405B at rank 64 has 2,493,775,872 entries, more than 2^31."""
    D, d, start, stop = 2**33 + 5, 1000, boundary - 40, boundary + 40
    p = Projection(kind=kind, D=D, d=d, seed=42)
    index = p.index(start, stop)
    assert index.tolist() == [arithmetic.index(kind, D, d, 42, i) for i in range(start, stop)]
    if kind == "balanced":  # the other counts its columns in D steps
        theta, g = np.linspace(-1, 1, d, dtype=np.float32), np.linspace(1, 2, stop - start, dtype=np.float32)
        assert same_bits(p.expand(theta, start, stop), arithmetic.expand(kind, D, d, 42, theta.tolist(), start, stop))
        exact = np.bincount(index, g.astype(np.float64), d) * p.scale()
        assert same_bits(p.adjoint(g, start), exact)  # one rounding of one sum in float64, in the same order
        parts = [p.adjoint(g[:40], start), p.adjoint(g[40:], boundary)]
        # Each part, and their sum, is rounded to float32 once, by 2^-24 relative; all values are positive.
        assert np.allclose(parts[0] + parts[1], exact, rtol=2**-22, atol=0)


def test_uniform_index_uses_the_high_half_of_the_row():
    p = Projection(kind="uniform", D=LARGEST, d=2**31 - 1, seed=1)
    rows = [p.index(high << 32, (high << 32) + 50) for high in range(4)]
    assert len({row.tobytes() for row in rows}) == 4


def test_uniform_leaves_columns_empty_and_their_scale_zero():
    p = Projection(kind="uniform", D=40, d=40, seed=3)
    empty = p.counts() == 0
    assert empty.any() and not p.scale()[empty].any() and np.isfinite(p.scale()).all()


@pytest.mark.parametrize("kind", ["balanced", "uniform", "identity"])
def test_slices_of_the_largest_cost_no_more_than_small_ones(kind):
    d = 2**20
    D = d if kind == "identity" else LARGEST
    p = Projection(kind=kind, D=D, d=d, seed=42)
    start = D - 50_000
    tracemalloc.start()
    index = p.index(start, D)
    if kind == "balanced":
        assert 5 in p.index(*(int(p.members(5)[-1]) + k for k in (0, 1)))
        p.expand(np.ones(d, np.float32), start, D)
        p.adjoint(np.ones(50_000, np.float32), start)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(index) == 50_000 and 0 <= index.min() and index.max() < d
    # Some arrays of d numbers of 8 bytes (8 MiB each: counts, scale, sums, and a column of 2^20 members); D is 8 TiB.
    assert peak < 100 * 2**20


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


def table(index, d=3, **options):
    return Projection("table", D=5, d=d, seed=0, tensors={"index": index}, **options)


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
