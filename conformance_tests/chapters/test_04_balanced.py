"""SPEC chapter 4: the permutation, and rows and columns of kind `balanced`."""

from hypothesis import given
from hypothesis import strategies as st

from conformance_tests.oracle import arithmetic
from conformance_tests.rules import check
from conformance_tests.strategies import (
    LARGEST,
    around_squares,
    entries,
    projections,
    seeds,
    sizes,
    slices,
    small_sizes,
)


def permuted(judge, D, seed, x):
    expected = [arithmetic.walk(D, seed, value)[-1] for value in x]
    judge.gives({"y": expected}, "permutation", seed=str(seed), D=D, x=x)


@check("4.2", needs="permutation")
@given(st.integers(1, 20) | st.integers(1, 2**20) | st.sampled_from([46341, 65537, 2**20 - 1, 2**20]), seeds, st.data())
def test_rounds(judge, a, seed, data):
    """One pass of six rounds. D is a square here, so that nothing is walked; small ones reach every sum L + f, a itself
    among them."""
    permuted(judge, a * a, seed, data.draw(entries(a * a)))


@check("4.1", needs="permutation")
@given(around_squares(), seeds, st.data())
def test_side(judge, D, seed, data):
    """a is the smallest number with a² ≥ D, exactly: also where a float64 root is off by one."""
    permuted(judge, D, seed, data.draw(entries(D, 6)))


@check("4.3", needs="permutation")
@given(sizes, seeds, st.data())
def test_walk(judge, D, seed, data):
    """π(x) applies passes until the result is below D."""
    permuted(judge, D, seed, data.draw(entries(D)))


@check("4.3", needs="permutation")
@given(st.integers(1, 40), seeds)
def test_walk_of_small_sizes(judge, D, seed):
    """All of π for small D, where an entry may need many passes."""
    permuted(judge, D, seed, list(range(D)))


@check("4.3", needs="permutation")
@given(st.integers(1, 2000), seeds)
def test_bijection(judge, D, seed):
    """π takes each value of [0, D) once."""
    y = judge.array("y", D, "permutation", seed=str(seed), D=D, x=list(range(D)))
    if sorted(y.tolist()) != list(range(D)):
        judge.fail(
            "π takes a value twice, or one outside", "permutation", {"seed": str(seed), "D": D, "x": list(range(D))}
        )


@check("4.4", needs="inverse")
@given(sizes, seeds, st.data())
def test_inverse(judge, D, seed, data):
    """π⁻¹(y), the rounds backwards."""
    y = data.draw(entries(D))
    judge.gives({"x": [arithmetic.inverse(D, seed, value) for value in y]}, "inverse", seed=str(seed), D=D, y=y)


@check("4.4", needs="permutation inverse")
@given(st.integers(1, 2000), seeds)
def test_inverse_of_all(judge, D, seed):
    """π⁻¹(π(x)) = x for all x."""
    x = list(range(D))
    y = judge.array("y", D, "permutation", seed=str(seed), D=D, x=x)
    judge.gives({"x": x}, "inverse", seed=str(seed), D=D, y=y)


@check("4.5", needs="index")
@given(projections("balanced"), st.data())
def test_index(judge, p, data):
    """index(i) = π(i) mod d, of any slice."""
    start, stop = data.draw(slices(p["D"]))
    expected = [arithmetic.index("balanced", p["D"], p["d"], int(p["seed"]), i) for i in range(start, stop)]
    judge.gives({"index": expected}, "index", projection=p, start=start, stop=stop)


@check("4.5", "4.6", needs="index members")
@given(projections("balanced", small_sizes))
def test_columns_are_the_rows_turned_around(judge, p):
    """members(j) are the rows i with index(i) = j, all of them, ascending; n_j is their number."""
    index = judge.array("index", p["D"], "index", projection=p, start=0, stop=p["D"]).tolist()
    columns = [[i for i, column in enumerate(index) if column == j] for j in range(p["d"])]
    expected = {"counts": list(map(len, columns)), "members": [i for column in columns for i in column]}
    judge.gives(expected, "members", projection=p, start=0, stop=p["d"])


@check("4.6", needs="members")
@given(seeds, st.integers(LARGEST - 2**32, LARGEST) | st.integers(2**31, 2**33), st.data())
def test_members_of_large(judge, seed, D, data):
    """n_j and members(j) without a look at the other columns, ascending: D is too large to be walked."""
    d = data.draw(st.integers(D // 1000, min(D, 2**31 - 1)))
    start = data.draw(st.sampled_from([0, d - 1, D % d, max(D % d - 1, 0)]).filter(lambda j: j < d))
    members = arithmetic.members("balanced", D, d, seed, start)
    p = {"kind": "balanced", "seed": str(seed), "d": d, "D": D}
    judge.gives({"counts": [len(members)], "members": members}, "members", projection=p, start=start, stop=start + 1)
