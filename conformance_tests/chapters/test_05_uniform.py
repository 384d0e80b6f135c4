"""SPEC chapter 5: rows and columns of kind `uniform`."""

from hypothesis import given
from hypothesis import strategies as st

from conformance_tests.oracle import arithmetic
from conformance_tests.rules import check
from conformance_tests.strategies import LARGEST, projections, seeds, slices, small_sizes


def indexed(judge, D, d, seed, start, stop):
    expected = [arithmetic.index("uniform", D, d, seed, i) for i in range(start, stop)]
    p = {"kind": "uniform", "seed": str(seed), "d": d, "D": D}
    judge.gives({"index": expected}, "index", projection=p, start=start, stop=stop)


@check("5.1", needs="index")
@given(projections("uniform"), st.data())
def test_index(judge, p, data):
    """index(i) = (h·d) >> 32, of any slice."""
    indexed(judge, p["D"], p["d"], int(p["seed"]), *data.draw(slices(p["D"])))


@check("5.1", needs="index")
@given(seeds, st.integers(0, 254), st.integers(1, 2**31 - 1))
def test_index_uses_the_high_half_of_the_row(judge, seed, high, d):
    """i >> 32 takes part in h: rows 2^32 apart have columns of their own."""
    indexed(judge, LARGEST, d, seed, (high + 1) * 2**32 - 3, (high + 1) * 2**32 + 3)


@check("5.2", needs="members")
@given(projections("uniform", small_sizes), st.data())
def test_members(judge, p, data):
    """n_j is counted, and may be 0."""
    start, stop = data.draw(slices(p["d"]))
    columns = [arithmetic.members("uniform", p["D"], p["d"], int(p["seed"]), j) for j in range(start, stop)]
    expected = {"counts": list(map(len, columns)), "members": [i for column in columns for i in column]}
    judge.gives(expected, "members", projection=p, start=start, stop=stop)


@check("5.2", "6.1", needs="scale")
@given(projections("uniform", small_sizes))
def test_scale_of_empty_columns(judge, p):
    """scale_j is 0 where n_j = 0."""
    n = map(arithmetic.counts("uniform", p["D"], p["d"], int(p["seed"])), range(p["d"]))
    judge.gives({"scale": list(map(arithmetic.scale, n))}, "scale", projection=p, start=0, stop=p["d"])
