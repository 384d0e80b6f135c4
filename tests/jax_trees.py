"""Trees of JAX's arrays, and θ beside NumPy's."""

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the JAX backend needs jax: pip install -e .[jax]")
import jax.numpy as jnp

from backends.jax import (
    Leaf,
    init,
    plan,
)


def same_bits(a, b):
    return np.array_equal(np.asarray(a, np.float32).view(np.uint32), np.asarray(b, np.float32).view(np.uint32))


SEGMENTS = [{"name": "a", "out": 6, "in": 9, "rank": 3}, {"name": "b", "out": 9, "in": 3, "rank": 2}]


def tree():
    """Kernels of all sorts: (in, out), with heads as an axis, of all layers in one array, of fused rows, a table."""
    random = np.random.default_rng(0)
    shapes = {
        "dense": {"kernel": (6, 8), "bias": (8,)}, "query": {"kernel": (6, 2, 4)}, "out": {"kernel": (2, 4, 6)},
        "layers": {"kernel": (3, 6, 6)}, "inner": {"kernel": (6, 3, 6)}, "table": {"embedding": (10, 6)}, "conv": {"kernel": (3, 6, 4)},
    }  # fmt: skip
    return jax.tree.map(
        lambda s: jnp.asarray(random.normal(size=s), jnp.float32), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )


NAMES = {
    "dense.kernel": Leaf("dense.weight", ((1,), (0,))),
    "dense.bias": "dense.bias",
    "query.kernel": Leaf("query.weight", ((1, 2), 0)),
    "out.kernel": Leaf("out.weight", (2, (0, 1))),
    "layers.kernel": Leaf("layer.{}.weight", (1, 0), stacked=0),
    "inner.kernel": Leaf("inner.{}.c_proj.weight", transposed=True, stacked=1),
    "table.embedding": "table.weight",
    "conv.kernel": Leaf("conv.weight", (2, 1, 0)),
}

ADAPTED = ["dense", "query", "out", "layers", "inner", "table", "conv"]


def adapted(rank=2, **options):
    params = tree()
    spec = plan(params, ADAPTED, rank, 90, 7, names=NAMES, **options)
    return params, spec, init(spec)
