"""Flat-LoRA's noise: W + ΔW + ε in every way that an adapter acts, the same ε in both passes, and nothing of it kept."""

import copy
import gc
import math
import weakref

import pytest
import torch
from attached_models import FORMS, assert_same, run
from layers import batch, layers

from backends.torch import attach
from backends.torch.adapter.sites.noise import Draw, Noise
from backends.torch.adapter.targets.plan import Candidate
from unilora_spec import LayerMapError


def noisy(model, targets, rank=3):
    """``model`` with an adapter of large effect, in training (its layers without dropout), half way through the schedule."""
    attach(model, rank, d=25, seed=5, targets=targets, alpha=6, bound=2.0 if rank else 0.5)
    model.unilora.noise = Noise(sigma=1.0, seed=7)
    model.unilora.noise.at(5, 10)
    model.training = True
    return model


@torch.no_grad()
def add_to_base(model):
    """ε of every segment, as equation 7 of the paper says, added to the base's own weights."""
    unilora, noise = model.unilora, model.unilora.noise
    for number, (segment, of_segment) in enumerate(zip(unilora.layer_map.segments, unilora.factors())):
        part = segment.part(model.get_parameter(segment.name))
        W = (part.T if segment.transposed else part).reshape(segment.out_features, -1)
        norms = (W + float(unilora.layer_map.factor_scale(segment)) * segment.product(*of_segment)).norm(dim=1)
        normal = torch.empty(W.shape).normal_(generator=torch.Generator().manual_seed(noise.draw(number).seed))
        epsilon = noise.sigma / 2 / math.sqrt(W.shape[1]) * norms[:, None] * normal
        part.add_(segment.stored(epsilon, part.shape))


def outcome(model):
    """The output and θ's gradient."""
    output = run(model)
    loss = (output * torch.linspace(-1, 1, output.numel()).reshape(output.shape).cos()).sum()
    return output.detach(), *torch.autograd.grad(loss, model.unilora.theta)


@pytest.mark.parametrize("rank", [3, 0])
@pytest.mark.parametrize(("make", "targets"), FORMS.values(), ids=FORMS)
def test_noise_is_added_to_the_weight_in_both_passes(make, targets, rank):
    model = noisy(make(), targets, rank)
    seen, noise = outcome(model), model.unilora.noise
    model.unilora.noise = None
    without = outcome(model)
    model.unilora.noise = noise
    add_to_base(model)
    model.unilora.noise = None
    for ours, wanted in zip(seen, outcome(model)):
        assert_same(ours, wanted)
    # (θ's gradient by a table at the bottom of a linear model is the same without it.)
    apart = [(a - b).abs().max() / b.abs().max() for a, b in zip(without, seen)]
    assert max(apart) > 0.02, "the noise is far above the tolerance"


def test_low_rank_paths_of_half_precision_see_the_same_noise():
    model = noisy(layers(depth=2), ["0", "1"])
    x = batch()
    exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(x)
    # bfloat16 has 8 bits: a few parts in 2⁸ of the largest, through two layers; without noise the outputs are apart by half
    assert_same(low.float(), exact, relative=0.05)
    model.unilora.noise = None
    assert (model(x) - exact).abs().max() > 0.3 * exact.abs().max()


def test_noise_has_the_dtype_of_the_output():
    table, ids = torch.nn.Sequential(torch.nn.Embedding(9, 24)), torch.arange(9)
    for base, x in ((layers(depth=1), batch(5)), (layers(depth=1), batch()), (table, ids)):
        for dtype in (torch.bfloat16, torch.float64):
            model = noisy(copy.deepcopy(base).to(dtype), ["0"])
            assert model(x.to(dtype) if x.is_floating_point() else x).dtype == dtype


def test_mean_and_variance_are_the_papers():
    norms, columns, steps = torch.tensor([0.5, 2.0, 30.0]), 400, 50
    noise, seen = Noise(0.15, seed=3), []
    before = noise.draw(0)
    noise.at(0, steps)
    assert noise.draw(0) == before and before.strength == 0
    assert before(norms.double(), columns).dtype == torch.float64
    for step in range(1, steps):
        noise.at(step, steps)
        sigma = 0.15 * (1 - math.cos(math.pi * step / steps)) / 2
        epsilon = noise.draw(0)(norms, columns)
        assert torch.equal(epsilon, noise.draw(0)(norms, columns))
        assert not torch.equal(epsilon, noise.draw(1)(norms, columns)), "of another segment"
        seen.append(epsilon / (sigma / math.sqrt(columns) * norms[:, None]))
    rows = torch.stack(seen, 1).reshape(3, -1)  # standard normal if all is right, also from step to step
    n = rows.shape[1]
    # n numbers have a mean of variance 1/n and a mean square of variance 2/n; five standard deviations of each
    assert (rows.mean(1).abs() < 5 / math.sqrt(n)).all()
    assert ((rows.square().mean(1) - 1).abs() < 5 * math.sqrt(2 / n)).all()
    apart = (rows[:, :-columns] * rows[:, columns:]).mean(1)  # of one step and the next
    assert (apart.abs() < 5 / math.sqrt(n - columns)).all()


def test_forward_and_backward_agree_to_finite_differences():
    model = noisy(layers(width=5, depth=1).double(), ["0"])
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, x)  # its own tolerances


def test_only_seed_and_norms_are_kept(monkeypatch):
    drawn, make = [], Draw.__call__

    def noted(self, norms, columns):
        epsilon = make(self, norms, columns)
        drawn.append(weakref.ref(epsilon))
        return epsilon

    monkeypatch.setattr(Draw, "__call__", noted)
    model = noisy(layers(), ["0", "1", "2"])
    kept = []
    for tokens, path in ((200, "merged"), (5, "low rank")):
        drawn.clear()
        kept.clear()
        x = batch(tokens).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
            loss = model(x).sum()
        gc.collect()
        assert len(drawn) == 3 and not any(epsilon() is not None for epsilon in drawn), path
        if path == "merged":  # input, W itself, the norms, A and B of each layer
            assert sorted(kept) == sorted(3 * [(tokens, 24), (24, 24), (24,), (3, 24), (24, 3)])
        loss.backward()
        assert len(drawn) == 6, "made again, once for each layer"


def test_an_evaluation_has_none_and_the_base_stays_to_the_bit():
    model = noisy(layers(), ["0", "2[3:9]"])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    x = batch()
    model(x).sum().backward()
    noise, model.unilora.noise = model.unilora.noise, None
    expected = model(x)
    model.unilora.noise = noise
    assert not torch.equal(model(x), expected)
    noise.at(0, 10)
    assert torch.equal(model(x), expected), "the schedule starts from none"
    noise.at(5, 10)
    with torch.no_grad(), model.unilora.merged():
        merged = model(x)
    assert_same(merged, expected.detach())
    assert torch.equal(model.eval()(x), expected)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_region_that_is_computed_again_sees_the_same_noise():
    from torch.utils.checkpoint import checkpoint_sequential

    gradients = []
    for segments in (None, 2):
        for tokens in (50, 5):
            model = noisy(layers(depth=4), ["0", "1", "2", "3"])
            x = batch(tokens).requires_grad_()
            if segments:
                inner = torch.nn.Sequential(*model)
                model.forward = lambda x, inner=inner: checkpoint_sequential(inner, 2, x, use_reentrant=False)
            model(x).square().mean().backward()
            gradients.append(model.unilora.theta.grad)
    assert torch.equal(gradients[0], gradients[2]) and torch.equal(gradients[1], gradients[3])


def test_quantized_weights_are_refused(monkeypatch):
    model = attach(layers(), rank=2, d=20, targets=["0"])
    monkeypatch.setattr(Candidate, "is_quantized", True)
    with pytest.raises(LayerMapError, match="0.weight is quantized; noise is scaled by the weights' values"):
        model.unilora.noise = Noise(0.05, seed=0)
    model.unilora.noise = None
