"""θ_D = Pθ of gathers and its adjoint (SPEC 6.2, 6.3), a pure function of θ, for any range of rows.

The columns of rows are an argument, or computed where they are needed: of kind `balanced` by π within the compiled function, of the
others by the specification's NumPy when the function is traced, which makes them one of its constants.

The adjoint adds in a fixed order wherever it runs. On a CPU XLA's scatter is one loop over the rows, ascending. Elsewhere it is made of
atomic additions in any order; there the members of each column are gathered, by π⁻¹ or by a stable sort, and added one after the other.
"""

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from unilora_spec.gather import Gather

from .permutation import WORD, Numbers, below, columns_of, low, pair, pairs, walked
from .rounding import LIFT, SMALL, has_below, lowered, parts, product

IN_BOUNDS = lax.GatherScatterMode.PROMISE_IN_BOUNDS


def columns(projection: Gather, start: int, stop: int) -> Array:
    """The column of each of the rows start … stop − 1: int32[stop − start] (SPEC 6), at most 2^31 − 1 of them."""
    if projection.kind == "balanced":
        return columns_of(projection.permutation, projection.d, start, stop)
    return jnp.asarray(projection.index(start, stop, out=np.empty(stop - start, np.int32)))


def scale(projection: Gather) -> Array:
    """1 / √n_j of every column: float32[d] (SPEC 6.1). A scale of one or two runs of equal numbers is made where it is
    needed."""
    numbers = projection.scale()
    edges = [0, *np.flatnonzero(np.diff(numbers)) + 1, len(numbers)]
    if len(edges) > 3:
        return jnp.asarray(numbers)
    return jnp.concatenate([jnp.full(end - i, numbers[i]) for i, end in pairwise(edges)])


class Rows(NamedTuple):
    """The rows start … stop − 1 of a projection, from which their columns are computed."""

    projection: Gather
    start: int
    stop: int

    @property
    def columns(self) -> Array:
        """The column of each row: int32."""
        return columns(*self)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def expanded(rows: Rows | None, theta: Array, scale: Array, index: Array | None = None) -> Array:
    """θ_D's rows, float32[rows], from θ, float32[d], and the scale of each column, float32[d]. ``index`` has their
    columns, int32[rows], if these are known; one of ``rows`` and ``index`` is needed.

    The bits are the specification's, also for numbers below 2^-126. Differentiable with respect to θ, by ``adjoint``.
    """
    # The result of the branches is computed before the gather; XLA would otherwise multiply anew for each row.
    scaled = lax.cond(has_below(theta, SMALL), product, jnp.multiply, theta, scale)
    return gathered(scaled, rows.columns if index is None else index)


def _forward(rows, theta, scale, index=None):
    return expanded(rows, theta, scale, index), (scale, index)


def _backward(rows, kept, g):
    return adjoint(rows, g, *kept), None, None


expanded.defvjp(_forward, _backward)


def gathered(scaled: Array, index: Array) -> Array:
    """scaled[index] without checks of the index, which is known to be in bounds."""
    numbers = lax.GatherDimensionNumbers(offset_dims=(), collapsed_slice_dims=(0,), start_index_map=(0,))
    return lax.gather(scaled, index[:, None], numbers, (1,), mode=IN_BOUNDS)


def adjoint(rows: Rows | None, g: Array, scale: Array, index: Array | None = None) -> Array:
    """Pᵀg, float32[d], of the gradient g of θ_D's rows, float32[rows]; beyond them it is 0 (SPEC 6.3)."""

    def with_small(g, scale, *index):
        # XLA on a CPU drops numbers below 2^-126, so that these are scaled up before they are added.
        large, small = (scale * sums(rows, each, len(scale), *index) for each in parts(g))
        return jnp.where(jnp.abs(large) < SMALL, lowered(small + large * 2.0**LIFT), large + lowered(small))

    def without_small(g, scale, *index):
        return scale * sums(rows, g, len(scale), *index)

    return lax.cond(has_below(g, SMALL), with_small, without_small, g, scale, *([] if index is None else [index]))


def sums(rows: Rows | None, g: Array, d: int, index: Array | None = None) -> Array:
    """Σ g_i over the rows in each column: float32[d]."""

    def on_a_cpu(g, *index):
        return one_by_one(g, index[0] if index else rows.columns, d)

    def elsewhere(g, *index):
        if rows and rows.projection.kind == "balanced":
            return of_members(rows, g)
        return of_sorted(g, index[0] if index else rows.columns, d)

    return lax.platform_dependent(g, *([] if index is None else [index]), cpu=on_a_cpu, default=elsewhere)


def one_by_one(g: Array, index: Array, d: int) -> Array:
    """The sums by a scatter."""
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=(), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
    )
    return lax.scatter_add(jnp.zeros_like(g, shape=d), index[:, None], g, numbers, mode=IN_BOUNDS)


def of_members(rows: Rows, g: Array) -> Array:
    """The sums of kind `balanced` by π⁻¹ of each column's dealt places j, j + d, j + 2d, … (SPEC 4.6), a place a step."""
    permutation, d = rows.projection.permutation, rows.projection.d
    of, a = Numbers.of(permutation), permutation.a
    first, last = pair(rows.start, a), pair(rows.stop, a)
    turns = [pair(place, a) for place in range(0, permutation.D, d)]
    begins = tuple(np.array(halves, np.uint32) for halves in zip(*turns))

    def add(total, begin):
        dealt = pairs(of, begin, lax.iota(WORD, d))
        there = below(*dealt, of.D)
        members = walked(of, *(jnp.where(there, each, 0) for each in dealt), inverse=True)
        inside = there & below(*members, last) & ~below(*members, first)
        place = jnp.where(inside, low(of, *members) - low(of, *first), 0).astype(jnp.int32)
        return total + jnp.where(inside, gathered(g, place), 0), None

    return lax.scan(add, jnp.zeros_like(g, shape=d), begins)[0] if len(g) else jnp.zeros_like(g, shape=d)


def of_sorted(g: Array, index: Array, d: int) -> Array:
    """The sums by a stable sort of the rows by their columns, and a scan that begins anew at each column."""
    order = jnp.argsort(index, stable=True)
    ordered = index[order]

    def add(left, right):
        return right[0] | left[0], jnp.where(right[0], right[1], left[1] + right[1])

    begins = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])[: len(g)]
    running = lax.associative_scan(add, (begins, g[order]))[1]
    ends = jnp.concatenate([begins[1:], jnp.ones(1, bool)])[: len(g)]
    return jnp.zeros_like(g, shape=d).at[jnp.where(ends, ordered, d)].set(running, mode="drop")
