"""What a step costs: how often θ_D is rebuilt, what the weights are in evaluation, and what is copied."""

import copy
from collections import Counter

import pytest
import torch
from attached_models import FORMS, run
from layers import batch, layers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from backends.torch import attach
from backends.torch.adapter.theta import expansion
from unilora_spec import LayerMapError, save_adapter

# How often θ_D is rebuilt


class Checkpointed(nn.Sequential):
    """Each layer is computed again within the backward pass, which goes through its factors once for each layer."""

    def forward(self, x):
        for layer in self:
            x = checkpoint(layer, x, use_reentrant=True)
        return x


@pytest.mark.parametrize(
    "kind, d, storage", [("balanced", 20, "cached"), ("balanced", 20, "computed"), ("identity", None, None)]
)
def test_one_expansion_serves_every_checkpoint(kind, d, storage, monkeypatch):
    model = attach(Checkpointed(*layers()), rank=2, d=d, kind=kind, targets=["0", "1"], storage=storage, bound=1.0)
    of_kind, made = type(model.unilora.storage), []
    own = of_kind.expand
    monkeypatch.setattr(of_kind, "expand", lambda *given: made.append(1) or own(*given))
    model(batch().requires_grad_()).sum().backward()
    assert len(made) == 1


@pytest.fixture
def counted(monkeypatch):
    """The expansions and adjoints since the last look."""
    calls = {"expansions": 0, "adjoints": 0}

    def counting(name, method):
        def count(*arguments):
            calls[name] += 1
            return method(*arguments)

        return staticmethod(count)

    monkeypatch.setattr(expansion.Expand, "forward", counting("expansions", expansion.Expand.forward))
    monkeypatch.setattr(expansion.Expand, "backward", counting("adjoints", expansion.Expand.backward))

    def look():
        seen = tuple(calls.values())
        calls.update(expansions=0, adjoints=0)
        return seen

    return look


def test_one_expansion_and_one_adjoint_for_each_micro_step(counted):
    model = attach(layers(), rank=2, d=20, targets=["0", "1", "2"])
    optimizer = torch.optim.SGD([model.unilora.theta], lr=0.1)
    for _ in range(2):
        for _ in range(3):  # gradients are accumulated over three
            model(batch()).sum().backward()
            assert counted() == (1, 1)
        optimizer.step()
        assert counted() == (0, 0)


def test_evaluating_with_the_same_theta_rebuilds_nothing(counted):
    model = attach(layers(), rank=2, d=20, targets=["0"], bound=1.0)
    model(batch()).sum().backward()
    counted()
    with torch.no_grad():
        for _ in range(3):
            expected = model(batch())
        assert counted() == (0, 0), "θ has the values that the step's factors were made of"
        model.unilora.theta.mul_(2)
        assert not torch.equal(model(batch()), expected) and counted() == (1, 0)
        model(batch())
        assert counted() == (0, 0)
        model.unilora.theta.data = model.unilora.theta.data / 2
        assert torch.equal(model(batch()), expected) and counted() == (1, 0)
    model(batch()).sum().backward()
    assert counted() == (1, 1)
    with torch.inference_mode():
        assert torch.equal(model(batch()), expected) and counted() == (0, 0)
        model.unilora.theta.mul_(2)
        twice = model(batch())
        assert not torch.equal(twice, expected) and counted() == (1, 0), (
            "no version tells of what inference mode writes"
        )
    with torch.no_grad():
        assert torch.equal(model(batch()), twice) and counted() == (0, 0)
    model[0](batch()).sum().backward()
    assert counted() == (1, 1), "what inference mode made is of no use to a forward that is trained on"


def test_a_theta_that_is_frozen_costs_no_gradient(counted):
    model = attach(layers(), rank=2, d=20, targets=["0"], train_in_full=["2"], bound=1.0)
    model(batch()).sum().backward()
    counted()
    model.unilora.theta.requires_grad_(False)
    for expected in ((1, 0), (0, 0)):
        model(batch()).sum().backward()
        assert counted() == expected
    model.unilora.theta.requires_grad_(True)
    model(batch()).sum().backward()
    assert counted() == (1, 1)


def test_half_precision_is_expanded_in_the_weights_dtype():
    model = attach(layers().bfloat16(), rank=2, d=20, targets=["0"], bound=1.0)
    with torch.no_grad():
        model(batch().bfloat16())
        assert model.unilora.factors()[0][0].dtype == torch.bfloat16
        model.float()
        model(batch())
        assert model.unilora.factors()[0][0].dtype == torch.float32


class Waits(TorchDispatchMode):
    """Counts what a GPU waits for in the block: numbers that the host reads, and tensors that it makes of its own numbers."""

    OPERATORS = ("_local_scalar_dense", "nonzero", "equal", "lift_fresh", "lift_fresh_copy")

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.OPERATORS:
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", FORMS)
def test_a_step_waits_no_more_than_the_bases(form):
    """The base may wait, to route tokens to experts for instance; the adapter adds nothing, so that a CUDA graph can hold it."""
    make, targets = FORMS[form]
    base = make()
    found = {}
    for model in (base, attach(copy.deepcopy(base), rank=3, d=40, targets=targets)):
        run(model)
        with Waits() as found[model]:
            run(model).sum().backward()
    of_base, of_adapted = found.values()
    assert of_adapted.counts == of_base.counts


# Evaluation with merged weights


def test_merged_for_evaluation_and_the_base_again_to_the_bit(tmp_path):
    model = attach(layers(), rank=2, d=20, targets=["0", "2[3:9]"], bound=1.0)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        expected = model(batch())
        with model.unilora.merged():
            merged = model(batch())
            assert not torch.equal(model.get_parameter("0.weight"), weights["0.weight"])
            with pytest.raises(LayerMapError, match="leave merged"):
                model.save_adapter(tmp_path / "vec.safetensors")
            with pytest.raises(LayerMapError, match="leave merged"):
                model.detach()
    torch.testing.assert_close(
        merged, expected, atol=1e-5, rtol=0
    )  # sums of 24 products of size one, three layers deep
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    with torch.no_grad():
        assert torch.equal(model(batch()), expected)
    with pytest.raises(LayerMapError, match="train outside of merged"), model.unilora.merged():
        model(batch())
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    model(batch()).sum().backward()
    save_adapter(model.unilora.adapter(), tmp_path / "vec.safetensors")
    with torch.no_grad():
        assert torch.equal(model.load_adapter(tmp_path / "vec.safetensors")(batch()), expected)
