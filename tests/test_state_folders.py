"""States in folders, heads that are new, and models that are changed after attach."""

import warnings

import pytest
import torch
import transformers
from attached_models import bert, run
from safetensors.torch import load_file
from states import X, adapted, base, net  # noqa: F401  fixtures
from test_attach_training import trainer
from torch import nn

from backends.torch import attach, load_adapter
from backends.torch.adapter.theta.vector import Vector
from unilora_spec import FileError, LayerMapError, UniLoraError

# A new head


def headed(base, seed=1):
    torch.manual_seed(seed)
    return transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2).eval()


def test_a_new_head_that_nobody_trains_is_told_and_then_refused(base, tmp_path):
    with pytest.warns(
        UserWarning, match="classifier.weight, classifier.bias: the base's checkpoint lacks them"
    ) as told:
        model = attach(headed(base), d=60)
    assert [warning.filename for warning in told] == [__file__], "the caller's line is what is to be changed"
    with pytest.raises(FileError, match="classifier.weight, classifier.bias: .* name them in train_in_full"):
        model.save_adapter(tmp_path / "vec.safetensors")
    with pytest.raises(FileError, match="name them in train_in_full"):
        model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "vec.safetensors").exists() and not (tmp_path / "folder").exists()
    model.classifier.requires_grad_(True)
    model.save_adapter(tmp_path / "vec.safetensors")
    assert torch.equal(run(load_adapter(headed(base, 2), tmp_path / "vec.safetensors")), run(model))


def test_a_head_that_is_trained_told_or_the_bases_own_is_no_matter(base, tmp_path):
    bert().save_pretrained(tmp_path / "whole")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(headed(base), d=60, train_in_full=["classifier"]).save_adapter(tmp_path / "a")
        attach(headed(base), d=60, untrained=["classifier"]).save_adapter(tmp_path / "b")
        attach(headed(str(tmp_path / "whole")), d=60).save_adapter(tmp_path / "c")
        attach(transformers.AutoModel.from_pretrained(base), d=60).save_adapter(tmp_path / "d")
        attach(bert(), d=60).save_adapter(tmp_path / "e")  # of no checkpoint at all


# Folders


def test_a_folder_holds_the_base_as_it_was_and_the_adapter(base, tmp_path):
    model = headed(base)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    attach(model, d=60, bound=2.0, train_in_full=["classifier"])
    with torch.no_grad():
        model.classifier.weight.mul_(3)
    model.save_pretrained(tmp_path / "folder")
    stored = load_file(tmp_path / "folder/model.safetensors")
    assert stored.keys() == own.keys() and all(torch.equal(stored[name], own[name]) for name in own)
    assert "unilora_theta" in model.state_dict(), "the state is the trained one again"
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "folder").eval()
    assert torch.equal(run(again), run(model)) and torch.equal(again.unilora.theta, model.unilora.theta)
    plain = again.detach()
    assert torch.equal(run(load_adapter(plain, tmp_path / "folder")), run(model))
    with pytest.raises(LayerMapError, match="has an adapter already"):
        attach(again, d=60)


@pytest.mark.parametrize("put_on", [load_adapter, lambda model, path: attach(model, d=60)], ids=["loaded", "attached"])
def test_the_first_adapter_of_a_process_has_folders_read_with_theirs(base, tmp_path, monkeypatch, put_on):
    attach(transformers.AutoModel.from_pretrained(base), d=60).save_pretrained(tmp_path / "folder")
    own = transformers.PreTrainedModel.from_pretrained.__wrapped__  # as it was before ``attach``
    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", classmethod(own))
    assert not hasattr(transformers.AutoModel.from_pretrained(tmp_path / "folder"), "unilora")
    put_on(transformers.AutoModel.from_pretrained(base), tmp_path / "folder/unilora.safetensors")
    assert hasattr(transformers.AutoModel.from_pretrained(tmp_path / "folder"), "unilora")


def test_the_checkpoint_of_a_trainer_is_no_model(tmp_path):
    trainer(attach(bert(), d=60), tmp_path).train()
    with pytest.raises(
        UniLoraError, match=r"checkpoint-4 is the checkpoint of an adapter, and holds no base; load the base"
    ):
        transformers.BertForSequenceClassification.from_pretrained(tmp_path / "checkpoint-4")


# A model that is changed after attach


def test_an_exchanged_module_is_seen_at_the_next_forward_and_the_next_save(tmp_path):
    model = adapted()
    own, model[0] = model[0], nn.Linear(8, 8)
    for use in (lambda: model(X), lambda: model.save_adapter(tmp_path / "vec.safetensors"), model.merge):
        with pytest.raises(LayerMapError, match="0 was exchanged after attach, and another Linear is in its place"):
            use()
    model[0] = own
    assert torch.equal(model(X), adapted()(X))
    with pytest.warns(DeprecationWarning):
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    with pytest.raises(LayerMapError, match=r"and a torch\.ao\..*\.Linear is in its place"):
        quantized(X)


def test_a_wrapper_around_an_adapted_module_is_no_exchange(tmp_path):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model, expected = adapted(), adapted()(X)
    model[0] = checkpoint_wrapper(model[0])
    assert torch.equal(model(X), expected)
    model.save_adapter(tmp_path / "vec.safetensors")
    assert torch.equal(load_adapter(net(), tmp_path / "vec.safetensors")(X), expected)


def test_a_module_that_is_added_is_told_once_and_merge_and_detach_are_whole():
    for end in ("merge", "detach"):
        model = adapted()
        expected = adapted().merge() if end == "merge" else net()
        model.add_module("new", nn.Linear(8, 2))
        with pytest.warns(UserWarning, match="a module was added beside 0 after attach: new"):
            model(X)
        new = model.new.weight.clone()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(model, end)()
        assert torch.equal(model[:3](X), expected(X)) and torch.equal(model.new.weight, new)
        assert not hasattr(model, "unilora") and model.new.weight.requires_grad


def test_a_head_that_is_exchanged_can_be_merged_and_detaching_changes_nothing():
    model = adapted(train_in_full=["2"])
    model[2] = nn.Linear(8, 7)
    with pytest.raises(LayerMapError, match="2.weight was exchanged after attach"):
        model.detach()
    assert hasattr(model, "unilora") and model[2].weight.requires_grad
    assert model.merge()(X).shape == (3, 7) and not hasattr(model, "unilora")


def test_attaching_is_whole_or_nothing(monkeypatch):
    own = Vector.__init__

    def failing(self, *arguments):
        own(self, *arguments)
        raise MemoryError

    model = net()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    monkeypatch.setattr(Vector, "__init__", failing)
    with pytest.raises(MemoryError):
        adapted(model)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert all(p.requires_grad for p in model.parameters()) and len(list(model.parameters())) == 6
    monkeypatch.undo()
    assert torch.equal(adapted(model)(X), adapted()(X))


def test_one_adapter_for_a_model_and_its_parts():
    outer = nn.Sequential(nn.Sequential(nn.Linear(8, 8)), nn.Linear(8, 2))
    adapted(outer, targets=["0.0"])
    for part, match in (
        (outer[0], "a part of a model that has"),
        (outer[1], "a part of"),
        (nn.Sequential(outer), "its part 0"),
    ):
        with pytest.raises(LayerMapError, match=match):
            attach(part, rank=1, d=2, targets=[r".*"])
    outer.detach()
    adapted(outer[0])
    with pytest.raises(LayerMapError, match="its part 0 has an adapter"):
        attach(outer, rank=1, d=2, targets=["1"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_leaves_theta_in_float32_and_says_so(dtype):
    model = adapted()
    theta = model.unilora.theta.clone()
    with pytest.warns(UserWarning, match="unilora_theta stays float32"):
        nn.Sequential(model).to(dtype)
    assert torch.equal(model.unilora.theta, theta) and model[0].weight.dtype == dtype
    assert model(X.to(dtype)).dtype == dtype
