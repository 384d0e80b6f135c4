"""SPEC chapter 9: the kinds of version 1, `identity` and `table`."""

import math

from hypothesis import given
from hypothesis import strategies as st

from conformance_tests import hostile
from conformance_tests.oracle import arithmetic, family, files
from conformance_tests.rules import check
from conformance_tests.strategies import layer_maps, projections, seeds, slices, small_sizes


@check("9.1", needs="index")
def test_unknown_kind(judge):
    """An unknown kind is refused, by its name."""

    def ask(kind):
        p = {"kind": kind, "seed": "42", "d": 2, "D": 5}
        message = judge.refuses("9.1", "index", projection=p, start=0, stop=5)
        if kind not in message:
            judge.fail(
                f"the refusal does not name {kind}: {message}", "index", {"projection": p, "start": 0, "stop": 5}
            )

    judge.each(("lora-fa", "Balanced", "balanced ", ""), ask)


@check("9.2", needs="index")
def test_identity_needs_d_equal_to_D(judge):
    """`identity` with d < D is refused."""
    p = {"kind": "identity", "seed": "42", "d": 4, "D": 5}
    judge.refuses("9.2", "index", projection=p, start=0, stop=5)


@check("9.2", needs="index members scale")
@given(projections("identity"), st.data())
def test_identity(judge, p, data):
    """index(i) = i, n_j = 1, scale_j = 1."""
    start, stop = data.draw(slices(p["d"]))
    rows = list(range(start, stop))
    judge.gives({"index": rows}, "index", projection=p, start=start, stop=stop)
    judge.gives({"counts": [1] * len(rows), "members": rows}, "members", projection=p, start=start, stop=stop)
    judge.gives({"scale": [1.0] * len(rows)}, "scale", projection=p, start=start, stop=stop)


@check("9.2", needs="initial")
@given(layer_maps(), seeds)
def test_identity_starts_as_lora_does(judge, segments, seed):
    """The entries of an A are float32((2u − 1) / √in), those of a B and of a ΔW of rank 0 are 0."""
    expected = []
    for segment in segments:
        bound, first = 1 / math.sqrt(segment["in"]), len(expected)
        A = range(first, first + segment["rank"] * segment["in"])
        expected += [arithmetic.f32(arithmetic.start(seed, j) * bound) for j in A]
        expected += [0.0] * (files.size(segment) - len(A))
    p = {"kind": "identity", "seed": str(seed), "d": len(expected), "D": len(expected)}
    judge.gives({"theta": expected}, "initial", projection=p, bound=0.02, layers=files.fold(segments))


@check("9.4", needs="index members scale")
@given(projections("table", small_sizes), st.data())
def test_table(judge, p, data):
    """index(i) is entry i of the table; columns are counted, ascending, and the scale of an empty one is 0."""
    start, stop = data.draw(slices(p["D"]))
    judge.gives({"index": p["index"][start:stop]}, "index", projection=p, start=start, stop=stop)
    start, stop = data.draw(slices(p["d"]))
    columns = [arithmetic.members(*family.of(p), j) for j in range(start, stop)]
    expected = {"counts": list(map(len, columns)), "members": [i for column in columns for i in column]}
    judge.gives(expected, "members", projection=p, start=start, stop=stop)
    scale = [arithmetic.scale(len(column)) for column in columns]
    judge.gives({"scale": scale}, "scale", projection=p, start=start, stop=stop)


@check("9.4", needs="index")
def test_tables_that_are_none(judge):
    """A table of another length than D, or with a number outside of [0, d), is refused."""
    tables = ([], [0, 1, 0, 1], [0, 1, 0, 1, 0, 1], [0, 1, 0, 1, 2], [-1, 0, 0, 0, 0], [0, 0, 2**32, 0, 0])
    p = {"kind": "table", "seed": "42", "d": 2, "D": 5}
    judge.each(tables, lambda index: judge.refuses("9.4", "index", projection=p | {"index": index}, start=0, stop=5))


@check("9.1", needs="read")
def test_table_is_optional(judge):
    """A file of kind `table` is read by those who know the kind, and refused by the others."""
    file = files.write(hostile.TABLE, hostile.TABLE_TENSORS)
    if "table" in judge.kinds:
        judge.gives({"description": files.describe(hostile.TABLE), "canonical": True}, "read", file=file)
    else:  # 8.2 and 8.3 say which tensors there are, and to this implementation it has another
        judge.refuses({"9.1", "8.2", "8.3"}, "read", file=file)
