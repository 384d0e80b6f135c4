"""SPEC 11.12: blocks that are transforms of all of θ."""

import functools
import math

from .. import arithmetic
from ..arithmetic import f32

RULE = "11.12"
OPTIONS = {}
EXACT = True
WHOLE = True


def dims(p, segments):
    return range(1, min(p["D"], 12) + 1)


def start(p, segments):
    return [f32(arithmetic.start(int(p["seed"]), j) * 0.02) for j in range(p["d"])]


def size(d):
    """L."""
    L = 1
    while L < d:
        L *= 2
    return L


@functools.lru_cache(1000)
def frozen(seed, D, d, k):
    """The numbers b, π and g·S of a block."""
    L = size(d)
    numbers = range(k * L, k * L + L)
    b = [0.0 if n - k * L >= d else 1.0 if arithmetic.hashed(seed, 1, n) < 2**31 else -1.0 for n in numbers]
    order = sorted(range(L), key=lambda j: arithmetic.hashed(seed, 3, k * L + j))
    g = [f32(arithmetic.normal(seed, 2, n) * (1 / math.sqrt(D * L))) for n in numbers]
    return b, order, g


def H(z):
    for _ in range(len(z).bit_length() - 1):
        pairs = list(zip(z[::2], z[1::2]))
        z = [x + y for x, y in pairs] + [x - y for x, y in pairs]
    return z


def block(p, k, theta, number):
    b, order, g = frozen(int(p["seed"]), p["D"], p["d"], k)
    x = H([number(b[i]) * theta[min(i, p["d"] - 1)] for i in range(len(b))])
    return H([x[order[i]] * number(g[i]) for i in range(len(b))])


def theta_D(p, segments, theta, number):
    L = size(p["d"])
    blocks = (block(p, k, theta, number) for k in range(-(-p["D"] // L)))
    return [x for each in blocks for x in each][: p["D"]]
