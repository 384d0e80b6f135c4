"""A chain (SPEC 11.15) is its links, trained and merged one after the other."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

from backends.torch import attach, load_adapter
from backends.torch.optimizers import LoraPro
from unilora_spec import Adapter, KindError, LayerMap, LimitError, Projection, Segment
from unilora_spec.permutation import keys
from unilora_spec.projection import kind_named

LINKS, SEED = 3, 2**63 + 5


def seed_of(link):
    """What SPEC 11.15 says of it."""
    high, low = keys(SEED, 12 + 2 * link)[-2:]
    return high * 2**32 + low


def drawn(scaling="lora", d=20):
    """A chain of random numbers on parts of weights, and its links as adapters of their own."""
    segments = [
        Segment("a", 12, 8, 2),
        Segment("b", 6, 10, 1, transposed=True, row=3),
        Segment("b", 3, 10, 1, transposed=True, row=0),
        Segment("c", 9, 10, 3, index=1),
    ]
    link_map = LayerMap(segments, alpha=3, scaling=scaling)
    layer_map = kind_named("chain").fitted(link_map, links=LINKS)
    theta = np.random.default_rng(0).standard_normal(LINKS * d).astype(np.float32)
    links = [
        Adapter(Projection("balanced", D=link_map.D, d=d, seed=seed_of(k)), link_map, theta[k * d : (k + 1) * d])
        for k in range(LINKS)
    ]
    return Adapter(Projection.of(layer_map, "chain", LINKS * d, SEED, links=LINKS), layer_map, theta), links


def test_it_is_its_links_side_by_side():
    """A has the rows of all links, B the columns, to the bit."""
    chain, links = drawn()
    for (_, A, B), *of_links in zip(chain.factors(), *(link.factors() for link in links), strict=True):
        assert np.array_equal(A, np.concatenate([A for _, A, _ in of_links]))
        assert np.array_equal(B, np.concatenate([B for _, _, B in of_links], axis=1))


@pytest.mark.parametrize("scaling", ["lora", "rslora"])
def test_merged_it_is_its_links_merged_one_after_the_other(scaling):
    chain, links = drawn(scaling)
    rng = np.random.default_rng(1)
    shapes = {"a": (12, 8), "b": (10, 9), "c": (3, 9, 10)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    in_turn = copy.deepcopy(weights)
    chain.merge(weights)
    for link in links:
        link.merge(in_turn)
    for name in shapes:  # float32 sums of a dozen products of numbers near 1, in another order
        assert np.allclose(weights[name], in_turn[name], rtol=0, atol=1e-5)


# Training


@pytest.fixture
def problem():
    """A model, and what another one says of some inputs."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 8))
    x = torch.randn(64, 12)
    with torch.no_grad():
        y = base(x) + torch.randn(64, 8)
    return base, x, y


def trained(model, x, y, steps=40):
    """The losses of a training with an optimizer of its own."""
    optimizer = torch.optim.Adam([model.unilora.theta], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def chain_on(base, d=90, **options):
    return attach(copy.deepcopy(base), 2, d, SEED, ["0", "2"], kind="chain", options={"links": LINKS}, **options)


def test_link_by_link(problem, tmp_path):
    """Each lowers the loss, and moves nothing but itself; the file, on the base again, gives the outputs."""
    base, x, y = problem
    model = chain_on(base)
    for link in range(LINKS):
        before = model.unilora.theta.detach().clone()
        losses = trained(model, x, y)
        moved = (model.unilora.theta != before).unflatten(0, (LINKS, -1))
        assert losses[-1] < losses[0] - 1e-3
        assert moved[link].all() and not moved[:link].any() and not moved[link + 1 :].any()
        if link + 1 < LINKS:
            assert not model.unilora.theta.unflatten(0, (LINKS, -1))[link + 1 :].any()
            assert model.unilora.next_link() == link + 1
    with pytest.raises(KindError, match="has 3 links, and link 2 is the last"):
        model.unilora.next_link()
    model.save_adapter(tmp_path / "vec.safetensors")
    again = load_adapter(copy.deepcopy(base), tmp_path / "vec.safetensors")
    assert again.unilora.link == LINKS - 1
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
        expected = model(x)
        assert torch.allclose(model.merge()(x), expected, rtol=0, atol=1e-5)  # float32 sums of a dozen products


def test_as_if_each_link_were_merged(problem):
    """Links that are adapters of their own, merged into the weights, each trained from the same start."""
    base, x, y = problem
    model, in_turn = chain_on(base), copy.deepcopy(base)
    for link in range(LINKS):
        if link:
            model.unilora.next_link()
        attach(in_turn, 2, 30, seed_of(link), ["0", "2"])
        with torch.no_grad():
            in_turn.unilora.theta.copy_(model.unilora.theta[30 * link : 30 * link + 30])
        assert np.allclose(trained(model, x, y), trained(in_turn, x, y), rtol=1e-5)
        # W + ΔW is rounded once a link there, and never here: some 1e-7 of weights near 1, which Adam makes 1e-6 of
        own = model.unilora.theta.detach()[30 * link : 30 * link + 30]
        assert torch.allclose(own, in_turn.unilora.theta, rtol=0, atol=1e-5)
        in_turn.merge()


def test_a_chain_goes_on_where_its_numbers_end(problem):
    """Which link it is follows from θ: in another model's state, and in a file."""
    base, x, y = problem
    model = chain_on(base)
    trained(model, x, y, steps=2)
    model.unilora.next_link()
    trained(model, x, y, steps=2)
    other = chain_on(base)
    other.load_state_dict(model.state_dict(), strict=False)
    assert other.unilora.link == copy.deepcopy(model).unilora.link == 1
    assert trained(other, x, y) == trained(model, x, y)
    other.unilora.reset_parameters()
    assert other.unilora.link == 0


def test_refused(problem):
    base, *_ = problem
    with pytest.raises(LimitError, match="d is 91, not a multiple of links, 3.*SPEC 11.15"):
        chain_on(base, d=91)
    with pytest.raises(KindError, match="LoraPro steps all of theta"):
        LoraPro(chain_on(base).unilora, lr=1)
    sharded = chain_on(base).unilora
    sharded.theta.full_tensor = None
    with pytest.raises(KindError, match="theta is in parts"):
        sharded.next_link()
    assert sharded.link == 0
    model = attach(copy.deepcopy(base), 2, 30, SEED, ["0"])
    with pytest.raises(KindError, match="kind balanced has 1 links"):
        model.unilora.next_link()


def test_alpha_is_a_links():
    """s is that of one link."""
    for scaling, alpha in (("lora", 12.0), ("rslora", 6.0)):
        layer_map = LayerMap([Segment("w", 8, 8, 2)], alpha=3, scaling=scaling)
        fitted = kind_named("chain").fitted(layer_map, links=4)
        assert (fitted.alpha, fitted.segments[0].rank) == (alpha, 8)
        assert fitted.factor_scale(fitted.segments[0]) == layer_map.factor_scale(layer_map.segments[0])
