"""Kinds whose θ_D is made of ``Value``s: a kind says once how its A and B are made, and every package can compute it (SPEC 11)."""

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .errors import LimitError
from .layer_map import LayerMap
from .projection import MAX_DIM, Projection
from .segment import Segment
from .value import OPERATIONS, Value, add_gradient, frozen, frozen_in_parts, ordered, result

__all__ = [
    "OPERATIONS",
    "Factored",
    "Program",
    "Range",
    "Start",
    "Value",
    "by_size",
    "frozen",
    "frozen_in_parts",
    "largest",
    "ordered",
]


class Start(NamedTuple):
    """The initial values of a range of θ (SPEC 11.5): ``form`` is "constant", "uniform" in ±size or "normal" with that
    deviation."""

    form: str
    size: float


class Range(NamedTuple):
    """A range of θ that has a name, a shape and initial values."""

    name: str
    shape: tuple[int, ...]
    start: Start


class Program(Projection):
    """A kind whose θ_D is made of ``Value``s, from named ranges of θ; d follows from the layer map, unless it is free (SPEC 11.1).

    θ holds first the ranges that all segments share, then each segment's own ranges. Their places are counted, and no object is kept
    for each, as a small file may name 65,536 segments.

    ``exact``  whether each entry is the same bits everywhere, as it is without products of matrices (SPEC 11.3)
    """

    layered, d_is_free = True, False
    exact: ClassVar[bool] = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._given = self.options | ({"d": self.d} if self.d_is_free else {})
        if not self.d_is_free and self.d != (needed := self.dim(self.layer_map, **self.options)):
            raise LimitError(f"d is {self.d}; kind {self.kind} has {needed} numbers for this layer map", "11.1")

    @classmethod
    def dim(cls, layer_map: LayerMap, **options: int) -> int:
        if cls.d_is_free:
            return super().dim(layer_map, **options)
        shared = sum(math.prod(shape) for _, shape, _ in cls.shared(layer_map, **options))
        return shared + sum(cls._own_sizes(layer_map, options))

    @classmethod
    def largest_dim(cls, D: int) -> int:
        # A d that follows from the layer map may exceed D: the shared ranges may have more numbers than all A and B.
        return super().largest_dim(D) if cls.d_is_free else MAX_DIM

    @classmethod
    def shared(cls, layer_map: LayerMap, **options: int) -> Iterable[Range]:
        """The ranges of θ that all segments share, in order. ``options`` has d too, where it is free."""
        return ()

    @classmethod
    def own(cls, segment: Segment, **options: int) -> Iterable[Range]:
        """The ranges of θ that a segment has for its own, in order. How long they are follows from its rank, in and out."""
        return ()

    @classmethod
    def _own_sizes(cls, layer_map: LayerMap, options: Mapping[str, int]) -> Iterator[int]:
        """How many numbers of θ each segment has for its own."""
        return by_size(layer_map, lambda segment: sum(math.prod(shape) for _, shape, _ in cls.own(segment, **options)))

    @abstractmethod
    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, Value]]:
        """Values of one axis that hold θ_D's entries start … stop − 1 and perhaps some around them, without gaps and in order,
        each with the row in θ_D of its first entry."""

    def range(self, name: str, number: int | None = None) -> Value:
        """A range of θ in its shape: a shared one, or that of the segment with this number in the layer map."""
        if number is None:
            return self._shared[name]
        ranges = self.own(self.layer_map.segments[number], **self._given)
        return dict(_placed(ranges, self._offsets[number]))[name]

    @cached_property
    def _shared(self) -> dict[str, Value]:
        return dict(_placed(self.shared(self.layer_map, **self._given), 0))

    @cached_property
    def _offsets(self) -> np.ndarray:
        """Where in θ each segment's own ranges begin, and where the last ones end: int64[segments + 1]."""
        first = sum(value.size for value in self._shared.values())
        starts = itertools.accumulate(self._own_sizes(self.layer_map, self._given), initial=first)
        return np.fromiter(starts, np.int64, len(self.layer_map) + 1)

    def expand(self, theta: np.ndarray, start: int = 0, stop: int | None = None) -> np.ndarray:
        start, stop = self.range_of(start, stop, self.D)
        theta = self.vector(theta, self.d, "theta").astype(np.float32 if self.exact else np.float64)
        entries = np.empty(stop - start, dtype=np.float32)
        for first, value in self.pieces(start, stop):
            ours, its = _overlap(start, stop, first, value.size)
            entries[ours] = result(value, theta)[its]
        return entries

    def adjoint(self, g: np.ndarray, start: int = 0, theta: np.ndarray | None = None) -> np.ndarray:
        start, stop = self.range_of(start, start + len(g), self.D)
        g = self.vector(g, stop - start, "g").astype(np.float64)
        theta = self.vector(theta, self.d, "theta").astype(np.float64)
        total = np.zeros(self.d)
        for first, value in self.pieces(start, stop):
            ours, its = _overlap(start, stop, first, value.size)
            of_value = np.zeros(value.shape)
            of_value[its] = g[ours]
            add_gradient(value, theta, of_value, total)
        return total.astype(np.float32)

    def initial(self, layer_map: LayerMap | None = None, bound: float = 0.02) -> np.ndarray:
        theta, at = np.empty(self.d, dtype=np.float32), 0
        segments = self.layer_map.segments if self.layered else ()
        of_segments = (self.own(segment, **self._given) for segment in segments)
        for ranges in itertools.chain([self.shared(self.layer_map, **self._given)], of_segments):
            for _, shape, (form, size) in ranges:
                end = at + math.prod(shape)
                unit = {"constant": _ones, "uniform": self.uniform_start, "normal": self._normal_start}[form]
                theta[at:end] = unit(at, end) * size
                at = end
        return theta

    def _normal_start(self, start: int, stop: int) -> np.ndarray:
        return self.normal(0, start, stop)


class Factored(Program):
    """A program that gives each segment its A and B."""

    @classmethod
    def dim(cls, layer_map: LayerMap, **options: int) -> int:
        cls.check_factors(layer_map)
        return super().dim(layer_map, **options)

    @abstractmethod
    def factors(self, number: int, segment: Segment) -> tuple[Value, Value]:
        """A (rank, in) and B (out, rank) of the segment with this number in the layer map."""

    @cached_property
    def rows(self) -> np.ndarray:
        """The row in θ_D where each segment begins: int64[segments]."""
        return np.fromiter((row for _, row in self.layer_map.placed()), np.int64, len(self.layer_map))

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, Value]]:
        first = max(int(np.searchsorted(self.rows, start, side="right")) - 1, 0)
        for number in range(first, len(self.rows)):
            row = int(self.rows[number])
            if row >= stop:
                return
            for factor in self.factors(number, self.layer_map.segments[number]):
                yield from _cut(factor, row, start, stop)
                row += factor.size


def by_size(layer_map: LayerMap, count: Callable[[Segment], int]) -> Iterator[int]:
    """``count(segment)`` for each segment, in order. It is called once for all segments of the same rank, in and out, as a run of layers
    has many segments and few sizes."""
    known = {}
    for segment in layer_map.segments:
        size = segment.rank, segment.in_features, segment.out_features
        if size not in known:
            known[size] = count(segment)
        yield known[size]


def largest(layer_map: LayerMap) -> tuple[int, int, int]:
    """The largest rank, in and out of all segments: the sizes of what they share (SPEC 11.6)."""
    sizes = ((s.rank, s.in_features, s.out_features) for s in layer_map.segments)
    return tuple(map(max, zip(*set(sizes))))


def _placed(ranges: Iterable[Range], offset: int) -> Iterator[tuple[str, Value]]:
    for name, shape, _ in ranges:
        value = Value("theta", shape, how=int(offset))
        yield name, value
        offset += value.size


def _cut(factor: Value, row: int, start: int, stop: int) -> Iterator[tuple[int, Value]]:
    """The pieces of a factor that lie in θ_D's entries start … stop − 1, each with the row in θ_D of its first entry; ``row`` is that of
    the factor. A piece is the whole factor, or some whole rows of it, or what lies before or behind these in a row."""
    columns = factor.shape[1]
    begin, end = max(start - row, 0), min(stop - row, factor.size)
    if begin >= end:
        return
    if (begin, end) == (0, factor.size):
        yield row, factor.reshape(factor.size)
        return
    # The entries between two neighbouring edges make a rectangle of the factor.
    whole = -(-begin // columns) * columns, end // columns * columns
    edges = [begin, *whole, end] if whole[0] <= whole[1] else [begin, end]
    for at, to in itertools.pairwise(edges):
        if at < to:
            first, last = at // columns, -(-to // columns)
            across = slice(at - first * columns, to - (last - 1) * columns)
            piece = factor[first:last, across]
            yield row + at, piece.reshape(piece.size)


def _ones(start: int, stop: int) -> np.ndarray:
    return np.ones(stop - start)


def _overlap(start: int, stop: int, first: int, length: int) -> tuple[slice, slice]:
    """The entries that [start, stop) shares with [first, first + length), counted from the beginning of each."""
    begin, end = max(start, first), max(start, first, min(stop, first + length))
    return slice(begin - start, end - start), slice(begin - first, end - first)
