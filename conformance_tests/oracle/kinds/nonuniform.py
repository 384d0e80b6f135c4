"""SPEC 11.14: A and B have shares of their own."""

from .. import parts

RULE = "11.14"
OPTIONS = {"of_A": (1, 3), "of_B": (1, 3)}


def fitting(p, segments):
    """Weights so large that A and B have as many entries as their shares, and more."""
    larger = [{name: 3 * s[name] for name in ("in", "out", "row") if name in s} for s in segments]
    return [{**s, **sizes} for s, sizes in zip(segments, larger)]


def part_of(segments):
    return [part for s in segments for part in [0] * (s["rank"] * s["in"]) + [1] * (s["out"] * s["rank"])]


def columns(p, d):
    of_A = d * p["of_A"] // (p["of_A"] + p["of_B"])
    return [of_A, d - of_A]


def dims(p, segments):
    rows = [part_of(segments).count(part) for part in (0, 1)]
    return [d for d in range(1, p["D"] + 1) if all(1 <= n <= m for n, m in zip(columns(p, d), rows))]


def wrong(p, segments):
    """Of the d that are not possible, the first, the last, and all beside one that is."""
    possible = {*dims(p, segments)}
    impossible = [d for d in range(1, p["D"] + 1) if d not in possible]
    beside = [d for d in impossible if possible & {d - 1, d + 1}]
    return [p | {"d": d} for d in sorted({*impossible[:1], *beside, *impossible[-1:]})]


def index(p, segments):
    return parts.index(p, part_of(segments), columns(p, p["d"]))
