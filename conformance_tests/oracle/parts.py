"""SPEC 11.13, what some kinds share: parts of θ_D that are `balanced` by themselves."""

from . import arithmetic


def column(p, part, entry, rows, dims):
    """That of one entry of a part, where ``rows`` and ``dims`` are the rows and columns of all parts."""
    high, low = arithmetic.keys(int(p["seed"]), 12 + 2 * part)[-2:]
    within = arithmetic.index("balanced", rows[part], dims[part], 2**32 * high + low, entry)
    return sum(dims[:part]) + within


def index(p, part_of, dims):
    """The columns of all rows, where ``part_of`` is the part of each."""
    rows = [part_of.count(part) for part in range(len(dims))]
    columns, seen = [], [0] * len(dims)
    for part in part_of:
        columns.append(column(p, part, seen[part], rows, dims))
        seen[part] += 1
    return columns
