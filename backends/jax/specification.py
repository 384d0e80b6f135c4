"""The static part of an adapter: the projection, the layer map, and where in a tree of parameters each segment acts."""

import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import jax
from jax import Array

from unilora_spec import BaseMismatch, LayerMap, Projection, Segment

from .paths import Leaf

# Entries of θ_D in one array, unless a single segment has more: below what JAX indexes without 64 bits.
RUN = 2**30


class Site(NamedTuple):
    """An adapted leaf. A matrix in it has the axes ``rows`` and ``columns``; the axes of ``stack`` count such matrices.

    ``parts``  for each segment, its number in the layer map and the number of its matrix in the stack
    """

    path: str
    shape: tuple[int, ...]
    stack: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    parts: tuple[tuple[int, int], ...]

    def sizes(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        """The lengths of these axes of the leaf."""
        return tuple(self.shape[axis] for axis in axes)


class Run(NamedTuple):
    """The rows start … stop − 1 of θ_D, which belong to the segments with these numbers."""

    start: int
    stop: int
    numbers: range


@jax.tree_util.register_static
@dataclass(frozen=True)
class Specification:
    """An adapter without its θ. It has nothing that is trained: for ``jax.jit`` it is a static part of the function,
    found again by its hash.

    ``projection``  how θ, float32[d], becomes θ_D (SPEC 4 to 6, 9, 11)
    ``layer_map``   which matrix each range of θ_D adapts (SPEC 7)
    ``leaves``      each leaf of the tree of parameters: its path, what it holds of the checkpoint, its shape

    Raises ``BaseMismatch`` where the tree lacks a weight that the layer map names.
    """

    projection: Projection
    layer_map: LayerMap
    leaves: tuple[tuple[str, Leaf, tuple[int, ...]], ...] = field(repr=False)

    def __post_init__(self):
        _ = self.sites

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self):
        return hash((self.projection, self.layer_map, self.leaves))

    @cached_property
    def sites(self) -> dict[str, Site]:
        """The adapted leaves by path."""
        where = {}
        for path, leaf, shape in self.leaves:
            where |= {name: (path, leaf, shape, layer) for layer, name in enumerate(leaf.names(shape))}
        found = defaultdict(list)
        for number, segment in enumerate(self.layer_map.segments):
            if segment.name not in where:
                raise BaseMismatch(f"no leaf holds {segment.name}; give names by which one does", "10.3")
            path, leaf, shape, layer = where[segment.name]
            segment.check_shape(leaf.tensor_shape(shape))
            site, place = _site(path, leaf, shape, segment, layer)
            found[site].append((number, place))
        sites = [site._replace(parts=tuple(parts)) for site, parts in found.items()]
        return {site.path: site for site in sites}

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each segment's entries begin in θ_D."""
        return tuple(offset for _, offset in self.layer_map.placed())

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The ranges of θ_D that are one array each, of whole segments."""
        runs, first, start = [], 0, 0
        for number, (segment, offset) in enumerate(self.layer_map.placed()):
            if offset + segment.size - start > RUN and number > first:
                runs.append(Run(start, offset, range(first, number)))
                first, start = number, offset
        return (*runs, Run(start, self.layer_map.D, range(first, len(self.layer_map))))

    def site(self, path: str) -> Site:
        """The adapted leaf with this path. Raises ``BaseMismatch`` where the leaf is not adapted."""
        if path not in self.sites:
            raise BaseMismatch(f"{path} is not adapted; adapted are {', '.join(itertools.islice(self.sites, 5))} …")
        return self.sites[path]


class Adapter(NamedTuple):
    """A specification and its θ, float32[d]: a tree whose one leaf is θ."""

    spec: Specification
    theta: Array


def _site(path, leaf: Leaf, shape, segment: Segment, layer: int) -> tuple[Site, int]:
    """(the leaf as a site without ``parts``, the number of the segment's matrix in its stack)."""
    groups = leaf.groups(len(shape))
    stack, place = ((), 0) if leaf.stacked is None else ((leaf.stacked,), layer)
    if segment.index is not None:
        experts, *groups = groups
        stack, place = stack + experts, place * shape[experts[0]] + segment.index
    rows, columns = groups[0], tuple(itertools.chain(*groups[1:]))
    if segment.transposed:
        rows, columns = columns, rows
    return Site(path, shape, stack, rows, columns, ()), place
