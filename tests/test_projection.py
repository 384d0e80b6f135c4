"""The projection (SPEC 1 to 5): keys, permutation, rows and columns."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from projections import LARGEST, dense, of, same_bits
from strategies import examples, projection, projections, seeds

from conformance_tests.oracle import arithmetic
from unilora_spec import Projection
from unilora_spec.permutation import Permutation, keys

SIZES = st.one_of(st.integers(1, 300), st.integers(1, LARGEST), st.sampled_from([2**32, LARGEST - 1, LARGEST]))


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
