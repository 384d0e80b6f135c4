"""torch.compile around an adapted model: before attach and after, of the whole and of blocks, with graphs that break."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from backends.torch import attach
from backends.torch.adapter.theta.expansion import index_of
from backends.torch.conformance import compiled_expand, expand_by
from unilora_spec import Projection

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


def assert_same(actual, expected):
    """Few tokens take other products in a graph than outside of one: sums of eight numbers of size one, in another order."""
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


class Breaking(nn.Module):
    """A layer in whose middle a graph breaks."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = self.first(x).relu()
        torch._dynamo.graph_break()
        return self.second(x)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), Breaking())


def adapted(model):
    return attach(model, rank=2, d=20, targets=["0", "2.first", "2.second"], bound=1.0)


def in_place(model):
    model.compile(backend="eager")
    return model


def blocks(model):
    for i in (0, 2):
        model[i] = torch.compile(model[i], backend="eager")
    return model


COMPILED = {"whole": lambda model: torch.compile(model, backend="eager"), "in place": in_place, "blocks": blocks}


# Compiled in place or in blocks after it was adapted, a model is what it is as a whole.
CASES = [
    pytest.param(how, before, marks=() if before or how == "whole" else pytest.mark.thorough)
    for how in COMPILED
    for before in (True, False)
]


@pytest.mark.parametrize("how, before", CASES)
def test_a_compiled_model_follows_theta_as_a_plain_one_does(how, before):
    torch._dynamo.reset()
    plain, model = adapted(net()), net()
    if before:
        model = COMPILED[how](model)
        model(X)  # its graphs are there, and know of no adapter
        adapted(model)
    else:
        model = COMPILED[how](adapted(model))
    optimizers = [torch.optim.AdamW([one.unilora.theta], lr=0.1, fused=True) for one in (plain, model)]
    for _ in range(3):
        for one, optimizer in zip((plain, model), optimizers):
            one(X).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            assert_same(model(X), plain(X))
    assert torch.equal(model.unilora.theta, plain.unilora.theta)
    with torch.inference_mode():
        for one in (plain, model):
            one.unilora.theta.data.mul_(2)
        assert_same(model(X), plain(X))
        assert (model(X) - net()(X)).abs().max() > 1e-2
    model.detach()
    assert torch.equal(model(X), net()(X))


def test_a_part_that_is_compiled_and_called_by_itself():
    torch._dynamo.reset()
    plain, model = adapted(net()), adapted(net())
    part = torch.compile(model[2], backend="eager")
    for scale in (1, 2):
        for one in (plain, model):
            one.unilora.theta.data.mul_(scale)
        assert_same(part(X), copy.deepcopy(plain)[2](X))


class Scaled(nn.Conv1d):
    def forward(self, x, scale=1.0):
        return super().forward(x) * scale


class Calling(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = Scaled(8, 6, 1, groups=2)

    def forward(self, x):
        return self.conv(x, scale=0.5)


SITES = {
    "a product": (lambda: nn.Linear(8, 6), ["0"], 2, X),
    "rows of a product, rank 0": (lambda: nn.Linear(8, 6), ["0[1:3]", "0[4:6]"], 0, X),
    "a weight that is read": (Calling, ["0.conv"], 2, X[..., None]),
    "rows of a convolution": (lambda: nn.Conv1d(8, 6, 1), ["0[1:4]"], 2, X[..., None]),
    "rows of a lookup": (lambda: nn.Embedding(9, 6, padding_idx=2), ["0[1:7]"], 2, torch.arange(9)),
}


@pytest.mark.parametrize("site", SITES)
def test_every_site_is_in_one_graph_and_follows_theta(site):
    torch._dynamo.reset()
    make, targets, rank, x = SITES[site]
    torch.manual_seed(0)
    plain = attach(nn.Sequential(make()), rank, d=10, targets=targets, bound=1.0)
    model, outputs = torch.compile(copy.deepcopy(plain), fullgraph=True, backend="eager"), []
    for _ in range(2):
        for one in (model, plain):
            one.zero_grad()
            outputs.append(one(x))
            outputs[-1].square().sum().backward()
            with torch.no_grad():
                one.unilora.theta.mul_(1.5)
        assert_same(*outputs[-2:])
        # sums of some dozen numbers of size ten
        torch.testing.assert_close(model.unilora.theta.grad, plain.unilora.theta.grad, rtol=1e-5, atol=1e-4)
    assert (outputs[0] - outputs[2]).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["balanced", "uniform"])
def test_one_graph_expands_every_size(kind):
    """The short form of test_conformance.py::test_torch_compiled: the same graphs, without a compiler."""
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend("aot_eager")
    for d, D in ((1, 1), (1, 3), (7, 20), (300, 4096)):
        p = Projection(kind, D=D, d=d, seed=3)
        index, scale = index_of(p), torch.from_numpy(p.scale())
        given, expected = (torch.linspace(-1, 1, d).requires_grad_() for _ in range(2))
        found = compiled_expand(graphs)(given, index, scale)
        assert torch.equal(found, expand_by(expected, index, scale))
        g = torch.linspace(1, 2, D)
        found.backward(g)
        expand_by(expected, index, scale).backward(g)
        torch.testing.assert_close(
            given.grad, expected.grad, atol=0, rtol=1e-5
        )  # sums of up to 20 numbers in another order
    assert graphs.frame_count == 1
