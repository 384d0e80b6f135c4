"""SPEC.md once more, one number at a time in plain Python integers and floats: slow, obvious, and written from the text.

The library is compared with it bit for bit, and the worked examples of SPEC.md are printed from it.
"""

import math
import struct


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


def keys(seed):
    return [z >> 32 for z in splitmix(seed, 10)]


def mix_steps(x, key):
    steps = [x ^ key]
    steps.append(steps[-1] ^ (steps[-1] >> 16))
    steps.append(steps[-1] * 0x7FEB352D % 2**32)
    steps.append(steps[-1] ^ (steps[-1] >> 15))
    steps.append(steps[-1] * 0x297A2D39 % 2**32)
    steps.append(steps[-1] ^ (steps[-1] >> 16))
    return steps


def mix(x, key):
    return mix_steps(x, key)[-1]


def side(D):
    a = math.isqrt(D)
    return a if a * a == D else a + 1


def rounds(D, seed, x):
    """(t, R, mix, f, L, R after) of each round of one pass."""
    a = side(D)
    L, R = divmod(x, a)
    for t in range(6):
        m = mix(R, keys(seed)[t])
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


def index(kind, D, d, seed, i):
    if kind == "identity":
        return i
    if kind == "balanced":
        return walk(D, seed, i)[-1] % d
    k = keys(seed)
    return (mix(mix(i % 2**32, k[6]) ^ (i >> 32), k[7]) * d) >> 32


def scale(n):
    return f32(1 / math.sqrt(n)) if n else 0.0


def start(seed, j):
    k = keys(seed)
    return 2 * (mix(mix(j, k[8]), k[9]) / 2**32) - 1


def expand(kind, D, d, seed, theta):
    columns = [index(kind, D, d, seed, i) for i in range(D)]
    # Both factors have 24 bits, so their product is exact in a double and rounded once.
    return [f32(f32(theta[j]) * scale(columns.count(j))) for j in columns]
