"""SPEC chapters 2 to 6, 9.2 and 9.4, one number at a time, in plain Python integers and floats."""

import functools
import math
import struct
from collections import Counter


def f32(x: float) -> float:
    """Rounded once to float32."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def splitmix(seed, count):
    state, outputs = seed, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        outputs.append(z ^ (z >> 31))
    return outputs


@functools.lru_cache
def keys(seed, count=10):
    return [z >> 32 for z in splitmix(seed, count)]


def mix_steps(x, key):
    """What each line of SPEC 3.1 gives, the last one mix(x, key)."""
    steps = [x ^ key]
    steps.append(steps[-1] ^ (steps[-1] >> 16))
    steps.append(steps[-1] * 0x7FEB352D % 2**32)
    steps.append(steps[-1] ^ (steps[-1] >> 15))
    steps.append(steps[-1] * 0x297A2D39 % 2**32)
    steps.append(steps[-1] ^ (steps[-1] >> 16))
    return steps


def mix(x, key):
    x ^= key
    x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
    x = (x ^ (x >> 15)) * 0x297A2D39 % 2**32
    return x ^ (x >> 16)


def side(D):
    a = math.isqrt(D)
    return a if a * a == D else a + 1


def rounds(D, seed, x):
    """(t, R, mix, f, L, R after) of each round of one pass."""
    a, k = side(D), keys(seed)
    L, R = divmod(x, a)
    for t in range(6):
        m = mix(R, k[t])
        f = (m * a) >> 32
        before, L, R = R, R, (L + f) % a
        yield t, before, m, f, L, R


def walk(D, seed, x):
    """Every value that the passes from x give, the last one π(x)."""
    values = []
    while not values or values[-1] >= D:
        *_, (_, _, _, _, L, R) = rounds(D, seed, values[-1] if values else x)
        values.append(L * side(D) + R)
    return values


def inverse_pass(D, seed, y):
    a, k = side(D), keys(seed)
    L, R = divmod(y, a)
    for t in reversed(range(6)):
        f = (mix(L, k[t]) * a) >> 32
        L, R = (R - f) % a, L
    return L * a + R


def inverse(D, seed, y):
    """π⁻¹(y)."""
    y = inverse_pass(D, seed, y)
    while y >= D:
        y = inverse_pass(D, seed, y)
    return y


def hashed(seed, stream, i):
    """Number i of a stream (SPEC 11.2)."""
    first, second = keys(seed, 12 + 2 * stream)[-2:]
    return mix(mix(i % 2**32, first) ^ (i >> 32), second)


def uniform(seed, stream, i):
    """Number i of a stream, uniform in [−1, 1) (SPEC 11.2)."""
    return 2 * (hashed(seed, stream, i) / 2**32) - 1


def normal(seed, stream, i):
    """Number i of a stream, of mean 0 and variance 1 (SPEC 11.2)."""
    return sum(hashed(seed, stream, 12 * i + t) for t in range(12)) / 2**32 - 6


# ``source`` is what the index follows from: the seed; or the index itself where it is a table, or follows from the layer map.


def index(kind, D, d, source, i):
    if kind == "identity":
        return i
    if not isinstance(source, int):
        return int(source[i])
    if kind == "balanced":
        return walk(D, source, i)[-1] % d
    k = keys(source)
    return (mix(mix(i % 2**32, k[6]) ^ (i >> 32), k[7]) * d) >> 32


def members(kind, D, d, source, j):
    """The rows of column j, ascending. Takes D steps with `uniform` and `table`."""
    if kind == "identity":
        return [j]
    if kind == "balanced":
        return sorted(inverse(D, source, y) for y in range(j, D, d))
    return [i for i in range(D) if index(kind, D, d, source, i) == j]


def count(kind, D, d, source, j):
    """n_j."""
    if kind == "balanced":
        return D // d + (j < D % d)
    return len(members(kind, D, d, source, j))


def counts(kind, D, d, source):
    """A function that gives n_j. Takes D steps once, not for each column, with `uniform` and `table`."""
    if kind in ("identity", "balanced"):
        return lambda j: count(kind, D, d, source, j)
    return Counter(index(kind, D, d, source, i) for i in range(D)).__getitem__


def scale(n):
    return f32(1 / math.sqrt(n)) if n else 0.0


def start(seed, j):
    """2u − 1."""
    k = keys(seed)
    return 2 * (mix(mix(j, k[8]), k[9]) / 2**32) - 1


def expand(kind, D, d, source, theta, start=0, stop=None):
    columns = [index(kind, D, d, source, i) for i in range(start, D if stop is None else stop)]
    n = counts(kind, D, d, source)
    scales = {j: scale(n(j)) for j in set(columns)}
    # Both factors have 24 bits, so their product is exact in a double and rounded once.
    return [f32(f32(theta[j]) * scales[j]) for j in columns]


def adjoint(kind, D, d, source, g, start=0):
    """(Pᵀg)_j in float64, where g is the gradient of the rows from ``start`` on, and the bound that SPEC 6.3 allows."""
    gathered = [[] for _ in range(d)]
    for i, value in enumerate(g, start):
        gathered[index(kind, D, d, source, i)].append(value)
    exact, bounds, n_of = [], [], counts(kind, D, d, source)
    for j, values in enumerate(gathered):
        n = n_of(j)
        exact.append(scale(n) * math.fsum(values))
        bounds.append(n * 2**-23 * scale(n) * math.fsum(map(abs, values)) + 2**-149)
    return exact, bounds
