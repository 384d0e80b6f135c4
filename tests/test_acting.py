"""What an adapter gives in every form of a layer: the formula of the paper, and weights that are read otherwise."""

import copy

import numpy as np
import pytest
import torch
from strategies import projection as projection_of
from torch import nn
from torch.func import functional_call

from backends.torch import Expand, attach, plan
from backends.torch.adapter.sites.delta_weight import DeltaWeight
from unilora_spec import (
    LayerMap,
    LayerMapError,
)

transformers = pytest.importorskip("transformers")
from attached_models import (
    FORMS,
    IDS,
    adapted_weights,
    assert_same,
    bert,
    dense,
    gpt2,
    gpt_oss,
    inputs,
    mixtral,
    run,
    table,
)


@pytest.fixture(params=[(form, rank) for rank in (3, 0) for form in FORMS], ids=lambda p: f"{p[0]}, rank {p[1]}")
def adapted(request):
    """(base, the same model with an adapter whose effect is large)."""
    form, rank = request.param
    make, targets = FORMS[form]
    base = make()
    bound = 4.0 if rank else 0.5  # an entry of ΔW is a product of two small numbers, or one
    return base, attach(copy.deepcopy(base), rank=rank, d=40, seed=5, targets=targets, alpha=6, bound=bound)


# What an adapter gives


def test_an_adapter_acts_as_the_formula_says(adapted):
    base, model = adapted
    theta = model.unilora.theta.detach().clone().requires_grad_()
    expected = functional_call(copy.deepcopy(base), adapted_weights(model, theta), inputs(base))
    expected = getattr(expected, "logits", expected)
    output = run(model)
    assert (run(base) - output).abs().max() > 1e-3, "the adapter must have an effect for this test to mean something"
    assert_same(output, expected)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    output.backward(direction)
    expected.backward(direction)
    assert_same(model.unilora.theta.grad, theta.grad)


def test_one_expert_alone_is_adapted():
    base = mixtral()
    every = plan(base, "experts.down_proj", 3, alpha=6)
    model = attach(copy.deepcopy(base), d=40, seed=5, targets=LayerMap(every.segments[1:2], 6), bound=4.0)
    weights = adapted_weights(model, model.unilora.theta.detach())
    assert_same(run(model), functional_call(base, weights, IDS).logits)


def test_a_weight_that_a_call_reads_twice_is_made_once(monkeypatch):
    class Twice(nn.Linear):
        def forward(self, x):
            return x @ self.weight.T @ self.weight

    made, own = [], DeltaWeight._adapted
    monkeypatch.setattr(DeltaWeight, "_adapted", lambda *given: made.append(1) or own(*given))
    model = attach(nn.Sequential(Twice(4, 4)), rank=2, d=9, targets=["0"])
    model(torch.ones(3, 4))
    assert len(made) == 1


def test_each_row_of_a_table_has_its_own_delta():
    base, ids = table(), torch.arange(50)
    model = attach(copy.deepcopy(base), rank=3, d=40, targets=["0[2:9]", "0[20:45]"], bound=4.0)
    weights = adapted_weights(model, model.unilora.theta.detach())
    assert_same(model(ids), functional_call(base, weights, ids))
    changed = (weights["0.weight"] != base[0].weight).any(1)
    assert changed.nonzero()[:, 0].tolist() == [*range(2, 9), *range(20, 45)]


def test_detach_gives_the_base_back(adapted):
    base, model = adapted
    flags = {name: p.requires_grad for name, p in base.named_parameters()}
    assert model.detach() is model
    assert torch.equal(run(model), run(base))
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert list(model.state_dict()) == list(base.state_dict())
    assert vars(model).keys() == vars(base).keys()


def test_merge_is_the_adapter_made_permanent(adapted):
    base, model = adapted
    with torch.no_grad():
        output = run(model)
    weights = {name: p.detach().numpy().copy() for name, p in base.named_parameters()}
    model.unilora.adapter().merge(weights)
    model.merge()
    assert_same(run(model), output)
    for name, parameter in model.named_parameters():  # and it is what the specification's own merge gives
        np.testing.assert_allclose(parameter.detach().numpy(), weights[name], rtol=1e-6, atol=1e-6)
    assert list(model.state_dict()) == list(base.state_dict())


@pytest.mark.parametrize(
    "kind,d", [("balanced", 50), ("balanced", 300), ("uniform", 50), ("identity", 300), ("table", 50)]
)
def test_the_expansion_is_the_specifications_to_the_bit(kind, d):
    projection = projection_of(kind, D=300, d=d, seed=9)
    theta = np.random.default_rng(0).standard_normal(d).astype(np.float32)
    index = torch.from_numpy(projection.index().astype(np.int32))
    scale = torch.from_numpy(projection.scale())
    parameter = torch.from_numpy(theta).requires_grad_()
    theta_D = Expand.apply(parameter, index, torch.float32, scale)
    assert theta_D.detach().numpy().tobytes() == projection.expand(theta).tobytes()
    g = torch.randn(300, generator=torch.Generator().manual_seed(1))
    theta_D.backward(g)
    P = dense(projection).astype(np.float64)
    # n additions and a product in float32: an error of at most (n + 1)·2⁻²⁴ of the sum of magnitudes.
    bound = (np.count_nonzero(P, axis=0).max() + 1) * 2.0**-24 * (abs(P).T @ abs(g.numpy().astype(np.float64)))
    assert (abs(parameter.grad.numpy() - P.T @ g.numpy().astype(np.float64)) <= bound).all()
    np.testing.assert_allclose(parameter.grad.numpy(), projection.adjoint(g.numpy()), atol=bound.max())


# Weights that are read otherwise


def test_weights_that_a_hook_would_miss_are_refused():
    with pytest.raises(LayerMapError, match="tied"):
        plan(gpt2(), "lm_head", 2)
    with pytest.raises(LayerMapError, match="already"):
        attach(attach(bert(), d=60), d=60)
    with pytest.raises(LayerMapError, match="no Linear"):
        plan(nn.ReLU(), "x", 2)


def test_a_stacked_weight_is_adapted_in_the_direction_of_its_product():
    """gpt-oss stores its experts (experts, in, out), Mixtral (experts, out, in); each module says which."""
    for model, transposed in ((gpt_oss(), True), (mixtral(), False)):
        first = plan(model, "experts.gate_up_proj", 2).segments[0]
        assert (first.out_features, first.in_features, first.transposed, first.index) == (96, 32, transposed, 0)


@pytest.mark.parametrize("targets", [["0"], ["0[1:4]"]], ids=["whole", "rows"])
def test_the_bias_and_the_input_have_gradients_without_that_of_theta(targets):
    """A bias is trained in full beside its weight, and what lies before a layer is trained though θ is frozen."""
    torch.manual_seed(0)
    base, x, alone = nn.Sequential(nn.Linear(8, 6)), torch.randn(40, 8), torch.randn(40, 8)
    model = attach(copy.deepcopy(base), 2, d=20, targets=targets, train_in_full=["0.bias"], alpha=5, bound=2.0)
    theta = model.unilora.theta.detach().clone().requires_grad_()
    model(x).square().sum().backward()
    functional_call(base, adapted_weights(model, theta), x).square().sum().backward()
    assert_same(model.unilora.theta.grad, theta.grad)
    model.unilora.theta.requires_grad_(False)
    # The factors of another θ are made without a gradient; those of this one have had one.
    for frozen, given, scale in ((False, x, 1), (False, x, 2), (False, alone.requires_grad_(), 1), (True, alone, 1)):
        weights = adapted_weights(model, model.unilora.theta.mul_(scale))
        model[0].bias.requires_grad_(not frozen)
        expected = functional_call(base, weights, given)
        assert_same(model(given), expected)
        wanted = [each for each in (model[0].bias, given) if each.requires_grad]
        mine = [base[0].bias if each is model[0].bias else each for each in wanted]
        for ours, theirs in zip(
            torch.autograd.grad(model(given).square().sum(), wanted),
            torch.autograd.grad(expected.square().sum(), mine),
            strict=True,
        ):
            assert_same(ours, theirs)


class Reader(nn.Module):
    """Multiplies by the weight of a layer that it does not call, twice."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Linear(8, 8, bias=False), nn.Linear(8, 6)

    def forward(self, x):
        weight = self.layer.weight
        return self.last(x @ weight.T @ weight)


def test_a_weight_that_is_read_without_a_call_of_its_module():
    torch.manual_seed(0)
    base, x = Reader(), torch.randn(20, 8)
    model = attach(copy.deepcopy(base), 2, d=20, targets=["layer", "last"], bound=2.0)
    theta = model.unilora.theta.detach().clone().requires_grad_()
    expected = functional_call(base, adapted_weights(model, theta), x)
    assert_same(model(x), expected)
    model(x).square().sum().backward()
    expected.square().sum().backward()
    assert_same(model.unilora.theta.grad, theta.grad)
    assert torch.equal(model.layer.weight, base.layer.weight), "between two calls it is the base's"
    with model.unilora.disabled():
        assert torch.equal(model(x), base(x))


def test_what_is_read_in_half_precision_is_rounded_once():
    """ΔW is a product in float32 of A and B as they are held, and W is zero here."""
    torch.manual_seed(0)
    model, seen = nn.Sequential(nn.Conv1d(8, 6, 3, groups=2), nn.Flatten(), nn.Linear(6, 4)).bfloat16(), []
    nn.init.zeros_(model[0].weight)
    attach(model, 3, d=40, targets=["0", "2"], alpha=5, bound=2.0)
    model[0].register_forward_pre_hook(lambda module, inputs: seen.append(module.weight.detach()))
    model(torch.ones(1, 8, 3, dtype=torch.bfloat16))
    (segment, (A, B)) = model.unilora.layer_map.segments[0], model.unilora.factors()[0]
    delta = float(model.unilora.layer_map.factor_scale(segment)) * (B.float() @ A.float())
    assert torch.equal(seen[0], delta.reshape(6, 4, 3).bfloat16())
