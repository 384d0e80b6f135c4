"""The compact form of a layer map: stacks of matrices and runs of layers, each one entry (SPEC 7.8, 7.9).

A stack is a segment whose `index` is [first, end); a run repeats its segments for each layer number of `layers`, [first, end), with
prefix + number + name as each one's name.
"""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

from .errors import LayerMapError
from .permutation import MAX_D
from .segment import NUMBER, Segment

MAX_NUMBERS = 8  # numbers of a name that are tried as the layer number of a run; this bounds the work of folding
_KEYS = {
    "name": "name", "out": "out_features", "in": "in_features", "rank": "rank",
    "transposed": "transposed", "row": "row", "index": "index",
}  # fmt: skip
_DEFAULTS = {field.name: field.default for field in fields(Segment)}


def fold_stacks(segments: Iterable[Segment]) -> list[dict[str, Any]]:
    """The segments as entries, where matrices of one stack that follow each other are one entry."""
    entries: list[dict[str, Any]] = []
    for segment in segments:
        entry = {key: value for key, field in _KEYS.items() if (value := getattr(segment, field)) != _DEFAULTS[field]}
        last = entries[-1] if entries else {}
        if "index" in entry and {**last, "index": None} == {**entry, "index": None}:
            first, end = last["index"] if isinstance(last["index"], list) else (last["index"], last["index"] + 1)
            if entry["index"] == end:
                last["index"] = [first, end + 1]
                continue
        entries.append(entry)
    return entries


def fold_runs(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of ``fold_stacks``, where layers that repeat each other are one entry."""
    result: list[dict[str, Any]] = []
    ends: dict[str, int] = {}
    at = 0
    while at < len(entries):
        entry, covered = _run_at(entries, at, ends)
        result.append(entry)
        at += covered
    return result


def _run_at(entries: list[dict[str, Any]], at: int, ends: dict[str, int]) -> tuple[dict[str, Any], int]:
    """The run from ``at`` with the shortest prefix, or the entry itself, and how many entries it covers.

    A block is all the entries from ``at`` on whose names begin with one prefix and number, so that a run with a longer
    prefix lies inside of one block, and covers less. ``ends`` keeps where the current blocks stop, so that folding is
    linear in the entries, whatever their names.
    """
    for head in [head for head, end in ends.items() if end <= at]:
        del ends[head]
    prefix, numbers = "", 0
    for part in entries[at]["name"].split("."):
        head = prefix + part
        if numbers < MAX_NUMBERS and NUMBER.fullmatch(part):
            numbers += 1
            if head not in ends:
                others = (k for k in range(at, len(entries)) if _after(entries[k]["name"], head) is None)
                ends[head] = next(others, len(entries))
            length, first, end = ends[head] - at, int(part), int(part) + 1
            while _repeats(entries, at, (end - first) * length, length, head, f"{prefix}{end}"):
                end += 1
            if end - first > 1:
                block = [{**entry, "name": _after(entry["name"], head)} for entry in entries[at : at + length]]
                return {"layers": [first, end], "prefix": prefix, "segments": block}, (end - first) * length
        prefix += part + "."
    return entries[at], 1


def _repeats(entries: list[dict[str, Any]], at: int, ahead: int, length: int, head: str, next_head: str) -> bool:
    """Whether the block of ``length`` entries from ``at`` comes again ``ahead`` later, ``next_head`` in place of ``head``."""
    return at + ahead + length <= len(entries) and all(
        entries[k + ahead] == {**entries[k], "name": f"{next_head}{_after(entries[k]['name'], head)}"}
        for k in range(at, at + length)
    )


def _after(name: str, head: str) -> str | None:
    """What follows ``head`` in a name, beginning with a dot or empty; None where the name does not begin so."""
    rest = name[len(head) :]
    return rest if name.startswith(head) and rest[:1] in ("", ".") else None


def count(entry: Any) -> int:
    """How many segments an entry unfolds to, from its bounds alone. The first of them is made, which checks all fields, so that the
    others are not built where a field is wrong."""
    if not isinstance(entry, dict):
        raise LayerMapError(f"an entry of layers is {kind_of(entry)}; it must be an object", "7.8")
    if "segments" not in entry:
        length = _span(entry, "index") if isinstance(entry.get("index"), list) else 1
        next(unfold(entry))
        return length
    if set(entry) != {"layers", "prefix", "segments"} or not isinstance(entry["prefix"], str):
        raise LayerMapError("a run of layers must have the fields layers, prefix and segments alone", "7.8")
    inner = entry["segments"]
    if not (isinstance(inner, list) and inner and all(isinstance(i, dict) and "segments" not in i for i in inner)):
        raise LayerMapError("segments of a run must be a list of segments, without runs of its own", "7.8")
    return _span(entry, "layers") * sum(map(count, _layer(entry, entry["layers"][0])))


def _span(entry: dict[str, Any], key: str) -> int:
    bounds = entry[key]
    if not (isinstance(bounds, list) and len(bounds) == 2 and all(type(b) is int and 0 <= b <= MAX_D for b in bounds)):
        raise LayerMapError(f"{key} of an entry is {bounds!r:.60}; it must be [first, end]", "7.8")
    if bounds[1] - bounds[0] < 2:
        raise LayerMapError(f"{key} of an entry is {bounds}; give a range of at least two", "7.8")
    return bounds[1] - bounds[0]


def _layer(run: dict[str, Any], number: int) -> Iterator[dict[str, Any]]:
    """The segments and stacks of one layer of a run, with their whole names."""
    for inner in run["segments"]:
        if not isinstance(inner.get("name"), str):
            raise LayerMapError("a segment of a run has no name", "7.8")
        yield {**inner, "name": f"{run['prefix']}{number}{inner['name']}"}


def unfold(entry: dict[str, Any]) -> Iterator[Segment]:
    """The segments of an entry that ``count`` has taken. Raises ``LayerMapError`` for a field that is missing, unknown or wrong."""
    if "segments" in entry:
        for number in range(*entry["layers"]):
            for inner in _layer(entry, number):
                yield from unfold(inner)
        return
    unknown, missing = set(entry) - set(_KEYS), {"name", "out", "in", "rank"} - set(entry)
    if unknown or missing:
        fault = f"the unknown field {min(unknown)!r:.60}" if unknown else f"no field {min(missing)!r}"
        raise LayerMapError(f"a segment has {fault}", "7.8")
    values = {_KEYS[key]: value for key, value in entry.items()}
    if isinstance(entry.get("index"), list):
        for index in range(*entry["index"]):
            yield Segment(**{**values, "index": index})
    else:
        yield Segment(**values)


def kind_of(value: object) -> str:
    """What a value of JSON is, in words."""
    return {dict: "an object", list: "a list", str: "a string", bool: "true or false"}.get(type(value), "a number")
