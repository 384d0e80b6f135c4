"""θ_D of the kinds that are programs (SPEC 11): the seven operations on JAX's arrays, whose autodiff gives their Jacobian."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from unilora_spec.program import OPERATIONS, Program, ordered

from .rounding import fence

OF_JAX = OPERATIONS | {
    "take": lambda how, x, index: x[index.astype(jnp.int32)],
    "largest": lambda how, x: lax.top_k(x, how)[1],
}


def expanded(projection: Program, start: int, stop: int, theta: Array) -> Array:
    """θ_D's rows start … stop − 1, float32[stop − start], of θ, float32[d]. What is frozen becomes a constant of a compiled function."""
    pieces = list(projection.pieces(start, stop))
    if not pieces:
        return theta[:0]
    with jax.default_matmul_precision("float32"):
        rows = jnp.concatenate([_result(value, theta, projection.exact) for _, value in pieces])
    first = pieces[0][0]
    return rows[start - first : stop - first]


def _result(value, theta, exact) -> Array:
    made = {}
    for each in ordered([value]):
        if each.op == "theta":
            made[each] = theta[each.how : each.how + math.prod(each.shape)].reshape(each.shape)
        elif each.op == "frozen":
            made[each] = each.array if each.array.dtype == np.float32 else each.array.astype(np.int32)
        else:
            result = OF_JAX[each.op](each.how, *[made[x] for x in each.inputs])
            made[each] = fence(result, theta) if exact and each.op == "multiply" else result
    return jnp.asarray(made[value])
