"""What an adapted layer computes and keeps, and what it does beside others: arguments by name, hooks, a wrapped forward, a base that is trained
too."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import batch, layers
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from backends.torch import attach
from backends.torch.adapter.sites.linear import merged_linear
from backends.torch.adapter.sites.low_rank import LowRank, MergedLinear
from backends.torch.adapter.sites.noise import Noise

# Products


def plain(x, weight, bias, places, *factors):
    """y = xWᵀ + b + Σ s·(xAᵀ)Bᵀ, or s·xMᵀ of a single factor, as it is written down."""
    y, factors = F.linear(x, weight, bias), list(factors)
    for row, s, count in places:
        delta = s * x
        for _ in range(count):
            delta = delta @ factors.pop(0).T
        first = row or 0
        y = y + F.pad(delta, (first, len(weight) - first - delta.shape[-1]))
    return y


of_ranks = st.integers(0, 5) | st.sampled_from([15, 16, 20])  # from 16 on the gradients are made in another order


@given(
    shape=st.sampled_from([(1,), (7,), (3, 5), (2, 1, 4)]), ranks=st.tuples(of_ranks, of_ranks),
    bias=st.booleans(), rows=st.sampled_from([(None,), (0,), (2, 6)]), grads=st.tuples(st.booleans(), st.booleans()),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_the_merged_layer_is_the_plain_one(shape, ranks, bias, rows, grads):
    random = torch.Generator().manual_seed(0)
    of_x, of_factors = grads

    def draw(*shape, grad=False):
        return torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_(grad)

    x, weight = draw(*shape, 6, grad=of_x), draw(10, 6)
    b = draw(10, grad=True) if bias else None
    places = tuple((row, 1.5 + i, 2 if rank else 1) for i, (row, rank) in enumerate(zip(rows, ranks)))
    outs = [10 if row is None else 4 for row in rows]
    shapes = [((rank, 6), (out, rank)) if rank else ((out, 6),) for out, rank in zip(outs, ranks)]
    factors = [draw(*of, grad=of_factors) for own in shapes for of in own]
    leaves = [t for t in (x, b, *factors) if t is not None and t.requires_grad]
    if not leaves:
        return
    results = [f(x, weight, b, places, *factors) for f in (merged_linear, plain)]
    gradients = [torch.autograd.grad(y, leaves, torch.ones_like(y)) for y in results]
    # float64 throughout: some hundred roundings of 2⁻⁵³, of sums of some hundred numbers below ten
    for ours, theirs in zip([results[0], *gradients[0]], [results[1], *gradients[1]]):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)


def test_the_path_is_chosen_by_size_and_precision(monkeypatch):
    model = attach(layers(), rank=2, d=20, targets=["0"], bound=1.0)
    taken = []

    def noting(owner, method, name):
        own = getattr(owner, method)
        monkeypatch.setattr(owner, method, lambda *arguments: taken.append(name) or own(*arguments))

    noting(MergedLinear, "_merged", "merged")
    noting(LowRank, "_added", "low rank")

    def path(x, of=model):
        taken.clear()
        of(x)
        return taken

    # a layer of 24 × 24: W + ΔW takes 576 products for each rank, the low-rank path 48 for each rank and token
    assert path(batch(12)) == ["low rank"] and path(batch(13)) == ["merged"]
    assert path(batch(13).reshape(13, 1, 24)) == ["merged"]
    with torch.autocast("cpu", torch.bfloat16):
        assert path(batch()) == ["low rank"]
    half = attach(layers().bfloat16(), rank=2, d=20, targets=["0"])
    assert path(batch().bfloat16(), half) == ["low rank"], "W + ΔW in bfloat16 would lose ΔW"
    # of rank 0, 576 sums, and 576 products for each token
    whole = attach(layers(), rank=0, d=20, targets=["0"])
    assert path(batch(1), whole) == ["low rank"] and path(batch(2), whole) == ["merged"]


def test_nothing_of_tokens_times_rank_is_kept():
    model = attach(layers(), rank=5, ranks={"2": 0}, d=100, targets=["0", "1", "2"])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        model(batch(200).requires_grad_())
    # of each layer the input, W (the base's own, no copy), A and B or their one factor; of a batch of 200 tokens nothing else
    assert sorted(kept) == sorted(3 * [(200, 24), (24, 24)] + 2 * [(5, 24), (24, 5)] + [(24, 24)])


def test_a_forward_that_a_library_has_replaced_is_left_in_place():
    model = layers(depth=1)
    seen = []
    own = model[0].forward
    model[0].forward = lambda x: seen.append(1) or own(x)
    replaced = model[0].forward
    attach(model, rank=2, d=20, targets=["0"], bound=1.0)
    expected = attach(layers(depth=1), rank=2, d=20, targets=["0"], bound=1.0)(batch())
    torch.testing.assert_close(model(batch()), expected, atol=1e-5, rtol=0)  # sums of 24 products of size one
    assert seen and model.detach()[0].forward is replaced


# Beside others


LAYERS = {
    "product": (lambda: Conv1D(20, 24), (12, 24)),
    "convolution": (lambda: nn.Conv2d(3, 6, 2), (2, 3, 5, 5)),
}


def layer(name="product", hook=None):
    """A layer alone that is adapted by a hook, behind the hook of somebody else."""
    torch.manual_seed(0)
    model = nn.Sequential(LAYERS[name][0]())
    if hook:
        model[0].register_forward_hook(lambda module, inputs, output: hook(output))
    return attach(model, rank=2, d=20, targets=["0"], bound=1.0)


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_the_input_may_be_given_by_its_name():
    model, x = layer(), random(12, 24)
    assert torch.equal(model[0](x=x), model[0](x))


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_the_output_keeps_the_dtype_that_a_hook_has_given_it(name, noisy):
    x = random(*LAYERS[name][1])
    outputs = []
    for hook in (torch.Tensor.bfloat16, None):
        model = layer(name, hook)
        if noisy:
            model.unilora.noise = Noise(sigma=1.0, seed=7)
            model.unilora.noise.at(5, 10)
        outputs.append(model(x))
    assert outputs[0].dtype == torch.bfloat16
    # Three roundings to bfloat16, of 2⁻⁹ each: the base's output, what is added, and their sum; all are below 32.
    torch.testing.assert_close(outputs[0].float(), outputs[1], atol=3 * 32 * 2.0**-9, rtol=0)


def test_few_tokens_behind_a_hook_that_has_laid_out_the_output_otherwise():
    model, plain = (layer(hook=hook) for hook in (lambda output: output.mT.contiguous().mT, None))
    x = random(2, 3, 24)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x), atol=0, rtol=0)


def test_a_forward_that_is_wrapped_after_attach_and_outlives_the_adapter():
    model, x = layers(depth=1), batch()
    expected = model(x)
    attach(model, rank=2, d=20, targets=["0"], bound=1.0)
    ours = model[0].forward
    model[0].forward = lambda x: ours(x)
    assert not torch.allclose(model(x), expected)
    model.detach()
    assert torch.equal(model(x), expected)


def test_a_base_that_is_trained_too_has_its_gradient():
    model, x = attach(layers(depth=1), rank=2, d=20, targets=["0"], bound=1.0), batch()
    model[0].weight.requires_grad_()
    g = batch().sin()
    model(x).backward(g)
    torch.testing.assert_close(model[0].weight.grad, g.T @ x, atol=1e-5, rtol=0)  # sums of 50 products of size one
    assert model.unilora.theta.grad.any()
