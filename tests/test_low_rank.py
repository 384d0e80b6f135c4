"""An adapted layer beside what others do to it: arguments by name, hooks, a wrapped forward, a base that is trained too."""

import pytest
import torch
from test_step import batch, layers
from torch import nn
from transformers.pytorch_utils import Conv1D

from backends.torch import attach
from backends.torch.adapter.sites.noise import Noise

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
