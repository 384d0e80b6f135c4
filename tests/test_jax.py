"""P in JAX, and adapted trees."""

from functools import partial

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the JAX backend needs jax: pip install -e .[jax]")
import jax.numpy as jnp
from jax_trees import NAMES, SEGMENTS, adapted, same_bits

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
    to_checkpoint,
)
from backends.jax import factors as factors_module
from unilora_spec import Adapter, LayerMap, LayerMapError, Projection, Segment

SPECIAL = np.array([0.0, -0.0, 1, 2.0**-149, -(2.0**-149), 2.0**-126, 1.1754942e-38, 3.4e38, -1, 0.3], np.float32)


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
