"""backends/jax: NumPy's bits, gradients in a fixed order, and one specification under all of JAX's transformations."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the JAX backend needs jax: pip install -e .[jax]")
import jax.numpy as jnp

from backends.jax import (
    Leaf,
    apply,
    deltas,
    from_checkpoint,
    gather,
    index,
    init,
    merged,
    permutation,
    plan,
    programs,
    rounding,
    specification,
    to_checkpoint,
)
from backends.jax import factors as factors_module
from unilora_spec import Adapter, LayerMap, LayerMapError, Projection, Segment
from unilora_spec.protocol import projection_of

ROOT = Path(__file__).parents[1]
SPECIAL = np.array([0.0, -0.0, 1, 2.0**-149, -(2.0**-149), 2.0**-126, 1.1754942e-38, 3.4e38, -1, 0.3], np.float32)


def same_bits(a, b):
    return np.array_equal(np.asarray(a, np.float32).view(np.uint32), np.asarray(b, np.float32).view(np.uint32))


# P


@pytest.mark.parametrize("short", [0, 2**16])
@pytest.mark.parametrize(
    ("D", "d", "start", "stop"),
    [
        (1, 1, 0, 1),
        (10, 4, 0, 10),
        (70_000, 999, 0, 70_000),
        (70_001, 70_001, 3000, 69_999),
        (65536**2, 2**31 - 1, 65536**2 - 50, 65536**2),  # the last D whose numbers fit in 32 bits
        (65536**2 + 1, 12345, 2**32 - 3000, 2**32 + 1),  # and the first one whose do not
        (2**40, 2**31 - 1, 2**40 - 60, 2**40),
    ],
)
def test_columns_are_numpys_up_to_the_largest_D(D, d, start, stop, short, monkeypatch):
    """In 32 bits, by walking each row and by one pass for all and more for strays."""
    if short == 0 and D > 2**32:
        pytest.skip("of so large a D more rows are strays than are asked for")
    monkeypatch.setattr(permutation, "SHORT", short)
    assert not jax.config.jax_enable_x64
    p = Projection(D=D, d=d, seed=2**64 - 7)
    got = jax.jit(partial(permutation.columns_of, p.permutation, d, start, stop))()
    assert np.array_equal(got, p.index(start, stop))


@pytest.mark.parametrize(("kind", "D", "d"), [("balanced", 1000, 77), ("uniform", 300, 40), ("identity", 30, 30)])
def test_expand_has_the_specifications_bits_also_below_the_normal_range(kind, D, d):
    p = Projection(kind=kind, D=D, d=d, seed=3)
    theta = np.resize(SPECIAL, d)
    assert same_bits(jax.jit(partial(factors_module.rows, p, 0, D))(theta), p.expand(theta))
    assert same_bits(jax.jit(partial(factors_module.rows, p, 5, 25))(theta), p.expand(theta, 5, 25))


@pytest.mark.parametrize("special", [False, True])
def test_adjoint_is_within_the_specifications_bound(special):
    """Of numbers below 2^-126 too, which XLA on a CPU takes for 0."""
    p = Projection(D=1000, d=77, seed=3)
    g = (
        np.resize(SPECIAL[[0, 3, 4, 5, 6]], p.D)
        if special
        else np.random.default_rng(0).normal(size=p.D).astype(np.float32)
    )
    rows = gather.Rows(p, 0, p.D)
    got = np.asarray(jax.jit(lambda g: gather.adjoint(rows, g, gather.scale(p)))(g), np.float64)
    magnitudes = np.bincount(p.index(), abs(g.astype(np.float64)), p.d)
    bound = p.counts() * 2.0**-23 * p.scale() * magnitudes + 2.0**-149  # SPEC 6.3
    assert (abs(got - p.adjoint(g)) <= bound).all()


def test_sums_are_made_in_one_order():
    """On a CPU ascending, one after the other; elsewhere by members or by a sort, here called by name."""
    p, rows = Projection(D=5000, d=99, seed=1), slice(10, 4990)
    g = np.random.default_rng(0).normal(size=p.D).astype(np.float32)[rows]
    columns, ascending = p.index(10, 4990), np.zeros(p.d, np.float32)
    np.add.at(ascending, columns, g)
    of_rows = gather.Rows(p, 10, 4990)
    assert same_bits(jax.jit(lambda g: gather.sums(of_rows, g, p.d))(g), ascending)
    assert same_bits(jax.jit(lambda g: gather.sums(None, g, p.d, jnp.asarray(columns, jnp.int32)))(g), ascending)
    by_members = np.zeros(p.d, np.float32)
    for place in range(0, p.D, p.d):
        members = p.permutation.inverse(np.arange(place, min(place + p.d, p.D)))
        inside = (members >= 10) & (members < 4990)
        by_members[: len(members)] += np.where(inside, g[np.clip(members - 10, 0, len(g) - 1)], 0)
    assert same_bits(jax.jit(partial(gather.of_members, of_rows))(g), by_members)
    by_sort = jax.jit(gather.of_sorted, static_argnums=2)(g, columns, p.d)
    assert np.allclose(by_sort, ascending, atol=2e-5)  # sums of 50 numbers near 1: 50 roundings of 2^-24 of up to 8


def test_products_and_sums_are_ieees_where_xla_flushes():
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**32, 20_000, dtype=np.uint64).astype(np.uint32)
    low = (bits >> 5) | (bits << 31)  # below 2^-72, a third of them below 2^-126
    x = np.concatenate([np.repeat(SPECIAL, len(SPECIAL)), bits.view(np.float32), low.view(np.float32)])
    y = np.concatenate([np.tile(SPECIAL, len(SPECIAL)), random.permutation(x[100:])])
    fine = np.isfinite(x) & np.isfinite(y)
    x, y = x[fine], y[fine]
    with np.errstate(all="ignore"):
        assert same_bits(jax.jit(rounding.product)(x, y), x * y)
        assert same_bits(jax.jit(rounding.total)(x, y), x + y)
    x, y, z = random.normal(size=(3, 5000)).astype(np.float32)
    assert (
        not same_bits(jax.jit(lambda x, y, z: x * y + z)(x, y, z), x * y + z) or jax.default_backend() != "cpu"
    )  # an FMA
    assert same_bits(jax.jit(lambda x, y, z: rounding.fence(x * y, x) + z)(x, y, z), x * y + z)


SEGMENTS = [{"name": "a", "out": 6, "in": 9, "rank": 3}, {"name": "b", "out": 9, "in": 3, "rank": 2}]


@pytest.mark.parametrize(("kind", "more"), [("vera", {}), ("tied", {}), ("fastfood", {"d": 20}), ("dense", {})])
def test_programs_have_numpys_bits_and_gradients(kind, more):
    layer_map = LayerMap.from_json(SEGMENTS, 1)
    p = Projection.of(layer_map, kind, seed=5, **more)
    random = np.random.default_rng(0)
    theta, g = random.normal(size=p.d).astype(np.float32), random.normal(size=p.D).astype(np.float32)

    @jax.jit
    def both(theta, g):
        theta_D, back = jax.vjp(partial(programs.expanded, p, 0, p.D), theta)
        return theta_D, back(g)[0]

    theta_D, _ = both(theta, g)
    if p.exact:
        assert same_bits(theta_D, p.expand(theta))
        theta[::3] = np.resize(SPECIAL[3:7], len(theta[::3]))
        assert same_bits(both(theta, g)[0], p.expand(theta))
    else:
        assert np.allclose(theta_D, p.expand(theta), rtol=1e-5, atol=1e-6)  # sums of three products in float32
    theta = random.normal(size=p.d).astype(np.float32)
    # Sums of up to 81 products of numbers near 1, in float32.
    assert np.allclose(both(theta, g)[1], p.adjoint(g, theta=theta), rtol=1e-4, atol=1e-4)


# A tree


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


@pytest.mark.parametrize("rank", [0, 2])
def test_merged_is_the_specifications_merge_of_the_checkpoint(rank):
    params, spec, theta = adapted(rank, alpha=3.0, ranks={"layer.1": 1} if rank else {})
    theta = theta + 0.1
    expected = {name: value.copy() for name, value in to_checkpoint(params, NAMES).items()}
    adapter = Adapter(spec.projection, spec.layer_map, np.asarray(theta))
    adapter.check_base({name: value.shape for name, value in expected.items()})
    adapter.merge(expected)
    got = to_checkpoint(jax.jit(merged)(spec, theta, params, index(spec)), NAMES)
    assert all(
        np.allclose(got[name], expected[name], rtol=1e-6, atol=1e-6) for name in expected
    )  # a rounding or two at 1
    assert abs(got["conv.weight"] - to_checkpoint(params, NAMES)["conv.weight"]).max() > 0.01
    back = from_checkpoint(to_checkpoint(params, NAMES), jax.tree.map(jnp.zeros_like, params), NAMES)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, back, params))


def test_apply_is_what_merging_adds():
    params, spec, theta = adapted()
    theta, random = theta + 0.1, np.random.default_rng(1)
    x, heads = (random.normal(size=shape).astype(np.float32) for shape in ((5, 6), (5, 2, 4)))
    ways = {"dense": ("bi,io->bo", x), "query": ("bi,ihk->bhk", x), "out": ("bhk,hko->bo", heads)}
    stacked = {"layers": lambda w: w[1], "inner": lambda w: w[:, 1]}

    @jax.jit
    def both(theta, columns):
        full = merged(spec, theta, params)
        difference = {name: full[name]["kernel"] - params[name]["kernel"] for name in (*ways, *stacked)}
        found = [
            (apply(spec, theta, f"{n}.kernel", x, index=columns), jnp.einsum(sum_, x, difference[n]))
            for n, (sum_, x) in ways.items()
        ]
        return found + [
            (apply(spec, theta, f"{n}.kernel", x, layer=1), x @ take(difference[n])) for n, take in stacked.items()
        ]

    for got, expected in both(theta, index(spec)):
        assert np.allclose(got, expected, atol=1e-5)  # roundings of W + ΔW at 1 to 4, over eight of them


def test_parts_of_a_weight_act_in_their_rows():
    """Fused q and v of one (out, in) leaf, and experts in a stack, as a file names them."""
    random = np.random.default_rng(0)
    params = {
        "qkv": jnp.asarray(random.normal(size=(12, 5)), jnp.float32),
        "experts": jnp.asarray(random.normal(size=(4, 5, 6)), jnp.float32),
    }
    segments = [Segment("qkv", 4, 5, 2, row=8), Segment("qkv", 4, 5, 1, row=0)]
    segments += [Segment("experts", 6, 5, 2, transposed=True, index=k) for k in (3, 1)]
    spec = plan(
        params, LayerMap(segments, alpha=2), d=30, names={"qkv": "qkv", "experts": Leaf("experts", transposed=True)}
    )
    theta = init(spec) + 0.1
    expected = {name: np.array(value) for name, value in params.items()}
    Adapter(spec.projection, spec.layer_map, np.asarray(theta)).merge(expected)
    got = jax.jit(merged)(spec, theta, params)
    assert all(np.allclose(got[name], expected[name], atol=1e-6) for name in expected)  # a rounding or two at 1
    shapes = {path: [factor.shape for factor in each] for path, each in jax.eval_shape(deltas, spec, theta).items()}
    assert shapes == {"qkv": [(3, 5), (12, 3)], "experts": [(4, 2, 5), (4, 6, 2)]}


def test_own_names_say_what_is_in_and_out():
    params = {
        "blocks": [{"w": jnp.zeros((4, 6))}],
        "attention": {"kernel": jnp.zeros((4, 2, 3))},
        "linear": {"weight": jnp.zeros((6, 4))},
    }
    spec = plan(params, ["w", "linear"], 2, 10)
    assert spec.layer_map.segments == (
        Segment("blocks.0.w", 6, 4, 2, transposed=True),
        Segment("linear.weight", 6, 4, 2),
    )
    with pytest.raises(LayerMapError, match=r"attention.kernel has 3 axes, \[4, 2, 3\]; say by names"):
        plan(params, ["attention"], 2, 10)
    with pytest.raises(LayerMapError, match="no matrix of the tree is named 'linaer'; names are linear"):
        plan(params, ["linaer"], 2, 10)
    with pytest.raises(LayerMapError, match="names has nowhere, and no leaf has that path"):
        plan(params, ["w"], 2, 10, names={"nowhere": "x"})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_linens_variables_are_a_tree():
    """A Linen model runs with W + ΔW as with any variables, and its layers are called by their paths."""
    linen = pytest.importorskip("flax.linen")

    class Two(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(3, name="down")(jax.nn.relu(linen.Dense(8, name="up")(x)))

    x = jnp.asarray(np.random.default_rng(2).normal(size=(4, 5)), jnp.float32)
    variables = jax.jit(Two().init)(jax.random.key(0), x)
    spec = plan(variables, ["up", "down"], 2, 20, seed=3)
    theta = init(spec) + 0.1

    @jax.jit
    def both(theta, columns):
        pairs = deltas(spec, theta, columns)
        assert sorted(pairs) == ["params.down.kernel", "params.up.kernel"]

        def layer(x, name):
            held, (A, B) = variables["params"][name], pairs[f"params.{name}.kernel"]
            return x @ held["kernel"] + (x @ A.T) @ B.T + held["bias"]

        ours = Two().apply(merged(spec, theta, variables, columns), x)
        return ours, layer(jax.nn.relu(layer(x, "up")), "down"), Two().apply(variables, x)

    got, expected, base = both(theta, index(spec))
    # Roundings of W + ΔW at 1, over thirteen products.
    assert np.allclose(got, expected, atol=1e-5)
    assert not np.allclose(got, base, atol=1e-3)


# Transformations


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
