"""The kind vb, beyond what every kind is tested for: what is trained in its place, and the file of that."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import unilora_spec
from backends.torch import attach, load_adapter
from backends.torch.adapter.theta.expansion import storage_of
from unilora_spec import Adapter, FileError, LayerMap, LayerMapError, LimitError, Projection, Segment

OPTIONS = {"length": 4, "bank": 7, "topk": 3}
X = torch.randn(32, 12, generator=torch.Generator().manual_seed(0))


def base():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8))


def attached(seed=3, **changed):
    model = attach(base(), rank=2, targets=["0", "2"], kind="vb", seed=seed, options=OPTIONS | changed)
    with torch.no_grad():  # so that ΔW and the differences between weights are not small
        model.unilora.theta.mul_(10)
    return model


def train(model, steps):
    optimizer = torch.optim.SGD([model.unilora.theta], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
    return model.unilora.theta.detach().clone()


def test_the_reference_and_torch_train_the_same():
    """Largest numbers and softmax in NumPy, and their adjoint, against torch's own: float32 sums of few numbers near 1."""
    p = attached().unilora.projection
    rng = np.random.default_rng(0)
    theta, g = rng.standard_normal(p.d).astype(np.float32), rng.standard_normal(p.D).astype(np.float32)
    trained = torch.tensor(theta, requires_grad=True)
    theta_D = storage_of(p, "cpu").expand(trained)
    theta_D.backward(torch.from_numpy(g))
    assert np.allclose(theta_D.detach().numpy(), p.expand(theta), rtol=0, atol=2e-6)
    assert np.allclose(trained.grad.numpy(), p.adjoint(g, 0, theta), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("topk", [1, 2, 7])
def test_a_file_has_what_logits_have_come_to(topk, tmp_path):
    model = attached(topk=topk)
    start, after = model.unilora.theta.detach().clone(), train(model, 5)
    assert not torch.equal(start, after)
    model.save_adapter(tmp_path / "vb.safetensors")
    adapter = unilora_spec.load_adapter(tmp_path / "vb.safetensors")
    p, n = adapter.projection, 2 * (12 + 16 + 16 + 8) // 4
    assert (p.kind, p.d, len(p.tensors["index"])) == ("vb", 28 + n * (topk - 1), n * topk)
    again = load_adapter(base(), tmp_path / "vb.safetensors")
    with torch.no_grad():
        # Float32 weights of a softmax, the last of them as what is left of 1: some roundings of 2^-24 of outputs near 1.
        torch.testing.assert_close(again(X), model(X), rtol=0, atol=2e-6)
        assert (again(X) - base()(X)).abs().max() > 1e-3


def test_a_loaded_file_trains_its_bank_and_weights(tmp_path):
    attached().save_adapter(tmp_path / "vb.safetensors")
    model = load_adapter(base(), tmp_path / "vb.safetensors")
    index, before = model.unilora.projection.tensors["index"], model.unilora.theta.detach().clone()
    after = train(model, 5)
    assert (before != after).all()  # of the bank and of the weights
    assert np.array_equal(model.unilora.adapter().projection.tensors["index"], index)


def test_a_checkpoint_has_the_logits():
    """Half of a training, and the other half on another model that was attached anew, is the whole of it."""
    whole, first, second = attached(), attached(), attached()
    second.unilora.theta.data.zero_()
    train(whole, 6)
    train(first, 3)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(train(second, 3), whole.unilora.theta)


def test_refused():
    segments = [Segment("a", 8, 12, 2), Segment("b", 6, 8, 2)]
    layer_map = LayerMap(segments, alpha=2)
    with pytest.raises(LayerMapError, match=r"b has out = 6; give a length that divides it \[SPEC 11.11\]"):
        Projection.of(layer_map, "vb", **OPTIONS)
    with pytest.raises(LimitError, match="topk is 8; give no more than the bank has rows, 7"):
        Projection.of(layer_map, "vb", **OPTIONS | {"length": 2, "topk": 8})
    trained = Projection.of(layer_map, "vb", **OPTIONS | {"length": 2})
    with pytest.raises(FileError, match="give what its stored_as makes of theta"):
        Adapter(trained, layer_map, trained.initial(layer_map))
