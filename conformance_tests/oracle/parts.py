"""SPEC 11.13, what some kinds share: parts of θ_D that are `balanced` by themselves."""

import functools

from . import arithmetic


@functools.lru_cache(2000)
def _key(seed, part):
    high, low = arithmetic.keys(seed, 12 + 2 * part)[-2:]
    return 2**32 * high + low


def column(p, part, entry, rows, dims):
    """The column of one entry of a part; ``rows`` and ``dims`` are the numbers of rows and columns of all parts."""
    within = arithmetic.index("balanced", rows[part], dims[part], _key(int(p["seed"]), part), entry)
    return sum(dims[:part]) + within


def index(p, part_of, dims):
    """The columns of all rows, where ``part_of`` is the part of each."""
    rows = [part_of.count(part) for part in range(len(dims))]
    columns, seen = [], [0] * len(dims)
    for part in part_of:
        columns.append(column(p, part, seen[part], rows, dims))
        seen[part] += 1
    return columns
