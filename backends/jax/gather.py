"""θ_D = Pθ of gathers and its adjoint (SPEC 6.2, 6.3), a pure function of θ, for any range of rows.

The columns of rows are an argument, or computed where they are needed: of kind `balanced` by π within the compiled function, of the
others by the specification's NumPy when the function is traced, which makes them one of its constants.

The adjoint adds in a fixed order wherever it runs. On a CPU XLA's scatter is one loop over the rows, ascending. Elsewhere it is made of
atomic additions in any order; there the members of each column are gathered, by π⁻¹ or by a stable sort, and added one after the other.
"""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from unilora_spec.projection import Gather

from .permutation import WORD, Numbers, below, columns_of, low, pair, pairs, walked
from .rounding import SMALL, has_small, lowered, parts, product

MOST = 2**31 - 1  # numbers of an array that JAX can index without its 64-bit mode
IN_BOUNDS = lax.GatherScatterMode.PROMISE_IN_BOUNDS


def columns(projection: Gather, start: int, stop: int) -> Array:
    """The column of each of the rows start … stop − 1: int32[stop − start] (SPEC 6), at most 2^31 − 1 of them."""
    if projection.kind == "balanced":
        return columns_of(projection.permutation, projection.d, start, stop)
    return jnp.asarray(projection.index(start, stop, out=np.empty(stop - start, np.int32)))


def scale(projection: Gather) -> Array:
    """1 / √n_j of every column: float32[d] (SPEC 6.1). A few stretches of equal numbers are made where they are needed."""
    numbers = projection.scale()
    edges = [0, *np.flatnonzero(np.diff(numbers)) + 1, len(numbers)]
    if len(edges) > 3:
        return jnp.asarray(numbers)
    return jnp.concatenate([jnp.full(end - i, numbers[i]) for i, end in pairwise(edges)])


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def expanded(projection: Gather, start: int, stop: int, theta: Array, index: Array | None = None) -> Array:
    """θ_D's rows start … stop − 1, float32[stop − start], of θ, float32[d]; ``index`` is ``columns`` of them, if it is at hand.

    The bits are the specification's, numbers below 2^-126 too. Differentiable to θ, by ``adjoint``.
    """
    return _forward(projection, start, stop, theta, index)[0]


def _forward(projection, start, stop, theta, index):
    return gathered(product(theta, scale(projection)), _index(projection, start, stop, index)), index


def _backward(projection, start, stop, index, g):
    return adjoint(projection, start, stop, g, index), None


expanded.defvjp(_forward, _backward)


def _index(projection, start, stop, index):
    return columns(projection, start, stop) if index is None else index


def gathered(scaled: Array, index: Array) -> Array:
    """scaled[index], without the checks of an index that is known to be right."""
    numbers = lax.GatherDimensionNumbers(offset_dims=(), collapsed_slice_dims=(0,), start_index_map=(0,))
    return lax.gather(scaled, index[:, None], numbers, (1,), mode=IN_BOUNDS)


def adjoint(projection: Gather, start: int, stop: int, g: Array, index: Array | None = None) -> Array:
    """Pᵀg, float32[d], of the gradient g, float32[stop − start], of the rows start … stop − 1; beyond them it is 0 (SPEC 6.3)."""
    of_columns = scale(projection)

    def small_too(g):
        # XLA on a CPU drops what is below 2^-126, so that such numbers are added as larger ones.
        large, lifted = parts(g)
        whole, small = (of_columns * sums(projection, start, stop, each, index) for each in (large, lifted))
        return jnp.where(jnp.abs(whole) < SMALL, lowered(small + whole * 2.0**120), whole + lowered(small))

    def as_usual(g):
        return of_columns * sums(projection, start, stop, g, index)

    return lax.cond(has_small(g), small_too, as_usual, g)


def sums(projection: Gather, start: int, stop: int, g: Array, index: Array | None) -> Array:
    """Σ g_i over the rows of the range in each column: float32[d]."""
    by_members = partial(of_members, projection, start, stop) if projection.kind == "balanced" else None

    def elsewhere(g, *index):
        return by_members(g) if by_members else of_sorted(g, index[0], projection.d)

    def on_a_cpu(g, *index):
        return one_by_one(g, index[0] if index else columns(projection, start, stop), projection.d)

    if index is None and not by_members:
        index = columns(projection, start, stop)
    given = () if index is None else (index,)
    return lax.platform_dependent(g, *given, cpu=on_a_cpu, default=elsewhere)


def one_by_one(g: Array, index: Array, d: int) -> Array:
    """The sums by a scatter."""
    numbers = lax.ScatterDimensionNumbers(update_window_dims=(), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,))
    return lax.scatter_add(jnp.zeros(d, jnp.float32), index[:, None], g, numbers, mode=IN_BOUNDS)


def of_members(projection: Gather, start: int, stop: int, g: Array) -> Array:
    """The sums of kind `balanced` by π⁻¹ of each column's dealt places j, j + d, j + 2d, … (SPEC 4.6), a place a step."""
    permutation, d, D = projection.permutation, projection.d, projection.D
    of, a = Numbers.of(permutation), permutation.a
    first, last = (pair(bound, a) for bound in (start, stop))
    turns = [pair(k, a) for k in range(0, D, d)]
    begins = tuple(np.array(halves, np.uint32) for halves in zip(*turns))

    def add(total, begin):
        dealt = pairs(of, begin, lax.iota(WORD, d))
        there = below(*dealt, of.D)
        rows = walked(of, *(jnp.where(there, each, 0) for each in dealt), inverse=True)
        inside = there & below(*rows, last) & ~below(*rows, first)
        place = jnp.where(inside, low(of, *rows) - low(of, *first), 0).astype(jnp.int32)
        return total + jnp.where(inside, gathered(g, place), 0), None

    return lax.scan(add, jnp.zeros(d, jnp.float32), begins)[0] if len(g) else jnp.zeros(d, jnp.float32)


def of_sorted(g: Array, index: Array, d: int) -> Array:
    """The sums by a stable sort of the rows by their columns, and a scan that begins anew at each column."""
    order = jnp.argsort(index, stable=True)
    ordered = index[order]

    def add(left, right):
        return right[0] | left[0], jnp.where(right[0], right[1], left[1] + right[1])

    begins = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])[: len(g)]
    running = lax.associative_scan(add, (begins, g[order]))[1]
    ends = jnp.concatenate([begins[1:], jnp.ones(1, bool)])[: len(g)]
    return jnp.zeros(d, jnp.float32).at[jnp.where(ends, ordered, d)].set(running, mode="drop")
