"""SPEC chapter 1: what is refused, and the arithmetic at its largest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance_tests.oracle import arithmetic
from conformance_tests.rules import OF_NUMBERS, check
from conformance_tests.strategies import LARGEST, projections, seeds, slices, small_sizes

BEYOND = [
    (0, 0),
    (0, 5),
    (6, 5),
    (1, 0),
    (1, LARGEST + 1),
    (2**31, 2**32),
    (2**31, 2**31),
    (2**41, 2**42),
    (-1, 5),
    (2, -3),
]


def projection(kind, d, D, seed="42"):
    return {"kind": kind, "seed": seed, "d": d, "D": D}


@check("1.1", needs="index")
@pytest.mark.parametrize("kind", ["balanced", "uniform"])
def test_limits_of_d_and_D(judge, kind):
    """d and D beyond 1 ≤ d ≤ D ≤ 2^40, d < 2^31 are refused."""
    judge.each(
        BEYOND, lambda limits: judge.refuses("1.1", "index", projection=projection(kind, *limits), start=0, stop=0)
    )


@check("1.1", needs="permutation inverse")
def test_limits_of_the_permutation(judge):
    """D beyond 1 … 2^40 is refused by the permutation and its inverse."""
    beyond = (0, -1, LARGEST + 1, 2**41, 2**52)
    judge.each(beyond, lambda D: judge.refuses("1.1", "permutation", seed="42", D=D, x=[]))
    judge.each(beyond, lambda D: judge.refuses("1.1", "inverse", seed="42", D=D, y=[]))


@check("1.1", "1.4", needs="index")
@pytest.mark.parametrize("kind", ["balanced", "uniform"])
@given(data=st.data())
def test_the_largest_is_taken(judge, kind, data):
    """D = 2^40 and d = 2^31 − 1 are within the limits, and every product is exact there."""
    d = data.draw(st.sampled_from([2**31 - 1, 2**31 - 2, 2**30 + 1]))
    start, stop = data.draw(slices(LARGEST, 8))
    seed = data.draw(seeds)
    expected = [arithmetic.index(kind, LARGEST, d, seed, i) for i in range(start, stop)]
    judge.gives(
        {"index": expected}, "index", projection=projection(kind, d, LARGEST, str(seed)), start=start, stop=stop
    )


@check("1.2", needs="keys index")
def test_limits_of_the_seed(judge):
    """A seed of 2^64 or more is refused, not wrapped."""

    def ask(seed):
        judge.refuses("1.2", "keys", seed=str(seed))
        judge.refuses("1.2", "index", projection=projection("balanced", 2, 5, str(seed)), start=0, stop=5)

    judge.each((2**64, 2**64 + 42, 10**30), ask)


@check("1.2", needs="keys")
def test_the_largest_seed_is_taken(judge):
    """Seeds of 2^53 and more, which a double cannot hold, are not rounded."""
    seeds_beyond = (2**53 + 1, 2**63 + 1, 2**64 - 1)
    judge.each(seeds_beyond, lambda seed: judge.gives({"keys": arithmetic.keys(seed)}, "keys", seed=str(seed)))


@check("1.3", needs="index")
@pytest.mark.parametrize("kind", OF_NUMBERS)
@given(data=st.data())
def test_rows_outside(judge, kind, data):
    """A slice of rows that is not one of [0, D) is refused."""
    p = data.draw(projections(kind))
    outside = ((0, p["D"] + 1), (p["D"] + 1, p["D"] + 1), (p["D"], p["D"] - 1), (-1, 0), (-2, -1))
    judge.each(outside, lambda rows: judge.refuses("1.3", "index", projection=p, start=rows[0], stop=rows[1]))


@check("1.3", needs="members scale")
@pytest.mark.parametrize("request_", ["members", "scale"])
@given(data=st.data())
def test_columns_outside(judge, request_, data):
    """A slice of columns that is not one of [0, d) is refused."""
    p = data.draw(projections("balanced"))
    outside = ((0, p["d"] + 1), (p["d"], p["d"] + 1), (p["d"] + 1, p["d"] + 1), (-1, 0), (p["d"], p["d"] - 1))
    judge.each(outside, lambda columns: judge.refuses("1.3", request_, projection=p, start=columns[0], stop=columns[1]))


@check("1.3", needs="permutation inverse")
def test_entries_outside(judge):
    """π and π⁻¹ of a number that is not in [0, D) are refused, though one pass could be computed for a² > x ≥ D."""
    outside = [(D, x) for D in (1, 5, 10, LARGEST) for x in (D, D + 1, -1, 2**62)]
    judge.each(outside, lambda case: judge.refuses("1.3", "permutation", seed="42", D=case[0], x=[0, case[1]]))
    judge.each(outside, lambda case: judge.refuses("1.3", "inverse", seed="42", D=case[0], y=[0, case[1]]))


@check("1.3", needs="expand")
@pytest.mark.parametrize("kind", OF_NUMBERS)
@given(data=st.data())
def test_theta_of_another_length(judge, kind, data):
    """A theta of another length than d, and rows outside, are refused by expand."""
    p = data.draw(projections(kind, small_sizes))
    wrong = ((p["d"] - 1, p["D"]), (p["d"] + 1, p["D"]), (0, p["D"]), (p["d"], p["D"] + 1))
    judge.each(
        wrong, lambda case: judge.refuses("1.3", "expand", projection=p, theta=[1.0] * case[0], start=0, stop=case[1])
    )


@check("1.3", needs="adjoint")
@pytest.mark.parametrize("kind", OF_NUMBERS)
@given(data=st.data())
def test_gradient_of_another_length(judge, kind, data):
    """A gradient of another length than its slice, and rows outside, are refused by the adjoint."""
    p = data.draw(projections(kind, small_sizes))
    D = p["D"]
    wrong = ((D - 1, 0, D), (D + 1, 0, D), (D, 1, D + 1))
    judge.each(
        wrong,
        lambda case: judge.refuses("1.3", "adjoint", projection=p, g=[1.0] * case[0], start=case[1], stop=case[2]),
    )
