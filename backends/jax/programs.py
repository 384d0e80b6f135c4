"""θ_D of the kinds that are programs (SPEC 11): the seven operations on JAX's arrays, whose autodiff gives their Jacobian."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from unilora_spec.program import OPERATIONS, Program, ordered

from .rounding import fence, has_below, product, total

OF_JAX = OPERATIONS | {
    "take": lambda how, x, index: x[index.astype(jnp.int32)],
    "largest": lambda how, x: lax.top_k(x, how)[1],
}
# Where all numbers of θ are at least this, nothing that a program computes is below 2^-126, as its frozen numbers are
# above 2^-70.
SMALL = 2.0**-40


def expanded(projection: Program, start: int, stop: int, theta: Array) -> Array:
    """θ_D's rows start … stop − 1, float32[stop − start], of θ, float32[d]. Frozen numbers become constants of a
    compiled function."""
    pieces = list(projection.pieces(start, stop))
    if not pieces:
        return theta[:0]

    def rows(operations, theta):
        with jax.default_matmul_precision("float32"):
            return jnp.concatenate([_result(value, theta, operations(theta)) for _, value in pieces])

    if projection.exact:
        made = lax.cond(has_below(theta, SMALL), partial(rows, _exact), partial(rows, _unfused), theta)
    else:
        made = rows(lambda theta: OF_JAX, theta)
    return made[start - pieces[0][0] : stop - pieces[0][0]]


def _unfused(theta):
    """The operations, with each product rounded before it is added to something."""
    return OF_JAX | {"multiply": lambda how, x, y: fence(x * y, theta)}


def _exact(theta):
    """The operations of ``_unfused``, which also keep numbers below 2^-126."""
    return OF_JAX | {
        "multiply": lambda how, x, y: fence(product(x, y), theta),
        "add": lambda how, x, y: total(x, y),
        "subtract": lambda how, x, y: total(x, -jnp.asarray(y)),
    }


def _result(value, theta, operations) -> Array:
    made = {}
    for each in ordered([value]):
        if each.op == "theta":
            made[each] = theta[each.how : each.how + math.prod(each.shape)].reshape(each.shape)
        elif each.op == "frozen":
            made[each] = each.array if each.array.dtype == np.float32 else each.array.astype(np.int32)
        else:
            made[each] = operations[each.op](each.how, *[made[x] for x in each.inputs])
    return jnp.asarray(made[value])
