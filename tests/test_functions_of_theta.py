"""An adapted model as a function of θ, by torch.func, and compiled, whole or in part."""

import copy

import pytest
import torch
import transformers as T
from test_calls_of_a_model import X, adapted, block, grouped, seen, wanted
from torch import nn
from torch.func import functional_call, grad, vmap

from backends.torch import attach

# torch.func


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.rows = nn.Embedding(9, 6), T.pytorch_utils.Conv1D(12, 6)
        self.last = nn.Linear(12, 5)

    def forward(self, ids):
        return self.last(self.rows(self.table(ids)).tanh())


def table():
    torch.manual_seed(0)
    return Table()


FUNCTIONAL = {
    "Linear": (block, ("query",), X),
    "Conv1D, rows": (table, ("rows[0:4]", "rows[7:12]"), torch.arange(8).reshape(2, 4)),
    "Embedding": (table, ("table",), torch.arange(8).reshape(2, 4)),
    "all of them": (table, ("table", "rows", "last"), torch.arange(8).reshape(2, 4)),
    "grouped convolution": (grouped, ("0", "2"), torch.randn(2, 8, 9, generator=torch.Generator().manual_seed(0))),
}


@pytest.mark.parametrize("rank", [2, 0])
@pytest.mark.parametrize(("make", "targets", "inputs"), FUNCTIONAL.values(), ids=FUNCTIONAL)
def test_functions_of_theta(make, targets, inputs, rank):
    model = attach(make(), rank, 20, targets=targets, bound=1.0)
    rest = {name: p.detach() for name, p in model.named_parameters()}

    def loss(theta):
        return wanted(functional_call(model, rest | {"unilora_theta": theta}, (inputs,)))

    many = torch.randn(3, 20, generator=torch.Generator().manual_seed(1))
    expected, gradients = [], []
    for theta in many:
        with torch.no_grad():
            model.unilora.theta.copy_(theta)
        value = wanted(model(inputs))
        (gradient,) = torch.autograd.grad(value, model.unilora.theta)
        expected.append(value.detach())
        gradients.append(gradient)
        assert_same(loss(theta), value.detach())
        assert_same(grad(loss)(theta), gradient)
    assert_same(vmap(loss)(many), torch.stack(expected))
    assert_same(vmap(grad(loss))(many), torch.stack(gradients))


def assert_same(actual, expected):
    """x(W + ΔW), or xW and xΔW in another order of sums: some dozen roundings of 2^-24 of the largest."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


# torch.compile


def compiled(module):
    return torch.compile(module, backend="aot_eager")


def before_attach(model):
    return adapted(compiled(model))


def after_attach(model):
    return compiled(adapted(model))


def a_block_before(model):
    model[0] = compiled(model[0])
    return adapted(model)


def a_block_after(model):
    model = adapted(model)
    model[0] = compiled(model[0])
    return model


def in_place(model):
    model = adapted(model)
    model.compile(backend="aot_eager")
    return model


@pytest.mark.parametrize("way", [before_attach, after_attach, a_block_before, a_block_after, in_place])
def test_compiled_as_it_is_not(way):
    torch.compiler.reset()
    model, plain = way(block()), adapted(block())
    assert next(name for name, p in model.named_parameters() if p.requires_grad).endswith("unilora_theta")
    for _ in range(3):
        for each in (model, plain):
            each.zero_grad()
            wanted(each(X)).backward()
        assert_same(model.unilora.theta.grad, plain.unilora.theta.grad)
        for each in (model, plain):
            with torch.no_grad():
                each.unilora.theta.mul_(1.5)
        assert_same(seen(model, X), seen(plain, X))
    twin = copy.deepcopy(plain)
    assert torch.equal(seen(twin, X), seen(plain, X))
