"""The kinds of the family, each on two layers of two weights (SPEC 11)."""

from ..oracle import arithmetic, family, files
from ..oracle.kinds import LAYERED, PROGRAMS
from .case import projection, vector

FAMILY = [
    {"name": f"layer.{n}.{name}", **sizes}
    for n in range(2)
    for name, sizes in (("q", {"out": 3, "in": 4, "rank": 2}), ("v", {"out": 2, "in": 3, "rank": 1}))
]
"""Two layers of two weights, which differ in every size."""


def whole_numbers(length):
    return [float(5 * i % 7 - 3) for i in range(length)]


def layered(kind):
    """The projection of a kind that knows the layer map, with the most that tests draw of its own numbers, and the segments."""
    of_kind = LAYERED[kind]
    numbers = {name: most for name, (_, most) in of_kind.OPTIONS.items()}
    segments = of_kind.fitting(numbers, FAMILY) if hasattr(of_kind, "fitting") else FAMILY
    p = projection(kind, 0, sum(map(files.size, segments))) | numbers
    if hasattr(of_kind, "dim"):
        p["d"] = of_kind.dim(p, segments)
    else:
        possible = of_kind.dims(p, segments)
        p["d"] = possible[len(possible) // 2]
    for name, (dtype, length, end) in of_kind.own(p, segments).items() if hasattr(of_kind, "own") else ():
        p[name] = [5 * i % end for i in range(length)] if dtype == "I32" else whole_numbers(length)
    return p | {"layers": files.fold(segments)}, segments


def family_kinds():
    """Of products of matrices, and of gradients, what is exact in any order: whole numbers that come of whole numbers."""
    for kind, of_kind in sorted(LAYERED.items(), key=lambda item: int(item[1].RULE.removeprefix("11."))):
        (p, segments), rule = layered(kind), of_kind.RULE
        fields, rows = {"projection": p, "flags": ("optional",)}, {"start": 0, "stop": p["D"]}
        if kind not in PROGRAMS:
            index = of_kind.index(p, segments)
            yield vector(rule, f"{kind}: all rows", "index", {"index": index}, **rows, **fields)
            columns = [[i for i in range(p["D"]) if index[i] == j] for j in range(p["d"])]
            expected = {"counts": list(map(len, columns)), "members": [i for column in columns for i in column]}
            yield vector(rule, f"{kind}: all columns", "members", expected, start=0, stop=p["d"], **fields)
            if hasattr(of_kind, "start"):
                answer = {"theta": of_kind.start(p, segments, 0.02)}
                yield vector(rule, f"{kind}: the start", "initial", answer, bound=0.02, **fields)
            for wrong in of_kind.wrong(p, segments)[:2]:
                fields |= {"projection": wrong, "start": 0, "stop": 1}
                yield vector(rule, f"{kind}: to be refused", "index", refused=[rule], **fields)
            continue
        theta = whole_numbers(p["d"])
        thirds = [arithmetic.f32(x / 3) for x in theta] if of_kind.EXACT else theta
        theta_D, _ = family.expand(p, thirds)
        if of_kind.EXACT or all(map(float.is_integer, theta_D)):
            yield vector(rule, f"{kind}: all of θ_D", "expand", {"theta_D": theta_D}, theta=thirds, **rows, **fields)
        g = whole_numbers(p["D"])
        gradient, _ = family.adjoint(p, theta, g)
        if all(map(float.is_integer, gradient)):
            yield vector(
                rule, f"{kind}: sums that are exact", "adjoint", {"theta": gradient}, theta=theta, g=g, **rows, **fields
            )
        start = of_kind.start(p, segments)
        yield vector(rule, f"{kind}: the start", "initial", {"theta": start}, bound=0.02, **fields)
        for wrong in of_kind.wrong(p, segments) if hasattr(of_kind, "wrong") else ():
            fields |= {"projection": wrong}
            yield vector(rule, f"{kind}: to be refused", "expand", refused=[rule], theta=theta, **rows, **fields)
