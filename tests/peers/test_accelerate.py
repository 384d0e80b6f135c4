"""accelerate: a loop of one's own, its states, and a base that is offloaded."""

import pytest
import torch
from trained import IDS, adapted, assert_fell, assert_frozen, assert_gives_back, frozen, llama, logits

from backends.torch import load_adapter
from unilora_spec import LayerMapError

accelerate = pytest.importorskip("accelerate")


def trained(accelerator, model, steps):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, fused=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    return model, optimizer, steps_of(accelerator, model, optimizer, steps)


def steps_of(accelerator, model, optimizer, steps):
    losses = []
    for _ in range(steps):
        loss = model(IDS, labels=IDS).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_trains_and_what_it_saves_is_the_adapter(safe, tmp_path):
    model = adapted(llama())
    before = frozen(model)
    accelerator = accelerate.Accelerator(cpu=True)
    prepared, optimizer, losses = trained(accelerator, model, 8)
    assert_fell(losses)
    accelerator.save_state(tmp_path / "state", safe_serialization=safe)
    middle = model.unilora.theta.detach().clone()
    more = steps_of(accelerator, prepared, optimizer, 3)
    accelerator.load_state(tmp_path / "state")
    assert torch.equal(model.unilora.theta, middle)
    assert steps_of(accelerator, prepared, optimizer, 3) == more, "the optimizer's state came back too"
    accelerator.load_state(tmp_path / "state")
    assert_frozen(model, before)
    assert_gives_back(tmp_path / "state", model, llama, logits, tmp_path)
    accelerator.save_model(prepared, tmp_path / "model")
    if safe:
        assert_gives_back(tmp_path / "model", model, llama, logits, tmp_path)


def test_refuses_the_state_of_another_seed(tmp_path):
    accelerator = accelerate.Accelerator(cpu=True)
    trained(accelerator, adapted(llama()), 1)
    accelerator.save_state(tmp_path)
    other = accelerate.Accelerator(cpu=True)
    other.free_memory()
    trained(other, adapted(llama(), seed=1), 1)
    with pytest.raises(LayerMapError, match="of another adapter, whose seed differs"):
        other.load_state(tmp_path)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_base_that_is_offloaded_before_attach_trains_as_one_that_is_not(where, tmp_path):
    model, plain = llama(), adapted(llama())
    if where == "memory":
        accelerate.cpu_offload(model, "cpu")
    else:
        accelerate.disk_offload(model, tmp_path / "weights", "cpu")
    adapted(model)
    assert model.unilora.theta.device.type == "cpu"
    for each in (plain, model):
        optimizer = torch.optim.AdamW([each.unilora.theta], lr=0.05, fused=True)
        for _ in range(3):
            each(IDS, labels=IDS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    # x(W + ΔW) or xW + xΔW, by where W is: some dozen roundings of 2^-24 a step, three steps of Adam near 0.05
    torch.testing.assert_close(model.unilora.theta, plain.unilora.theta, rtol=0, atol=1e-5)
    model.save_adapter(tmp_path / "vec.safetensors")
    loaded = load_adapter(llama(), tmp_path / "vec.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(
            logits(loaded), logits(plain), rtol=0, atol=1e-4
        )  # of logits near 10, after such a θ
