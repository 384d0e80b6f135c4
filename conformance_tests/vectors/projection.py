"""Limits, the kinds beside `balanced`, and the numbers that all kinds spread and gather (SPEC 1, 5, 6 and 9)."""

from .. import hostile
from ..oracle import arithmetic, family, files
from .case import projection, vector

TABLE = [7, 0, 8, 8, 1, 2, 0, 3, 3, 3, 4, 5, 8, 1, 0, 5, 8, 7, 2, 0]
"""Twenty rows of the kind `table` with d = 9; column 6 is empty."""


def limits():
    for d, D in ((0, 5), (6, 5), (2**31, 2**32), (1, 2**40 + 1), (0, 0)):
        p = projection("balanced", d, D)
        yield vector("1.1", f"d = {d}, D = {D}", "index", refused=["1.1"], projection=p, start=0, stop=0)
    yield vector("1.2", "a seed of 2^64", "keys", refused=["1.2"], seed=str(2**64))
    p = projection("balanced", 2, 5)
    for start, stop in ((0, 6), (5, 4), (6, 6)):
        yield vector(
            "1.3", f"rows [{start}, {stop}) of 5", "index", refused=["1.3"], projection=p, start=start, stop=stop
        )
    yield vector(
        "1.3", "a theta of 3 with d = 2", "expand", refused=["1.3"], projection=p, theta=[1, 2, 3], start=0, stop=5
    )
    yield vector("1.3", "π(D)", "permutation", refused=["1.3"], seed="42", D=5, x=[5])


def just_below():
    """Rows i and numbers d with h·d so little below a multiple of 2^32 that a float64 would reach it."""
    for i in range(1000):
        h = arithmetic.index("uniform", 2**40, 2**32, 42, i)
        if h % 2 and h >= 2**31:
            d = -pow(h, -1, 2**32) % 2**32
            if 2**30 <= d < 2**31:
                yield i, d


def uniform():
    for d, D, start in (
        (4, 10, 0),
        (1, 5, 0),
        (40, 40, 0),
        (1000, 2**40, 2**32 - 6),
        (2**31 - 1, 2**40, 2**40 - 12),
        (1000, 2**33, 0),
    ):
        stop = min(start + 12, D)
        index = [arithmetic.index("uniform", D, d, 42, i) for i in range(start, stop)]
        fields = {"projection": projection("uniform", d, D), "start": start, "stop": stop}
        flags = ("large",) if D > 2**32 else ()
        yield vector(
            "5.1", f"rows [{start}, {stop}), d = {d}, D = {D}", "index", {"index": index}, flags=flags, **fields
        )
    i, d = next(just_below())
    fields = {"projection": projection("uniform", d, 2**40), "start": i, "stop": i + 1}
    index = [arithmetic.index("uniform", 2**40, d, 42, i)]
    yield vector(
        "5.3", "h·d is just below a multiple of 2^32", "index", {"index": index}, flags=("large", "edge"), **fields
    )
    p = projection("uniform", 40, 40, 3)
    columns = [arithmetic.members("uniform", 40, 40, 3, j) for j in range(40)]
    expected = {"counts": list(map(len, columns)), "members": [i for column in columns for i in column]}
    yield vector(
        "5.2", "columns with no row among them", "members", expected, projection=p, start=0, stop=40, flags=("edge",)
    )
    scale = [arithmetic.scale(len(column)) for column in columns]
    yield vector(
        "5.2", "and their scale, 0", "scale", {"scale": scale}, projection=p, start=0, stop=40, flags=("edge",)
    )


def values():
    for D in (1, 2, 3, 5, 7, 11, 1000, 12345, 2**20 + 1, 2**24 + 1, 2**31 - 1):
        p = projection("balanced", 1, D)
        comment = f"n_0 = {D}"
        yield vector("6.1", comment, "scale", {"scale": [arithmetic.scale(D)]}, projection=p, start=0, stop=1)
    special = [0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-126, 1.1754942106924411e-38, 3.4028234663852886e38, 1.0, -0.1]
    special = [arithmetic.f32(x) for x in special]
    for kind, D in (("balanced", 20), ("uniform", 20), ("identity", 9), ("table", 20)):
        p = projection(kind, 9, D)
        if kind == "table":
            p["index"] = TABLE
        theta_D = arithmetic.expand(*family.of(p), special)
        optional = ("optional",) if kind == "table" else ()
        comment = f"{kind}: both zeros, numbers below the normal range, the largest"
        yield vector(
            "6.2",
            comment,
            "expand",
            {"theta_D": theta_D},
            projection=p,
            theta=special,
            start=0,
            stop=D,
            flags=("edge", *optional),
        )
        g = [float(i - 8) for i in range(D)]  # whole numbers: their sums are exact in any order and in float32
        theta = [arithmetic.f32(x) for x in arithmetic.adjoint(*family.of(p), g)[0]]
        fields = {"projection": p, "g": g, "start": 0, "stop": D}
        yield vector("6.3", f"{kind}: sums that are exact", "adjoint", {"theta": theta}, flags=optional, **fields)
    p = projection("balanced", 9, 2**40)
    theta_D = arithmetic.expand("balanced", 2**40, 9, 42, special, 2**40 - 12, 2**40)
    fields = {"projection": p, "theta": special, "start": 2**40 - 12, "stop": 2**40}
    yield vector("6.2", "the last rows of D = 2^40", "expand", {"theta_D": theta_D}, flags=("large",), **fields)
    for bound in (0.02, 1.0, 1e-3):
        theta = [arithmetic.f32(arithmetic.start(42, j) * bound) for j in range(16)]
        p = projection("balanced", 16, 100)
        yield vector("6.4", f"with the bound {bound}", "initial", {"theta": theta}, projection=p, bound=bound)


def tables():
    p = projection("table", 9, 20) | {"index": TABLE}
    fields = {"projection": p, "flags": ("optional",)}
    yield vector("9.4", "a part of the rows", "index", {"index": TABLE[5:12]}, start=5, stop=12, **fields)
    columns = [arithmetic.members(*family.of(p), j) for j in range(9)]
    expected = {"counts": list(map(len, columns)), "members": [i for column in columns for i in column]}
    yield vector("9.4", "columns, one without a row", "members", expected, start=0, stop=9, **fields)
    scale = [arithmetic.scale(len(column)) for column in columns]
    yield vector("9.4", "and their scale, 0", "scale", {"scale": scale}, start=0, stop=9, **fields)
    for comment, index in (
        ("a number above d - 1", [0, 1, 0, 1, 2]),
        ("a negative number", [0, -1, 0, 0, 0]),
        ("4 of 5", [0] * 4),
    ):
        p = projection("table", 2, 5) | {"index": index}
        fields = {"projection": p, "start": 0, "stop": 5, "flags": ("optional",)}
        yield vector("9.4", comment, "index", refused=["9.4"], **fields)
    tensors = files.as_protocol(hostile.TABLE_TENSORS)
    file = files.write(hostile.TABLE, hostile.TABLE_TENSORS)
    answer = {"description": files.describe(hostile.TABLE), "tensors": tensors, "canonical": True}
    yield vector("9.4", "a file with a table", "read", answer, file=file, flags=("optional",))
    written = {"description": hostile.TABLE, "tensors": tensors, "flags": ("optional",)}
    yield vector("9.4", "the same, written", "write", {"file": file}, **written)


def kinds():
    for kind in ("lora-fa", "Balanced", ""):
        p = projection(kind, 2, 5)
        yield vector("9.1", f"the kind {kind!r}", "index", refused=["9.1"], projection=p, start=0, stop=5)
    p = projection("identity", 4, 5)
    yield vector("9.2", "d below D", "index", refused=["9.2"], projection=p, start=0, stop=5)
    layers = [
        {"name": name, "out": out, "in": columns, "rank": rank}
        for name, out, columns, rank in (("u", 2, 2, 0), ("v", 2, 3, 2), ("w", 1, 16, 1))
    ]
    theta = []
    for s in layers:
        A = range(len(theta), len(theta) + s["rank"] * s["in"])
        theta += [arithmetic.f32(arithmetic.start(42, j) * (1 / s["in"] ** 0.5)) for j in A]
        theta += [0.0] * (files.size(s) - len(A))
    p = projection("identity", len(theta), len(theta))
    expected = {"theta": theta}
    yield vector("9.2", "A as LoRA's, B and rank 0 zero", "initial", expected, projection=p, bound=0.02, layers=layers)
    yield from tables()
