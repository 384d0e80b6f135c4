"""SPEC 11.15: links, each a part."""

from .. import arithmetic, parts

RULE = "11.15"
OPTIONS = {"links": (2, 4)}


def fitting(p, segments):
    """Ranks of so many links."""
    return [{**s, "rank": s["rank"] * p["links"]} for s in segments]


def dims(p, segments):
    return range(p["links"], p["D"] + 1, p["links"])


def wrong(p, segments):
    """Links that do not divide d, or a rank."""
    ranks = [s["rank"] for s in segments]
    return [p | {"links": n} for n in range(2, p["D"] + 2) if p["d"] % n or any(rank % n for rank in ranks)]


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
