"""SPEC 11.13: every layer has numbers of its own."""

import itertools
import re

from .. import files, parts

RULE = "11.13"
OPTIONS = {}
WHOLE = True


def layer(segment):
    numbered = segment["name"].split(".")
    for at, part in enumerate(numbered):
        if re.fullmatch("0|[1-9][0-9]{0,8}", part, re.ASCII):
            return ".".join(numbered[: at + 1])
    return segment["name"]


def sizes(segments):
    found = {}
    for s in segments:
        found[layer(s)] = found.get(layer(s), 0) + files.size(s)
    return found


def columns(d, sizes):
    """How many each layer has."""
    ends = [d * sum(sizes[:k]) // sum(sizes) for k in range(len(sizes) + 1)]
    return [end - start for start, end in itertools.pairwise(ends)]


def dims(p, segments):
    rows = list(sizes(segments).values())
    return [d for d in range(1, p["D"] + 1) if all(columns(d, rows))]


def wrong(p, segments):
    possible = dims(p, segments)
    return [p | {"d": d} for d in range(1, p["D"] + 1) if d not in possible]


def index(p, segments):
    found = sizes(segments)
    part_of = [[*found].index(layer(s)) for s in segments for _ in range(files.size(s))]
    return parts.index(p, part_of, columns(p["d"], [*found.values()]))
