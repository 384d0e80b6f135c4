"""SPEC 11.15: links, each a part."""

from .. import arithmetic, parts

RULE = "11.15"
OPTIONS = {"links": (2, 4)}


def fitting(p, segments):
    """Ranks of so many links, one or two rows each, and weights that have room for them (7.11)."""
    K = p["links"]
    larger = [{name: K * s[name] for name in ("in", "out", "row") if name in s} for s in segments]
    return [{**s, **sizes, "rank": K * min(s["rank"], 2)} for s, sizes in zip(segments, larger)]


def dims(p, segments):
    return range(p["links"], p["D"] + 1, p["links"])


def wrong(p, segments):
    """Links that do not divide d, or a rank."""
    ranks = [s["rank"] for s in segments]
    possible = range(2, max(p["d"], *ranks) + 2)
    return [p | {"links": n} for n in possible if p["d"] % n or any(rank % n for rank in ranks)][:40]


def start(p, segments, bound):
    link = p["d"] // p["links"]
    return [arithmetic.f32(arithmetic.start(int(p["seed"]), j) * bound) if j < link else 0.0 for j in range(p["d"])]


def index(p, segments):
    links, part_of = range(p["links"]), []
    for s in segments:
        rank = s["rank"] // p["links"]
        part_of += [k for k in links for _ in range(rank * s["in"])]
        part_of += [k for _ in range(s["out"]) for k in links for _ in range(rank)]
    return parts.index(p, part_of, [p["d"] // p["links"]] * p["links"])
