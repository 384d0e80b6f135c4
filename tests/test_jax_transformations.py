"""JAX's transformations of an adapted function: grad, vmap, checkpoint, scan, a mesh."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the JAX backend needs jax: pip install -e .[jax]")
import jax.numpy as jnp
from jax_trees import SEGMENTS, adapted, same_bits

from backends.jax import (
    Leaf,
    deltas,
    index,
    init,
    merged,
    plan,
    specification,
)
from backends.jax import factors as factors_module
from unilora_spec.protocol import projection_of

ROOT = Path(__file__).parents[1]


def test_one_specification_under_grad_vmap_checkpoint_and_scan():
    random = np.random.default_rng(0)
    params = {"layers": {"kernel": jnp.asarray(random.normal(size=(4, 6, 6)), jnp.float32)}}
    names = {"layers.kernel": Leaf("h.{}.weight", (1, 0), stacked=0)}
    spec = plan(params, ["layers"], 2, 40, names=names)
    assert len(spec.layer_map) == 4 and hash(spec) == hash(plan(params, ["layers"], 2, 40, names=names))
    x, thetas = jnp.asarray(random.normal(size=(3, 6)), jnp.float32), jnp.stack([init(spec), init(spec) + 0.05])

    def by_loop(theta):
        y = x
        for kernel in merged(spec, theta, params)["layers"]["kernel"]:
            y = jnp.tanh(y @ kernel)
        return (y**2).sum()

    def by_scan(theta):
        def layer(y, held):
            kernel, A, B = held
            return jnp.tanh(y @ kernel + (y @ A.T) @ B.T), None

        held = params["layers"]["kernel"], *deltas(spec, theta)["layers.kernel"]
        return (jax.lax.scan(jax.checkpoint(layer), x, held)[0] ** 2).sum()

    one = jax.jit(jax.value_and_grad(by_loop))
    expected = [one(theta) for theta in thetas]
    for loss in (by_scan, jax.checkpoint(by_loop)):
        values, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss)))(thetas)
        for value, gradient, (its, of_it) in zip(values, gradients, expected):
            assert np.allclose(value, its, rtol=1e-5) and np.allclose(
                gradient, of_it, atol=1e-5
            )  # the same sums, otherwise grouped
    moved = [one(thetas[0] + sign * 1e-2 * np.eye(40, dtype=np.float32)[3])[0] for sign in (1, -1)]
    assert (
        abs((moved[0] - moved[1]) / 2e-2 - expected[0][1][3]) < 2e-3
    )  # float32's 1e-6 of a loss near 10, over 2e-2; and curvature


def test_a_long_vector_in_arrays_of_whole_segments(monkeypatch):
    params, spec, theta = adapted()
    whole = jax.jit(merged)(spec, theta, params)
    monkeypatch.setattr(specification, "RUN", 100)
    _, cut, _ = adapted()
    assert len(cut.runs) == 4 and cut.runs[-1].stop == cut.layer_map.D
    parts = jax.jit(lambda theta, columns: merged(cut, theta, params, columns))(theta, index(cut))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, whole, parts))


MESH = """
import re
from functools import partial
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from backends.jax import init, merged, plan
mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
random = np.random.default_rng(0)
params = {f"l{i}": {"kernel": jnp.asarray(random.normal(size=(16, 16)), jnp.float32)} for i in range(3)}
spec = plan(params, ["l0", "l1", "l2"], 2, 40)
theta, x = init(spec), jnp.asarray(random.normal(size=(32, 16)), jnp.float32)

def loss(theta, params, x):
    for layer in merged(spec, theta, params).values():
        x = jnp.tanh(x @ layer["kernel"])
    return (x ** 2).mean()

@jax.jit
@partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P())
def gradient(theta, params, x):
    whole = jax.tree.map(lambda kernel: jax.lax.all_gather(kernel, "data", tiled=True), params)
    own = jax.grad(loss)(jax.lax.pcast(theta, "data", to="varying"), whole, x)
    return jax.lax.pmean(own, "data")

sharded = NamedSharding(mesh, P("data"))
arguments = jax.device_put(theta, NamedSharding(mesh, P())), *jax.device_put((params, x), sharded)
compiled = gradient.lower(*arguments).compile()
print("\\n".join(re.findall(r"= (\\S+) (?:all-reduce|reduce-scatter)\\(", compiled.as_text())))
one, automatic = jax.jit(jax.grad(loss)), jax.jit(jax.grad(loss), out_shardings=NamedSharding(mesh, P()))
by_hand = np.asarray(compiled(*arguments))
print(*[abs(np.asarray(way) - by_hand).max() / abs(by_hand).max() for way in (one(theta, params, x), automatic(*arguments))])
"""


def test_the_gradient_over_a_mesh_is_one_all_reduce_of_d_floats():
    environment = (
        os.environ
        | {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",  # for a quicker compiler
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
        }
    )
    done = subprocess.run(
        [sys.executable, "-c", MESH], capture_output=True, text=True, env=environment, check=False, timeout=250
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reduced, *errors = done.stdout.split()
    assert reduced == "f32[40]{0}" and len(errors) == 2
    assert max(map(float, errors)) < 1e-5  # the same sums in other groups: float32's 6e-8, of some hundred numbers


def test_every_gather_is_known():
    """Kinds that JAX has no arithmetic for are asked of the specification."""
    p = projection_of({"projection": {"kind": "layerwise", "seed": "5", "d": 20, "D": 69, "layers": SEGMENTS}})
    theta = np.arange(p.d, dtype=np.float32)
    assert same_bits(jax.jit(partial(factors_module.rows, p, 0, p.D))(theta), p.expand(theta))
