"""SPEC 11.8: an encoder and a decoder that all segments share, and a matrix a segment between them."""

from ..arithmetic import f32
from ..arithmetic import start as unit
from .tied import shared

RULE = "11.8"
OPTIONS = {}
EXACT = False


def dim(p, segments):
    R, I, O = shared(segments)
    return R * I + O * R + sum(s["rank"] ** 2 for s in segments)


def start(p, segments):
    R, I, O = shared(segments)
    theta = [f32(unit(int(p["seed"]), j) * (1 / I**0.5)) for j in range(R * I)] + [0.0] * (O * R)
    for s in segments:
        M = range(len(theta), len(theta) + s["rank"] ** 2)
        theta += [f32(unit(int(p["seed"]), j) * (1 / s["rank"] ** 0.5)) for j in M]
    return theta


def theta_D(p, segments, theta, number):
    R, I, O = shared(segments)
    E, F, rest = theta[: R * I], theta[R * I : R * I + O * R], theta[R * I + O * R :]
    result = []
    for s in segments:
        r = s["rank"]
        M, rest = rest[: r * r], rest[r * r :]
        result += [E[k * I + i] for k in range(r) for i in range(s["in"])]
        result += [
            sum((F[o * R + m] * M[m * r + k] for m in range(1, r)), F[o * R] * M[k])
            for o in range(s["out"])
            for k in range(r)
        ]
    return result
