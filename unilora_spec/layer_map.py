"""The layer map: which weight each range of θ_D adapts, and how (SPEC 7)."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .compact_form import count, fold_runs, fold_stacks, kind_of, unfold
from .errors import LayerMapError
from .permutation import check_D
from .segment import Segment

MAX_SEGMENTS = 65_536  # with MAX_NAMES, bounds what a hostile file can make a reader build
MAX_NAMES = 2**22  # bytes of all names together, four for each character where not all are ASCII
SCALINGS = {
    "lora": lambda alpha, rank: alpha / (rank or 1),
    "rslora": lambda alpha, rank: alpha / math.sqrt(rank or 1),
}
ALPHA_RANGE = (1e-4, 2.0**20)  # within it every language prints a double's shortest decimal without an exponent


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
        return fold_runs(fold_stacks(self.segments))

    @classmethod
    def from_json(cls, entries: Any, alpha: float, scaling: str = "lora") -> "LayerMap":
        """The map of a compact form. Raises ``LayerMapError`` before it builds more than the limit of segments."""
        if not isinstance(entries, list):
            raise LayerMapError(f"layers is {kind_of(entries)}; it must be a list", "7.8")
        if sum(count(entry) for entry in entries) > MAX_SEGMENTS:
            raise LayerMapError(f"the layer map has more than {MAX_SEGMENTS} segments", "7.1")
        return cls((segment for entry in entries for segment in unfold(entry)), alpha, scaling)


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
