"""SPEC 11.14: A and B have shares of their own."""

from .. import parts

RULE = "11.14"
OPTIONS = {"of_A": (1, 3), "of_B": (1, 3)}


def fitting(p, segments):
    """Ranks so large that A and B have as many entries as their shares, and more."""
    return [{**s, "rank": s["rank"] * (p["of_A"] + p["of_B"])} for s in segments]


def part_of(segments):
    return [part for s in segments for part in [0] * (s["rank"] * s["in"]) + [1] * (s["out"] * s["rank"])]


def columns(p, d):
    of_A = d * p["of_A"] // (p["of_A"] + p["of_B"])
    return [of_A, d - of_A]


def dims(p, segments):
    rows = [part_of(segments).count(part) for part in (0, 1)]
    return [d for d in range(1, p["D"] + 1) if all(1 <= n <= m for n, m in zip(columns(p, d), rows))]


def wrong(p, segments):
    possible = dims(p, segments)
    return [p | {"d": d} for d in range(1, p["D"] + 1) if d not in possible]


def index(p, segments):
    return parts.index(p, part_of(segments), columns(p, p["d"]))
