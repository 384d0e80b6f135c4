"""The base's answer without taking the adapter off, and a reference without a copy."""

import contextlib
import copy
import threading

import pytest
import torch
from attached_models import FORMS, IDS, assert_same, gpt2, run
from torch import nn

from backends.torch import attach, reference
from unilora_spec import LayerMapError

pytest.importorskip("transformers")
from files_of_adapters import random, tuned  # noqa: F401  fixtures


@pytest.mark.parametrize("way", ["disabled", "disable_adapter", "enabled", "reference"])
def test_the_base_is_what_it_was_before_to_the_bit(tuned, way):
    base, model = tuned
    trained = run(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with contextlib.ExitStack() as stack:
        shown = model
        if way == "enabled":
            model.unilora.enabled = False
        elif way == "reference":
            shown = reference(model)
        else:
            stack.enter_context(getattr(model.unilora if way == "disabled" else model, way)())
        assert torch.equal(run_of(shown), run(base)) and not torch.equal(run(base), trained)
        assert torch.equal(shown.bert(IDS).pooler_output, base.bert(IDS).pooler_output) or way == "reference"
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        saved = model.unilora.adapter().saved["classifier.weight"]
        assert torch.equal(torch.from_numpy(saved), state["classifier.weight"])
    model.unilora.enabled = True
    assert torch.equal(run(model), trained)


def run_of(model):
    return model(IDS).logits


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_site_can_be_left_out(form):
    make, targets = FORMS[form]
    base = make()
    model = attach(copy.deepcopy(base), rank=3, d=40, targets=targets, bound=4.0)
    with torch.no_grad(), model.unilora.disabled():
        assert_same(run(model), run(base))  # not to the bit: a layer of torch's encoder without hooks is one kernel
    with pytest.raises(AssertionError):
        assert_same(run(model), run(base))


def test_a_head_that_is_tied_to_an_embedding_is_the_bases_in_both_places():
    base = gpt2()
    model = random(attach(copy.deepcopy(base), d=20, targets=["c_attn"], train_in_full=["wte"]), 1)
    assert model.lm_head.weight is model.transformer.wte.weight
    with model.unilora.disabled():
        assert torch.equal(run(model), run(base))
    assert not torch.equal(run(model), run(base))


def test_leaving_the_adapter_out_is_one_threads_own(tuned):
    base, model = tuned
    trained, of_base, found = run(model).detach(), run(base).detach(), []
    inside, looked = threading.Event(), threading.Event()

    def other():
        with torch.no_grad(), model.unilora.disabled():
            inside.set()
            looked.wait(10)
            found.append(run(model))

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    with torch.no_grad():
        assert torch.equal(run(model), trained)
    looked.set()
    thread.join()
    assert torch.equal(found[0], of_base) and torch.equal(run(model), trained)


def test_the_optimizer_steps_what_is_trained_between_two_looks_at_the_base(tuned):
    _, model = tuned
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    before = run(model).detach()
    with torch.no_grad(), model.unilora.disabled():
        of_base = run(model)
    (run(model) - of_base).square().sum().backward()
    optimizer.step()
    with torch.no_grad(), model.unilora.disabled():
        assert torch.equal(run(model), of_base)
    assert not torch.equal(run(model), before)
    assert model.classifier.weight.grad.abs().sum() > 0 and model.unilora.theta.grad.abs().sum() > 0


def test_a_compiled_model_leaves_the_adapter_out_too(tuned):
    base, model = tuned
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        trained = compiled(IDS).logits
        with model.unilora.disabled(), model.unilora.disabled():
            assert torch.equal(compiled(IDS).logits, run(base))
        assert torch.equal(compiled(IDS).logits, trained) and not torch.equal(trained, run(base))
        model.unilora.enabled = False
        assert torch.equal(compiled(IDS).logits, run(base))


def test_what_cannot_be_left_out_is_refused(tuned):
    _, model = tuned
    with torch.no_grad(), model.unilora.merged():
        for way in (model.unilora.disabled, model.disable_adapter):
            with pytest.raises(LayerMapError, match=r"leave merged\(\) first"), way():
                pass
    recurrent = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4))
    attach(recurrent, rank=1, d=4, targets=["0"], train_in_full=["1"])
    with pytest.raises(LayerMapError, match=r"1\.weight_ih_l0 was trained in full, and nn\.LSTM"):
        recurrent.unilora.enabled = False
    assert recurrent.unilora.enabled
    with pytest.raises(LayerMapError, match="no adapter"):
        reference(nn.Linear(2, 2))


def test_merge_and_detach_leave_the_classes_as_they_were(tuned):
    base, model = tuned
    other = copy.deepcopy(model)
    assert issubclass(type(model.classifier), nn.Linear) and type(model.classifier) is not nn.Linear
    assert type(other.merge().classifier) is nn.Linear and type(model.detach().classifier) is nn.Linear
    assert vars(model.classifier).keys() == vars(base.classifier).keys()
    assert torch.equal(run(model), run(base))


def test_the_class_that_shows_a_weight_has_the_names_of_the_modules_own():
    class Own(nn.Conv1d):
        pass

    model = attach(nn.Sequential(Own(8, 6, 1, groups=2)), 2, d=10, targets=["0"])
    shown = type(model[0])
    assert shown is not Own
    assert all(getattr(shown, name) == getattr(Own, name) for name in ("__module__", "__name__", "__qualname__"))


def test_torch_saves_the_whole_model_with_its_adapter(tuned, tmp_path):
    model = tuned[1]
    torch.save(model, tmp_path / "model.pt")
    assert torch.equal(run(torch.load(tmp_path / "model.pt", weights_only=False)), run(model))


def test_a_reference_shares_the_model_and_has_nothing_to_train(tuned):
    base, model = tuned
    of_model = reference(model)
    assert not list(of_model.parameters()) and not of_model.training and of_model.config is model.config
    model.train()
    of_model.eval()
    state = of_model.state_dict()
    assert state.keys() == dict(base.named_parameters()).keys()
    assert all(torch.equal(value, state[name]) for name, value in base.named_parameters())
    assert model.training and "bert" not in dict(of_model.named_children())

    def forward(ids):  # as TRL does: through the parts, past the model's own forward
        return of_model.classifier(of_model.bert(ids).pooler_output)

    of_model.forward = forward
    model.eval()
    assert torch.equal(of_model(IDS), run(base))
    model.detach()
    with pytest.raises(AttributeError):
        of_model(IDS)
