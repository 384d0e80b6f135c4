"""SPEC 11.6: two vectors a segment, on matrices that all segments share."""

import math

from ..arithmetic import f32, uniform

RULE = "11.6"
OPTIONS = {}
EXACT = True


def dim(p, segments):
    return sum(s["rank"] + s["out"] for s in segments)


def start(p, segments):
    return [value for s in segments for value in [f32(0.1)] * s["rank"] + [0.0] * s["out"]]


def shared(p, stream, columns, row, column):
    """An entry of A₀ or B₀, which have so many columns."""
    return f32(uniform(int(p["seed"]), stream, row * columns + column) * math.sqrt(6 / columns))


def theta_D(p, segments, theta, number):
    most_in, most_rank = max(s["in"] for s in segments), max(s["rank"] for s in segments)
    result, at = [], 0
    for s in segments:
        rank, out = s["rank"], s["out"]
        lambda_d, lambda_b = theta[at : at + rank], theta[at + rank : at + rank + out]
        at += rank + out
        result += [number(shared(p, 1, most_in, k, i)) * lambda_d[k] for k in range(rank) for i in range(s["in"])]
        result += [number(shared(p, 2, most_rank, o, k)) * lambda_b[o] for o in range(out) for k in range(rank)]
    return result
