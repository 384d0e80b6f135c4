"""The layer map: which weight each range of θ_D adapts, and how (SPEC 7)."""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from .errors import BaseMismatch, LayerMapError
from .permutation import MAX_D, check_D

MAX_SEGMENTS = 65_536  # with MAX_NAMES, bounds what a hostile file can make a reader build
MAX_NAME = 512  # bytes of UTF-8; a run's prefix is repeated for each of its segments
MAX_NAMES = 2**22  # bytes of all names together, four for each character where not all are ASCII
SCALINGS = {
    "lora": lambda alpha, rank: alpha / (rank or 1),
    "rslora": lambda alpha, rank: alpha / math.sqrt(rank or 1),
}
MAX_NUMBERS = 8  # numbers of a name that are tried as the layer number of a run; this bounds the work of folding
_NUMBER = re.compile("0|[1-9][0-9]{0,8}")  # a whole part of a name that is a number (SPEC 7.9)
_FIRST_NUMBER = re.compile(rf"(?:[^.]*\.)*?(?:{_NUMBER.pattern})(?![^.])")  # a name up to its first number
ALPHA_RANGE = (1e-4, 2.0**20)  # within it every language prints a double's shortest decimal without an exponent


@dataclass(frozen=True, slots=True)
class Segment:
    """One LoRA pair (A, B), or ΔW itself, for one weight, or for a part of one (SPEC 7.2 to 7.5).

    ``name``          the tensor's name in the model
    ``out_features``  rows of B, rows of the adapted matrix
    ``in_features``   columns of A; for a convolution in · k…, its kernel flattened
    ``rank``          rows of A, columns of B; 0: there is no pair, and ΔW's own entries are in θ_D
    ``transposed``    the tensor is stored (in, out)
    ``row``           the first row, where the rows row … row + out_features − 1 alone are adapted (fused q, k, v)
    ``index``         which matrix of a stacked tensor (experts, ·, ·)

    Raises ``LayerMapError`` for a value outside of these meanings.
    """

    name: str
    out_features: int
    in_features: int
    rank: int
    transposed: bool = False
    row: int | None = None
    index: int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and 0 < len(self.name.encode("utf-8", "surrogatepass")) <= MAX_NAME):
            raise LayerMapError(
                f"a segment's name is {self.name!r:.80}; give a tensor's name, of at most {MAX_NAME} bytes", "7.2"
            )
        for field, least in (("out_features", 1), ("in_features", 1), ("rank", 0), ("row", 0), ("index", 0)):
            value = getattr(self, field)
            if value is None and field in ("row", "index"):
                continue
            if type(value) is not int or not least <= value < MAX_D:
                raise LayerMapError(f"{field} of {self.name} is {value!r:.40}; give a whole number from {least}", "7.2")
        if type(self.transposed) is not bool:
            raise LayerMapError(f"transposed of {self.name} is {self.transposed!r:.40}; give true or false", "7.2")

    @property
    def layer(self) -> str:
        """The name up to its first number, such as encoder.layer.3, or the whole name where it has none (SPEC 7.9)."""
        head = _FIRST_NUMBER.match(self.name)
        return head[0] if head else self.name

    @property
    def size(self) -> int:
        """Entries of θ_D that the segment takes: A's, then B's, or those of ΔW (SPEC 7.2)."""
        if self.rank == 0:
            return self.out_features * self.in_features
        return self.rank * (self.in_features + self.out_features)

    @property
    def factor_shapes(self) -> tuple[tuple[int, int], ...]:
        """The shapes of what ``factors`` gives, in the order in which θ_D has them (SPEC 7.2)."""
        if self.rank == 0:
            return ((self.out_features, self.in_features),)
        return (self.rank, self.in_features), (self.out_features, self.rank)

    def factors(self, theta_D: Any) -> tuple[Any, ...]:
        """A (rank, in) and B (out, rank), or of rank 0 one factor (out, in): views of the segment's own slice of θ_D, NumPy's or
        torch's (SPEC 7.2)."""
        if self.rank == 0:
            return (theta_D.reshape(self.out_features, self.in_features),)
        of_A, of_B = self.factor_shapes
        split = self.rank * self.in_features
        return theta_D[:split].reshape(of_A), theta_D[split:].reshape(of_B)

    @staticmethod
    def product(first: Any, *others: Any) -> Any:
        """The product of what ``factors`` gives: ΔW before the scale s is applied, (out, in) (SPEC 7.7)."""
        for factor in others:
            first = factor @ first
        return first

    def part(self, weight: Any) -> Any:
        """The view of a stored weight that the segment adapts, NumPy's or torch's (SPEC 7.3 to 7.5)."""
        if self.index is not None:
            weight = weight[self.index]
        if self.row is not None:
            rows = slice(self.row, self.row + self.out_features)
            weight = weight[:, rows] if self.transposed else weight[rows]
        return weight

    def matrix(self, weight: Any) -> Any:
        """The matrix (out, in) that the segment adapts, of a stored weight, NumPy's or torch's (SPEC 7.3 to 7.5)."""
        part = self.part(weight)
        return (part.T if self.transposed else part).reshape(self.out_features, self.in_features)

    def stored(self, delta: Any, shape: Sequence[int]) -> Any:
        """A delta weight (out, in), turned and shaped as ``part`` of the stored weight is (SPEC 7.3, 7.4)."""
        return (delta.T if self.transposed else delta).reshape(shape)

    def bands(self, entries: int) -> Iterator[tuple[slice, "Segment"]]:
        """The segment cut into bands of whole rows, each of at most ``entries`` entries of ΔW, or of one row where that has more. Yields
        for each band its rows of ΔW, and the band as a segment."""
        step = max(1, entries // self.in_features)
        for first in range(0, self.out_features, step):
            rows = min(step, self.out_features - first)
            yield slice(first, first + rows), replace(self, out_features=rows, row=(self.row or 0) + first)

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raises ``BaseMismatch`` unless a weight of this shape has the part that the segment adapts (SPEC 10.3)."""
        rest = list(shape)
        fits = True
        if self.index is not None:
            fits = len(rest) == 3 and self.index < rest.pop(0)
        fits = fits and (len(rest) == 2 or (len(rest) > 2 and not self.transposed and self.index is None))
        if fits:
            rows, columns = rest[0], math.prod(rest[1:])
            if self.transposed:
                rows, columns = columns, rows
            fits = columns == self.in_features
            fits = fits and (rows == self.out_features if self.row is None else rows >= self.row + self.out_features)
        if not fits:
            raise BaseMismatch(
                f"the weight {self.name} has shape {list(shape)}, which does not hold {self.describe()}", "10.3"
            )

    def describe(self) -> str:
        """The segment's place in its weight, in words."""
        words = f"a matrix of {self.out_features} × {self.in_features} (out × in)"
        if self.transposed:
            words += ", stored transposed"
        if self.row is not None:
            words += f", as rows {self.row} to {self.row + self.out_features}"
        if self.index is not None:
            words += f", at index {self.index}"
        return words


class LayerMap:
    """An ordered list of segments, and the scaling of their delta weights (SPEC 7).

    ``segments``  in the order of θ_D. The order is data: it is never derived from a framework's module order.
    ``alpha``     LoRA's α; ``scaling`` is "lora" (s = α / rank) or "rslora" (s = α / √rank); of rank 0, s = α
    ``D``         the length of θ_D, the sum of all segments' sizes

    Raises ``LimitError`` for D above 2^40, ``LayerMapError`` for an empty map, more than 65,536 segments or 4 MiB of
    names, a rank above the smaller side of its matrix, two segments that adapt the same entries of a weight or disagree about its
    form, or an alpha outside of 1e-4 … 2^20.
    """

    def __init__(self, segments: Iterable[Segment], alpha: float = 1.0, scaling: str = "lora") -> None:
        self.segments = tuple(_within_limits(segments))
        self.alpha, self.scaling = float(alpha), scaling
        if not self.segments:
            raise LayerMapError("the layer map is empty; it must adapt at least one weight", "7.1")
        if len(self.segments) > MAX_SEGMENTS:
            raise LayerMapError(f"the layer map has {len(self.segments)} segments; {MAX_SEGMENTS} is the limit", "7.1")
        self.D = sum(segment.size for segment in self.segments)
        check_D(self.D)
        if scaling not in SCALINGS:
            raise LayerMapError(f"scaling is {scaling!r:.40}; give {' or '.join(SCALINGS)}", "7.7")
        if not ALPHA_RANGE[0] <= self.alpha <= ALPHA_RANGE[1]:
            raise LayerMapError(f"alpha is {alpha}; give a number from {ALPHA_RANGE[0]} to 2^20", "7.7")
        self._check_overlaps()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayerMap) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __len__(self) -> int:
        return len(self.segments)

    def _identity(self) -> tuple[object, ...]:
        return self.segments, self.alpha, self.scaling

    def placed(self) -> Iterator[tuple[Segment, int]]:
        """Each segment with the offset in θ_D of its first entry (SPEC 7.1)."""
        offset = 0
        for segment in self.segments:
            yield segment, offset
            offset += segment.size

    def by_weight(self) -> dict[str, list[Segment]]:
        """The segments of each adapted weight, by its name, in order."""
        return {name: [segment for segment, _ in placed] for name, placed in self.placed_by_weight().items()}

    def placed_by_weight(self) -> dict[str, list[tuple[Segment, int]]]:
        """``placed`` of each adapted weight, by its name, in order."""
        groups = defaultdict(list)
        for segment, offset in self.placed():
            groups[segment.name].append((segment, offset))
        return dict(groups)

    def factor_scale(self, segment: Segment) -> np.float32:
        """s of ΔW = s·B·A, or of rank 0, of ΔW = s·(its entries in θ_D) (SPEC 7.7)."""
        return np.float32(SCALINGS[self.scaling](self.alpha, segment.rank))

    @property
    def bound(self) -> float:
        """The bound of the initial vector where the user gives none (SPEC 6.4)."""
        return 0.02 if any(segment.rank for segment in self.segments) else 0.0

    def _check_overlaps(self) -> None:
        # Sorted by three keys in turn, for which nothing has to be made: a hostile map is as large as it can be, and a list or a
        # tuple for each name or segment would take as much memory again.
        ordered = sorted(self.segments, key=lambda s: s.row or 0)
        ordered.sort(key=lambda s: s.index or 0)
        ordered.sort(key=lambda s: s.name)
        for a, b in itertools.pairwise(ordered):
            if a.name != b.name:
                continue
            if _form(a) != _form(b):
                raise LayerMapError(f"two segments disagree about the form of {a.name}; give each part once", "7.6")
            if a.index == b.index and (b.row or 0) < (a.row or 0) + a.out_features:
                raise LayerMapError(f"two segments adapt the same part of {a.name}; give each part once", "7.6")

    def to_json(self) -> list[dict[str, Any]]:
        """The compact form (SPEC 7.8, 7.9): stacks and runs of layers folded, always in the same way."""
        return _fold_runs(_fold_stacks(self.segments))

    @classmethod
    def from_json(cls, entries: Any, alpha: float, scaling: str = "lora") -> "LayerMap":
        """The map of a compact form. Raises ``LayerMapError`` before it builds more than the limit of segments."""
        if not isinstance(entries, list):
            raise LayerMapError(f"layers is {_kind_of(entries)}; it must be a list", "7.8")
        if sum(_count(entry) for entry in entries) > MAX_SEGMENTS:
            raise LayerMapError(f"the layer map has more than {MAX_SEGMENTS} segments", "7.1")
        return cls((segment for entry in entries for segment in _unfold(entry)), alpha, scaling)


def _form(s: Segment) -> tuple[object, ...]:
    """What all segments of one weight have in common (SPEC 7.6)."""
    return s.in_features, s.transposed, s.index is None, s.row is None, s.row is not None or s.out_features


def _within_limits(segments: Iterable[Segment]) -> Iterator[Segment]:
    total = 0
    for segment in segments:
        name, most = segment.name, min(segment.out_features, segment.in_features)
        if segment.rank > most:
            raise LayerMapError(
                f"{name:.80} has rank {segment.rank}, and a matrix of {segment.out_features} × {segment.in_features} (out × in) has "
                f"at most {most}; give it a rank from 0 to {most}, or leave it out",
                "7.11",
            )
        total += len(name) if name.isascii() else 4 * len(name)
        if total > MAX_NAMES:
            raise LayerMapError(f"the segments' names take more than {MAX_NAMES} bytes together", "7.1")
        yield segment


# The compact form. A stack is a segment whose `index` is [first, end); a run repeats its segments for each layer
# number of `layers`, [first, end), with prefix + number + name as each one's name.

_KEYS = {
    "name": "name", "out": "out_features", "in": "in_features", "rank": "rank",
    "transposed": "transposed", "row": "row", "index": "index",
}  # fmt: skip
_DEFAULTS = {field.name: field.default for field in fields(Segment)}


def _fold_stacks(segments: Iterable[Segment]) -> list[dict[str, Any]]:
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


def _fold_runs(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
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
        if numbers < MAX_NUMBERS and _NUMBER.fullmatch(part):
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


def _count(entry: Any) -> int:
    """How many segments an entry unfolds to, from its bounds alone. The first of them is made, which checks all fields, so that the
    others are not built where a field is wrong."""
    if not isinstance(entry, dict):
        raise LayerMapError(f"an entry of layers is {_kind_of(entry)}; it must be an object", "7.8")
    if "segments" not in entry:
        count = _span(entry, "index") if isinstance(entry.get("index"), list) else 1
        next(_unfold(entry))
        return count
    if set(entry) != {"layers", "prefix", "segments"} or not isinstance(entry["prefix"], str):
        raise LayerMapError("a run of layers must have the fields layers, prefix and segments alone", "7.8")
    inner = entry["segments"]
    if not (isinstance(inner, list) and inner and all(isinstance(i, dict) and "segments" not in i for i in inner)):
        raise LayerMapError("segments of a run must be a list of segments, without runs of its own", "7.8")
    return _span(entry, "layers") * sum(map(_count, _layer(entry, entry["layers"][0])))


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


def _unfold(entry: dict[str, Any]) -> Iterator[Segment]:
    if "segments" in entry:
        for number in range(*entry["layers"]):
            for inner in _layer(entry, number):
                yield from _unfold(inner)
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


def _kind_of(value: object) -> str:
    return {dict: "an object", list: "a list", str: "a string", bool: "true or false"}.get(type(value), "a number")
