"""A, B and ΔW of a tree of parameters as pure functions of θ, which work under jit, grad, vmap, checkpoint, scan and
shard_map."""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array

from unilora_spec import KindError, Projection
from unilora_spec.gather import Gather
from unilora_spec.program import Program

from . import gather, programs
from .paths import flattened
from .permutation import Numbers, jitted_columns, pair, per
from .specification import Site, Specification

Index = tuple[Array, ...] | None
"""The result of ``index``, P's columns, which a compiled function can take instead of computing them."""


def init(spec: Specification, bound: float | None = None) -> Array:
    """The θ, float32[d], with which training starts: uniform in ±bound, which by default is the kind's (SPEC 6.4,
    11.5)."""
    return jnp.asarray(spec.projection.initial(spec.layer_map, spec.layer_map.bound if bound is None else bound))


def index(spec: Specification) -> tuple[Array, ...]:
    """The column of every row of θ_D, int32, 4 bytes an entry: an argument for functions that are called many times.

    Without it each call computes the columns anew, some nanoseconds an entry. Raises ``KindError`` for a kind without
    columns.
    """
    p = spec.projection
    if not isinstance(p, Gather):
        raise KindError(
            f"kind {p.kind} has no index, as an entry depends on more than one trained number; leave index out", "9.3"
        )
    return tuple(columns(p, run.start, run.stop) for run in spec.runs)


def columns(projection: Gather, start: int, stop: int) -> Array:
    """The column of each of the rows start … stop − 1: int32[stop − start], compiled."""
    if projection.kind != "balanced":
        return gather.columns(projection, start, stop)
    permutation, d, a = projection.permutation, projection.d, projection.permutation.a
    of = Numbers.of(permutation), pair(start, a), np.uint32(d), per(d)
    return jitted_columns(*of, count=stop - start, outside=a * a - permutation.D, wide=a > 2**16)


def rows(projection: Projection, start: int, stop: int, theta: Array, columns: Array | None = None) -> Array:
    """θ_D's rows start … stop − 1, float32[stop − start], of θ, float32[d] (SPEC 6.2, 11.3)."""
    if isinstance(projection, Program):
        return programs.expanded(projection, start, stop, theta)
    return gather.expanded(gather.Rows(projection, start, stop), theta, gather.scale(projection), columns)


def deltas(spec: Specification, theta: Array, index: Index = None) -> dict[str, tuple[Array, ...]]:
    """A (rank, in) and B (out, rank) of every adapted leaf by its path, with ΔW = B·A: the scale of SPEC 7.7 is in B.

    Where a leaf holds several matrices, one for each layer or expert, A and B have that axis in front, so that a scan
    over layers can take them as they are; all then have the largest rank, and smaller ones are filled up with zeros.
    Where a weight is adapted without factors (rank 0), its one array is ΔW, (out, in).
    """
    entries = {}
    for number, run in enumerate(spec.runs):
        theta_D = rows(spec.projection, run.start, run.stop, theta, None if index is None else index[number])
        lengths = [spec.layer_map.segments[number].size for number in run.numbers]
        entries |= zip(run.numbers, jnp.split(theta_D, np.cumsum(lengths)[:-1]))
    return {path: _of_site(spec, site, entries) for path, site in spec.sites.items()}


def merged(spec: Specification, theta: Array, params, index: Index = None):
    """The tree with W + ΔW in place of every adapted W, in W's dtype; the sum is made in float32 (SPEC 7.10)."""
    found = deltas(spec, theta, index)
    leaves, structure = flattened(params)
    return structure.unflatten([_merged(spec, path, leaf, found) for path, leaf in leaves])


def apply(
    spec: Specification, theta: Array, path: str, x: Array, layer: int | None = None, index: Index = None
) -> Array:
    """ΔW·x for the leaf with this path, computed without ΔW, to be added to the result of W.

    x ends with the leaf's axes of the input, (…, in), and the result with those of the output, (…, out), in x's dtype. ``layer`` is the
    number of the matrix, where a leaf holds several. In a loop over layers, one call of ``deltas`` before it costs
    less.
    """
    site = spec.site(path)
    entries = {}
    for number, place in site.parts:
        if layer is None or place == layer:
            start, segment = spec.offsets[number], spec.layer_map.segments[number]
            own = None if index is None else _columns_of_range(spec, index, start, start + segment.size)
            entries[number] = rows(spec.projection, start, start + segment.size, theta, own)
    factors = _of_site(spec, site, entries, layer)
    inputs = len(site.columns)
    y = x.reshape(*x.shape[: x.ndim - inputs], -1)
    for factor in factors:
        y = y @ factor.T.astype(x.dtype)
    return y.reshape(*y.shape[:-1], *site.sizes(site.rows))


def _columns_of_range(spec, index, start, stop):
    number = next(k for k, run in enumerate(spec.runs) if start < run.stop)
    first = spec.runs[number].start
    return index[number][start - first : stop - first]


def _of_site(spec, site: Site, entries, layer=None) -> tuple[Array, ...]:
    """The arrays that ``deltas`` gives for a leaf, from the entries of its segments by number; with ``layer``, for that
    matrix alone."""
    stack = site.sizes(site.stack)
    wanted = range(math.prod(stack)) if layer is None else [layer]
    parts = {place: [] for place in wanted}
    for number, place in site.parts:
        if place in parts:
            segment = spec.layer_map.segments[number]
            scale = spec.layer_map.factor_scale(segment)
            *A, last = segment.factors(entries[number])
            parts[place].append((segment, (*A, last if scale == 1 else last * scale)))
    out, inside = math.prod(site.sizes(site.rows)), math.prod(site.sizes(site.columns))
    segments = [segment for of_place in parts.values() for segment, _ in of_place]
    if any(segment.rank == 0 for segment in segments):
        found = [(_dense(of_place, out, inside),) for of_place in parts.values()]
    else:
        rank = max(sum(segment.rank for segment, _ in of_place) for of_place in parts.values())
        found = [_pair(of_place, out, inside, rank) for of_place in parts.values()]
    if layer is not None or not stack:
        return found[0]
    return tuple(jnp.stack(each).reshape(*stack, *each[0].shape) for each in zip(*found))


def _pair(parts, out, inside, rank):
    """One A and one B for all segments of a matrix: the segments' side by side, with each B at its rows."""
    As, Bs = [], []
    for segment, (A, B) in parts:
        first = segment.row or 0
        As.append(A)
        Bs.append(B if len(B) == out else jnp.pad(B, ((first, out - first - len(B)), (0, 0))))
    lacking = rank - sum(segment.rank for segment, _ in parts)
    if lacking:
        As.append(jnp.zeros((lacking, inside), jnp.float32))
        Bs.append(jnp.zeros((out, lacking), jnp.float32))
    return (As[0], Bs[0]) if len(As) == 1 else (jnp.concatenate(As), jnp.concatenate(Bs, axis=1))


def _dense(parts, out, inside):
    total = jnp.zeros((out, inside), jnp.float32)
    for segment, factors in parts:
        first = segment.row or 0
        delta = segment.product(*factors)
        total = delta if len(delta) == out else total + jnp.pad(delta, ((first, out - first - len(delta)), (0, 0)))
    return total


def _merged(spec, path, leaf, found):
    if path not in found:
        return leaf
    site, (first, *others) = spec.sites[path], found[path]
    delta = first
    for factor in others:
        delta = jnp.matmul(factor, delta, precision="float32")
    order = (*site.stack, *site.rows, *site.columns)
    delta = delta.reshape(site.sizes(order)).transpose(np.argsort(order))
    return (leaf.astype(jnp.float32) + delta).astype(leaf.dtype)
