"""What is trained and what a state says, from a checkpoint to a file."""

import copy

import pytest
import torch
from attached_models import IDS, bert, run
from safetensors.torch import save_file
from states import X, adapted, base, net  # noqa: F401  fixtures
from test_attach_training import trainer
from torch import nn
from typer.testing import CliRunner

from backends.torch import attach, load_adapter
from backends.torch.__main__ import app
from backends.torch.adapter.files.checkpoint import adapter_in
from unilora_spec import FileError, LayerMapError, UniLoraError
from unilora_spec.serialization import encode

# What is trained, and what a state says


def test_a_parameter_that_is_unfrozen_by_hand_is_saved_as_trained_in_full(tmp_path):
    model = adapted()
    model[1].requires_grad_(True)
    with torch.no_grad():
        model[1].weight.mul_(2)
    expected = model(X)
    assert {"unilora_theta", "1.weight", "1.bias"} < set(model.state_dict())
    model.save_adapter(tmp_path / "vec.safetensors")
    assert torch.equal(load_adapter(net(), tmp_path / "vec.safetensors")(X), expected)
    with pytest.warns(UserWarning, match="1.weight, 1.bias was unfrozen after attach"):
        model.detach()


OTHERS = {
    "seed": {"seed": 1},
    "kind": {"kind": "uniform"},
    "d": {"d": 11},
    "alpha": {"alpha": 7},
    "scaling": {"scaling": "rslora", "alpha": 2},
    "layers": {"targets": ["2"]},
}


@pytest.mark.parametrize("field", OTHERS)
def test_a_state_of_another_adapter_is_refused_with_nothing_changed(field):
    state, model = adapted(**OTHERS[field]).state_dict(), adapted()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(LayerMapError, match=f"of another adapter, whose {field} differs"):
        model.load_state_dict(state)
    with pytest.raises(LayerMapError, match=f"whose {field} differs"):
        nn.Sequential(model).load_state_dict({f"0.{name}": value for name, value in state.items()}, strict=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_state_changes_a_frozen_weight():
    model, other = adapted(), adapted()
    before = model[0].weight.clone()
    state = other.state_dict() | {"0.weight": torch.zeros(8, 8), "1.weight": torch.zeros(8)}
    state["unilora_theta"] = torch.full((10,), 0.5)
    assert not any(model.load_state_dict(state))
    assert torch.equal(model[0].weight, before) and model.unilora.theta.eq(0.5).all()
    with pytest.raises(LayerMapError, match=r"no unilora_theta and another 0\.weight than the model"):
        model.load_state_dict({"0.weight": torch.zeros(8, 8)}, strict=False)
    assert model.load_state_dict(net().state_dict(), strict=False).missing_keys == ["unilora_theta"], "its own base"


def test_strict_loading_of_a_wrapper_tells_what_it_misses_and_nothing_else():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.model, self.last = nn.Linear(2, 2), adapted(), nn.Linear(2, 2)

    state = Wrapper().state_dict()
    assert "model.unilora_theta" in state and "model.0.weight" not in state
    assert not any(Wrapper().load_state_dict(state))
    del state["first.weight"], state["last.bias"], state["model.unilora_theta"]
    found = Wrapper().load_state_dict(state, strict=False)
    assert {"first.weight", "last.bias", "model.unilora_theta"} <= set(found.missing_keys)
    with pytest.raises(RuntimeError, match="first.weight"):
        Wrapper().load_state_dict(state)


def test_old_states_without_a_record_are_read():
    model = adapted()
    model.load_state_dict({"unilora_theta": torch.ones(10)})
    assert model.unilora.theta.eq(1).all()


# From a checkpoint to a file

KINDS = {
    "balanced": {},
    "identity": {"d": None, "kind": "identity"},
    "vb": {"d": None, "kind": "vb", "options": {"length": 4, "bank": 7, "topk": 3}},
    "xs": {"d": None, "kind": "xs"},
    "tiny": {"d": None, "kind": "tiny", "options": {"u": 3}},
    "fastfood": {"kind": "fastfood"},
    "chain": {"kind": "chain", "options": {"links": 2}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_every_form_is_the_adapters_file(kind, tmp_path):
    model = adapted(train_in_full=["2"], **KINDS[kind])
    with torch.no_grad():
        model.unilora.theta.add_(0.25)
        model[2].bias.add_(1)
    expected, state = encode(model.unilora.adapter()), model.state_dict()
    save_file(state, tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "plain.pt")
    torch.save(
        {"state_dict": {f"model.{name}": v for name, v in state.items()}, "epoch": 3}, tmp_path / "lightning.ckpt"
    )
    torch.save({"model": {f"module.{name}": v for name, v in state.items()}}, tmp_path / "ddp.pth")
    for name in ("model.safetensors", "plain.pt", "lightning.ckpt", "ddp.pth"):
        assert encode(adapter_in(tmp_path / name)) == expected, name
    assert encode(adapter_in(tmp_path)) == expected, "a folder"
    # of kind vb the file holds weights where training has logits: a rounding each, of numbers below ten
    torch.testing.assert_close(load_adapter(net(), tmp_path / "lightning.ckpt")(X), model(X), atol=1e-5, rtol=0)


def test_a_trainers_checkpoint_by_the_command_and_by_load_adapter(tmp_path):
    model = attach(bert(), d=60, train_in_full=["classifier"])
    trainer(model, tmp_path / "run").train()
    call = [
        "adapter",
        "--checkpoint",
        str(tmp_path / "run/checkpoint-4"),
        "-o",
        str(tmp_path / "vec.safetensors"),
        "--json",
    ]
    result = CliRunner().invoke(app, call, catch_exceptions=False)
    assert '"saved": [\n    "classifier.bias",\n    "classifier.weight"' in result.output
    for path in ("vec.safetensors", "run/checkpoint-4"):
        assert torch.equal(run(load_adapter(bert(), tmp_path / path)), run(model.eval())), path


def test_a_trainer_that_resumes_with_another_projection_is_refused(tmp_path):
    trainer(attach(bert(), d=60), tmp_path).train()
    for options in ({"seed": 1}, {"targets": ["key"]}):
        with pytest.raises(LayerMapError, match="of another adapter"):
            trainer(attach(bert(), d=60, **options), tmp_path).train(
                resume_from_checkpoint=str(tmp_path / "checkpoint-2")
            )


def test_the_best_checkpoint_comes_back_and_no_frozen_weight_moves(tmp_path):
    model = attach(bert(), d=60, bound=2.0)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    rows = [{"input_ids": IDS[i % 3], "labels": i % 2} for i in range(8)]
    options = {"eval_strategy": "steps", "eval_steps": 2, "learning_rate": 30.0}
    run_ = trainer(model, tmp_path, rows, load_best_model_at_end=True, **options)
    run_.train()
    losses = [entry["eval_loss"] for entry in run_.state.log_history if "eval_loss" in entry]
    assert max(losses) > min(losses) and run_.evaluate()["eval_loss"] == pytest.approx(min(losses), abs=1e-6)
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


def spoiled(state, **change):
    return {name: value for name, value in (state | change).items() if value is not None}


def test_what_is_no_checkpoint_of_an_adapter(tmp_path):
    state, path = adapted(train_in_full=["2"]).state_dict(), tmp_path / "model.safetensors"
    record = bytes(state["unilora_record"].numpy())

    def told(**change):
        save_file({name: value.contiguous() for name, value in spoiled(state, **change).items()}, path)
        with pytest.raises(UniLoraError) as caught:
            adapter_in(path)
        return str(caught.value)

    def as_record(text):
        return torch.frombuffer(bytearray(text), dtype=torch.uint8)

    assert "0 tensors unilora_theta" in told(unilora_theta=None)
    assert "2 tensors unilora_theta" in told(**{"other.unilora_theta": torch.ones(2)})
    assert "has no unilora_record; attach as it was attached" in told(unilora_record=None)
    assert "2.bias was trained, and the tensor is missing" in told(**{"2.bias": None})
    assert "has shape [3], and its record says [10]" in told(unilora_theta=torch.ones(3))
    for text in (b"{", b"[]", b"{}", record.replace(b'"d":10', b'"d":"10"'), record.replace(b"balanced", b"balance")):
        assert str(path) in told(unilora_record=as_record(text))
    path.write_bytes(b"junk")
    with pytest.raises(FileError, match="no safetensors file"):
        adapter_in(path)
    torch.save(net(), tmp_path / "whole.pt")  # a pickle of code
    with pytest.raises(FileError, match="no state of tensors alone"):
        adapter_in(tmp_path / "whole.pt")
    with pytest.raises(FileError, match="there is no such file"):
        adapter_in(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="holds none of model.safetensors"):
        adapter_in(tmp_path / "empty")
