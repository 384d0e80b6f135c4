"""The JAX backend as an implementation that the conformance tests ask, every answer by a compiled function.

``python -m conformance_tests --impl backends.jax.conformance --timeout 60``
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from unilora_spec.program import Program
from unilora_spec.protocol import (
    adapter_of,
    answering,
    array_of,
    gather_of,
    pack,
    pack_delta_weight,
    pack_weights,
    projection_of,
    segment_of,
    serve,
    weights_of,
)

from . import gather, programs
from .factors import merged
from .paths import Leaf, named
from .permutation import WORD, Numbers, modulo, pair, pairs, per, walked
from .specification import Specification

LEAST = 16  # the shortest array that a function is compiled for; longer ones are filled up to the next power of two


@partial(jax.jit, static_argnames=("count", "wide"))
def _columns(of, start, length, d, per_d, count, wide):
    """The columns of a range of kind `balanced`, filled up with the last one: one compiled function for every D, d and
    seed."""
    i = jnp.minimum(lax.iota(WORD, count), jnp.maximum(length, 1) - 1)
    return modulo(of, *walked(of, *pairs(of, start, i)), d, per_d, wide).astype(jnp.int32)


@partial(jax.jit, static_argnums=0)
def _rows(rows, theta, scale, index):
    return gather.expanded(rows, theta, scale, index)


@partial(jax.jit, static_argnums=0)
def _gradient(rows, theta, scale, index, g):
    return jax.vjp(lambda theta: gather.expanded(rows, theta, scale, index), theta)[1](g)[0]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _of_program(projection, start, stop, theta):
    return programs.expanded(projection, start, stop, theta)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _gradient_of_program(projection, start, stop, theta, g):
    return jax.vjp(lambda theta: programs.expanded(projection, start, stop, theta), theta)[1](g)[0]


_merged = jax.jit(merged)


def _columns_of(p, start, stop):
    start, stop = p.range_of(start, stop, p.D)
    if p.kind != "balanced":
        return p.index(start, stop)
    permutation = p.permutation
    of, a = Numbers.of(permutation), permutation.a
    length = np.uint32(stop - start)
    begin = pair(min(start, p.D - 1), a)
    return np.asarray(_columns(of, begin, length, np.uint32(p.d), per(p.d), _padded(stop - start), a > 2**16))[
        : stop - start
    ]


def _padded(length: int) -> int:
    return max(LEAST, 1 << (length - 1).bit_length())


def _filled(array, length: int, value=0):
    return np.pad(array, (0, length - len(array)), constant_values=value)


def _gather(p, start, stop):
    """(scale, index) of a gather, both filled up: the added rows have an added column."""
    index, d = _columns_of(p, start, stop), _padded(p.d + 1)
    return _filled(p.scale(), d), _filled(index, _padded(len(index)), d - 1).astype(np.int32)


def _index(r):
    return {"index": pack(_columns_of(gather_of(r), r["start"], r["stop"]), "index")}


def _expanded(p, theta, start, stop):
    start, stop = p.range_of(start, stop, p.D)
    if isinstance(p, Program):
        return np.asarray(_of_program(p, start, stop, theta))
    scale, index = _gather(p, start, stop)
    return np.asarray(_rows(None, _filled(theta, len(scale)), scale, index))[: stop - start]


def _expand(r):
    p = projection_of(r)
    return {"theta_D": pack(_expanded(p, array_of(r, "theta", p.d), r["start"], r["stop"]), "theta_D")}


def _adjoint(r):
    p = projection_of(r)
    start, stop = p.range_of(r["start"], r["stop"], p.D)
    g = array_of(r, "g", stop - start)
    if isinstance(p, Program):
        return {"theta": pack(_gradient_of_program(p, start, stop, array_of(r, "theta", p.d), g), "theta")}
    scale, index = _gather(p, start, stop)
    found = _gradient(None, np.zeros_like(scale), scale, index, _filled(g, len(index)))
    return {"theta": pack(np.asarray(found)[: p.d], "theta")}


def _delta_weight(r):
    adapter = adapter_of(r)
    segment, offset = segment_of(r, adapter, adapter.layer_map.placed())
    factors = segment.factors(_expanded(adapter.projection, adapter.theta, offset, offset + segment.size))
    scale = adapter.layer_map.factor_scale(segment)
    return pack_delta_weight(segment, factors, scale * np.asarray(segment.product(*map(jnp.asarray, factors))))


def _merge(r):
    adapter, weights = adapter_of(r), weights_of(r)
    adapter.check_base({name: weight.shape for name, weight in weights.items()})
    adapter.check_saved({name: weight.shape for name, weight in weights.items()})
    tree = {f"w{number}": weight for number, weight in enumerate(weights.values())}
    names = {f"w{number}": Leaf(name) for number, name in enumerate(weights)}
    leaves = tuple((path, *held) for path, held in named(tree, names).items())
    found = _merged(Specification(adapter.projection, adapter.layer_map, leaves), jnp.asarray(adapter.theta), tree)
    found = {name: found[f"w{number}"] for number, name in enumerate(weights)} | dict(adapter.saved)
    return {"weights": pack_weights(found), "same_contents": adapter.same_contents(weights_of(r).get)}


answer = answering(
    "backends.jax",
    {"index": _index, "expand": _expand, "adjoint": _adjoint, "delta_weight": _delta_weight, "merge": _merge},
)

if __name__ == "__main__":
    serve(answer)
