"""Adapters of a model as files: saved, loaded, trained on, refused."""

import warnings

import pytest
import torch

import unilora_spec
from backends.torch import attach, load_adapter
from unilora_spec import (
    BaseMismatch,
    UniLoraError,
)

transformers = pytest.importorskip("transformers")

import numpy as np
import pytest
import torch
from attached_models import assert_same, bert, gpt2, run
from torch import nn

import unilora_spec
from backends.torch import attach, load_adapter
from unilora_spec import (
    Adapter,
    BaseMismatch,
    FileError,
    LayerMap,
    Projection,
    Segment,
    UniLoraError,
    save_adapter,
)


def test_save_load_and_switch(tmp_path):
    model = attach(bert(), d=60, seed=1, train_in_full=["classifier"], bound=2.0)
    with torch.no_grad():
        model.classifier.weight.mul_(3)
    first = run(model)
    size = model.save_adapter(tmp_path / "first.safetensors")
    assert size == (tmp_path / "first.safetensors").stat().st_size
    other = attach(bert(), rank=2, d=30, seed=2, targets="key", bound=2.0)
    other.save_adapter(tmp_path / "other.safetensors", dtype="BF16")
    assert (
        unilora_spec.load_adapter(tmp_path / "other.safetensors").base.architecture == "BertForSequenceClassification"
    )

    model = load_adapter(bert(), tmp_path / "first.safetensors")
    assert torch.equal(run(model), first)
    model.load_adapter(tmp_path / "other.safetensors")
    assert torch.equal(model.classifier.weight, bert().classifier.weight), "the first adapter's head must not stay"
    assert_same(run(model), run(other), 1e-2)  # θ rounded to bfloat16
    model.load_adapter(tmp_path / "first.safetensors")
    assert torch.equal(run(model), first)
    theta = model.unilora.theta
    model.load_adapter(tmp_path / "first.safetensors")
    assert model.unilora.theta is theta, "the same P and layer map: the parameter stays, an optimizer may hold it"
    assert torch.equal(run(model), first)
    assert torch.equal(run(model.detach()), run(bert()))


def test_a_head_in_half_precision_is_stored_so(tmp_path):
    model = attach(bert().bfloat16(), d=60, train_in_full=["classifier"])
    model.save_adapter(tmp_path / "vec.safetensors")
    adapter = unilora_spec.load_adapter(tmp_path / "vec.safetensors")
    assert adapter.dtypes == {"saved.classifier.bias": "BF16", "saved.classifier.weight": "BF16"}
    assert torch.equal(run(load_adapter(bert().bfloat16(), tmp_path / "vec.safetensors")), run(model))


def test_the_same_adapter_is_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        attach(bert(), d=60, seed=1, train_in_full=["classifier"]).save_adapter(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_another_base_is_refused_and_other_weights_are_told(tmp_path):
    path = tmp_path / "vec.safetensors"
    attach(bert(), d=60).save_adapter(path)
    with pytest.raises(BaseMismatch, match=r"vec\.safetensors.*no weight bert\.encoder"):
        load_adapter(gpt2(), path)
    small = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=50
    )
    with pytest.raises(UniLoraError, match="shape"):
        load_adapter(transformers.BertForSequenceClassification(small), path)
    changed = bert()
    with torch.no_grad():
        changed.bert.encoder.layer[0].attention.self.query.weight.add_(1)
    with pytest.warns(UserWarning, match="not those of"):
        load_adapter(changed, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_adapter(bert(), path)


def test_a_loaded_adapter_is_its_file_again(tmp_path):
    """What the file holds of the base and of its outputs stays, and is written again."""
    model = attach(bert(id2label={0: "bad", 1: "good"}), d=60, train_in_full=["classifier"], bound=2.0)
    model.save_adapter(tmp_path / "vec.safetensors")
    other = bert()
    with torch.no_grad():
        other.classifier.weight.mul_(3)
    again = load_adapter(other, tmp_path / "vec.safetensors")
    assert again.config.id2label == {0: "bad", 1: "good"} and torch.equal(run(again), run(model))
    again.save_adapter(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "vec.safetensors").read_bytes()
    model.config.id2label = {0: "no", 1: "yes"}
    model.save_adapter(tmp_path / "other.safetensors")
    again.unilora.add_adapter("other", tmp_path / "other.safetensors")
    for name, labels in (("other", {0: "no", 1: "yes"}), ("default", {0: "bad", 1: "good"})):
        again.unilora.set_adapter(name)
        assert again.config.id2label == labels


def test_a_table_is_loaded_trained_on_and_saved(tmp_path):
    """With the table of `balanced` written out, all is as with `balanced` itself (SPEC 9.4)."""
    model = attach(bert(), d=60, seed=1, bound=2.0)
    adapter = model.unilora.adapter()
    p = adapter.projection
    adapter.projection = Projection("table", D=p.D, d=p.d, seed=p.seed, tensors={"index": p.index()})
    save_adapter(adapter, tmp_path / "table.safetensors")
    other = load_adapter(bert(), tmp_path / "table.safetensors")
    assert torch.equal(run(other), run(model))
    for each in (model, other):
        optimizer = torch.optim.SGD([each.unilora.theta], lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            run(each).square().mean().backward()
            optimizer.step()
    assert torch.equal(other.unilora.theta, model.unilora.theta)
    other.save_adapter(tmp_path / "more.safetensors")
    again = unilora_spec.load_adapter(tmp_path / "more.safetensors")
    assert again.projection == adapter.projection and again.theta.tolist() == model.unilora.theta.tolist()
    assert torch.equal(run(other.merge()), run(model.merge()))


@pytest.mark.parametrize(
    ("module", "transposed", "message"),
    [
        (nn.Linear(4, 4), True, "0.weight is stored the other way round than the adapter says; merge instead"),
        (nn.Embedding(4, 4), True, "0.weight is stored the other way round than the adapter says; merge instead"),
        (
            nn.LayerNorm((4, 4)),
            False,
            "0.weight belongs to a module that cannot be adapted while it runs; merge instead",
        ),
    ],
)
def test_a_file_that_only_a_merge_can_follow_is_refused(tmp_path, module, transposed, message):
    layer_map = LayerMap([Segment("0.weight", 4, 4, 1, transposed)])
    adapter = Adapter(Projection(D=layer_map.D, d=3, seed=0), layer_map, np.ones(3, np.float32))
    save_adapter(adapter, tmp_path / "vec.safetensors")
    with pytest.raises(FileError, match=message):
        load_adapter(nn.Sequential(module), tmp_path / "vec.safetensors")
