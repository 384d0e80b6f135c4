"""SPEC chapter 1: what is refused, and the arithmetic at its largest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance_tests.oracle import arithmetic
from conformance_tests.rules import OF_NUMBERS, check
from conformance_tests.strategies import LARGEST, projections, seeds, slices, small_sizes


def projection(kind, d, D, seed="42"):
    return {"kind": kind, "seed": seed, "d": d, "D": D}


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
