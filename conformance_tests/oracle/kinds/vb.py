"""SPEC 11.11: pieces of A and B that are mixes of a few rows of one bank."""

from .. import arithmetic
from ..arithmetic import f32

RULE = "11.11"
OPTIONS = {"length": (1, 3), "bank": (1, 4), "topk": (1, 3)}
EXACT = True


def fitting(p, segments):
    b = p["length"]
    sizes = [{name: b * s[name] for name in ("in", "out", "row") if name in s} for s in segments]
    return [{**s, **larger} for s, larger in zip(segments, sizes)]


def count(p, segments):
    """n, of all segments."""
    return sum(s["rank"] * (s["in"] + s["out"]) // p["length"] for s in segments)


def dim(p, segments):
    return p["bank"] * p["length"] + count(p, segments) * (p["topk"] - 1)


def own(p, segments):
    return {"index": ("I32", count(p, segments) * p["topk"], p["bank"])}


def wrong(p, segments):
    index = [int(i) for i in p["index"]]
    indices = ([*index[:-1], p["bank"]], [-1, *index[1:]], index[1:], [*index, 0])
    longer = 1 + max(max(s["in"], s["out"]) for s in segments)
    return [*({**p, "index": each} for each in indices), {**p, "length": longer}]


def start(p, segments):
    size = p["bank"] * p["length"]
    bank = [f32(arithmetic.start(int(p["seed"]), j) * 0.02) for j in range(size)]
    return bank + [f32(1 / p["topk"])] * (p["d"] - size)


def theta_D(p, segments, theta, number):
    b, k, index = p["length"], p["topk"], [int(i) for i in p["index"]]
    after_bank = p["bank"] * b

    def entry(vector, l):
        weights = theta[after_bank + vector * (k - 1) : after_bank + (vector + 1) * (k - 1)]
        last = number(1.0)
        for w in weights:
            last = last - w
        products = [w * theta[row * b + l] for w, row in zip([*weights, last], index[vector * k : vector * k + k])]
        total = products[0]
        for product in products[1:]:
            total = total + product
        return total

    result, first = [], 0
    for s in segments:
        rank, across, down = s["rank"], s["in"] // b, s["out"] // b
        result += [entry(first + i * across + x // b, x % b) for i in range(rank) for x in range(s["in"])]
        first += rank * across
        result += [entry(first + y // b * rank + i, y % b) for y in range(s["out"]) for i in range(rank)]
        first += down * rank
    return result
