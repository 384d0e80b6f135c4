"""SPEC 11.16: what stands between the two matrices that the file holds is a sum of random ones, whose weights segments share."""

import math

from ..arithmetic import f32, normal
from . import xs

RULE = "11.16"
OPTIONS = {"u": (1, 3), "groups": (1, 3)}
EXACT = False

own = xs.own


def fitting(p, segments):
    """As many segments as groups, or more."""
    missing = range(len(segments), p["groups"])
    return [*segments, *({"name": f"more.{n}", "out": 2, "in": 3, "rank": 1 + n % 2} for n in missing)]


def dim(p, segments):
    return p["groups"] * p["u"]


def wrong(p, segments):
    groups = len(segments) + 1
    u = 2**24 // sum(s["rank"] ** 2 for s in segments) + 1
    return [p | {"groups": groups, "d": groups * p["u"]}, p | {"u": u, "d": p["groups"] * u}]


def start(p, segments):
    return [0.0] * dim(p, segments)


def summed(p, segments):
    return p["u"] + max(s["rank"] for s in segments)


def random(p, number, rank):
    """An entry of a P_i, by its number in the stream."""
    return f32(normal(int(p["seed"]), 1, number) * (1 / math.sqrt(rank)))


def R_of_all(p, segments, theta, number):
    """The entries of the R of all segments, one after the other."""
    u, at = p["u"], 0
    for k, s in enumerate(segments):
        group, square = k * p["groups"] // len(segments), s["rank"] ** 2
        v = theta[group * u : group * u + u]
        for entry in range(square):
            products = [v[i] * number(random(p, at + i * square + entry, s["rank"])) for i in range(u)]
            total = products[0]
            for product in products[1:]:
                total = total + product
            yield total
        at += u * square


def theta_D(p, segments, theta, number):
    return xs.theta_D(p, segments, list(R_of_all(p, segments, theta, number)), number)
