"""SPEC 11.7: matrices that all segments share and train, and two vectors a segment."""

from ..arithmetic import f32
from ..arithmetic import start as unit

RULE = "11.7"
OPTIONS = {}
EXACT = True


def shared(segments):
    """R, I and O."""
    return [max(s[size] for s in segments) for size in ("rank", "in", "out")]


def dim(p, segments):
    R, I, O = shared(segments)
    return R * I + O * R + sum(s["rank"] + s["out"] for s in segments)


def start(p, segments):
    R, I, O = shared(segments)
    A = [f32(unit(int(p["seed"]), j) * (1 / I**0.5)) for j in range(R * I)]
    return A + [0.0] * (O * R) + [1.0] * sum(s["rank"] + s["out"] for s in segments)


def theta_D(p, segments, theta, number):
    R, I, O = shared(segments)
    A, B, rest = theta[: R * I], theta[R * I : R * I + O * R], theta[R * I + O * R :]
    result = []
    for s in segments:
        u, v, rest = rest[: s["rank"]], rest[s["rank"] : s["rank"] + s["out"]], rest[s["rank"] + s["out"] :]
        result += [A[k * I + i] * u[k] for k in range(s["rank"]) for i in range(s["in"])]
        result += [B[o * R + k] * v[o] for o in range(s["out"]) for k in range(s["rank"])]
    return result
