"""What attach does to a model, by default and as it is asked to, and what it refuses."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from backends.torch import attach, load_adapter, plan
from unilora_spec import (
    Adapter,
    BaseMismatch,
    LayerMap,
    LayerMapError,
    LimitError,
    Projection,
    Segment,
    UniLoraError,
    save_adapter,
)

transformers = pytest.importorskip("transformers")
from attached_models import IDS, adapted_weights, assert_same, bert, gpt2, run

# What attach does


def test_moved_and_cast_models_keep_working():
    model = attach(bert(), d=60, bound=2.0)
    expected = run(model)
    assert torch.equal(run(model.to("cpu")), expected)
    assert run(model.double()).dtype == torch.float64
    assert_same(run(model).float(), expected)


def test_what_attach_does_by_default():
    unilora = attach(bert(), d=60).unilora
    layer_map, projection, theta = unilora.layer_map, unilora.projection, unilora.theta.detach()
    assert {segment.rank for segment in layer_map.segments} == {4}
    assert (layer_map.alpha, layer_map.scaling) == (4, "lora")
    assert (projection.kind, projection.seed) == ("balanced", 0)
    assert torch.equal(theta, torch.from_numpy(projection.initial(layer_map, 0.02)))
    assert [name for name, p in unilora.model.named_parameters() if p.requires_grad] == ["unilora_theta"]


def test_what_is_excluded_and_the_bound_that_is_given():
    unilora = attach(bert(), d=60, targets="query", exclude=r".*layer\.1\..*", bound=2.0).unilora
    assert [segment.name for segment in unilora.layer_map.segments] == [
        "bert.encoder.layer.0.attention.self.query.weight"
    ]
    assert 1 < unilora.theta.abs().max() <= 2


def test_a_layer_map_that_was_planned_is_taken_as_it_is():
    """Rank, alpha and scaling are its own, and a base that it does not fit is refused."""
    layer_map = plan(bert(), "query", 2, None, 6, "rslora")
    model = attach(bert(), rank=5, d=30, targets=layer_map, alpha=1)
    assert model.unilora.layer_map == layer_map
    with pytest.raises(BaseMismatch, match="no weight bert"):
        attach(gpt2(), d=30, targets=layer_map)


def test_a_model_in_a_wrapper_is_adapted_within_and_given_back_whole(tmp_path):
    def wrapped():
        torch.manual_seed(0)
        return torch.compile(nn.Sequential(nn.Linear(8, 6)), backend="eager")

    model = wrapped()
    assert attach(model, 2, d=20, targets=["0"], bound=2.0) is model
    model.save_adapter(tmp_path / "vec.safetensors")
    again = wrapped()
    assert load_adapter(again, tmp_path / "vec.safetensors") is again
    assert load_adapter(again, tmp_path / "vec.safetensors") is again, "in place of the one that is there"
    plain = [each._orig_mod for each in (again, model, wrapped())]
    assert torch.equal(plain[0].unilora.theta, plain[1].unilora.theta)
    first, second, base = (each(torch.ones(3, 8)) for each in plain)
    assert torch.equal(first, second) and not torch.equal(first, base)
    with pytest.raises(LayerMapError, match="already"):
        load_adapter(nn.Sequential(plain[0]), tmp_path / "vec.safetensors")


def test_ranks_alpha_and_identity():
    model = attach(bert(), rank=4, ranks={r".*layer\.1\..*query": 8, "query": 6}, d=60, targets=("query", "value"))
    assert [segment.rank for segment in model.unilora.layer_map.segments] == [6, 4, 8, 4]
    assert model.unilora.layer_map.alpha == 4 and plan(bert(), "query", 0).alpha == 1
    chain = attach(bert(), rank=2, d=60, targets="query", kind="chain", options={"links": 3}).unilora
    assert chain.projection.options == {"links": 3} and [each.rank for each in chain.layer_map.segments] == [6, 6]
    lora = attach(bert(), rank=2, kind="identity", alpha=4)
    assert lora.unilora.layer_map.alpha == 4
    assert lora.unilora.theta.numel() == lora.unilora.layer_map.D
    assert torch.equal(run(lora), run(bert())), "LoRA starts with B = 0"


def test_rank_0_starts_from_the_base_and_identity_then_trains_the_weights_themselves():
    base, targets = bert(), ("query", "attention.self.value")
    model = attach(copy.deepcopy(base), rank=0, kind="identity", targets=targets)
    assert torch.equal(attach(copy.deepcopy(base), rank=0, d=60, targets=targets)(IDS).logits, base(IDS).logits)
    run(model).square().sum().backward()
    run(base).square().sum().backward()
    weights = [base.get_parameter(segment.name) for segment in model.unilora.layer_map.segments]
    assert_same(model.unilora.theta.grad, torch.cat([weight.grad.flatten() for weight in weights]))


def test_segments_of_rank_0_beside_others_in_one_weight(tmp_path):
    """As no call makes them, but a file may: rows of q are adapted without factors, others with a pair, and k is stored with q."""
    name, other = (f"bert.encoder.layer.0.attention.self.{part}.weight" for part in ("query", "key"))
    rows = ((0, 8, 0), (12, 16, 2), (28, 4, 0))
    segments = [Segment(name, out, 32, rank, row=row) for row, out, rank in rows]
    layer_map = LayerMap([*segments, Segment(other, 32, 32, 0)], alpha=2)
    theta = np.random.default_rng(0).standard_normal(40).astype(np.float32)
    adapter = Adapter(Projection(D=layer_map.D, d=40, seed=0), layer_map, theta)
    save_adapter(adapter, tmp_path / "vec.safetensors")
    model = load_adapter(bert(), tmp_path / "vec.safetensors")
    theta = model.unilora.theta.detach().clone().requires_grad_()
    expected = functional_call(bert(), adapted_weights(model, theta), IDS).logits
    run(model).square().sum().backward()
    expected.square().sum().backward()
    assert_same(run(model), expected)
    assert_same(model.unilora.theta.grad, theta.grad)


REFUSALS = {
    "a misspelled target": ({"targets": "qurey"}, LayerMapError, "close names are query"),
    "a target that cannot be": ({"targets": ["LayerNorm"]}, LayerMapError, "matches no weight"),
    "no regular expression": ({"targets": ["*query"]}, LayerMapError, "regular expression"),
    "rows outside": ({"targets": ["query[0:99]"]}, LayerMapError, "32 rows"),
    "rows twice": ({"targets": ["query[0:8]", "query[4:12]"]}, LayerMapError, "same part"),
    "a rank for nothing": ({"ranks": {"qurey": 2}}, LayerMapError, "matches no weight"),
    "no rank": ({"rank": -1}, LayerMapError, "rank of bert.* is -1; give a whole number from 0"),
    "no d": ({"d": None}, LimitError, "d is missing"),
    "d above D": ({"d": 1025}, LimitError, "from 1 to 1024"),
    "d without D": ({"kind": "identity"}, LimitError, "needs d = D"),
    "a negative seed": ({"seed": -1}, LimitError, "seed"),
    "an unknown kind": ({"kind": "lora-fa"}, UniLoraError, "balanced, "),
    "a table without one": (
        {"kind": "table", "d": 9},
        UniLoraError,
        "kind table needs tensors that come with",
    ),
    "no head": ({"train_in_full": ["score"]}, LayerMapError, "matches no module"),
    "a target in full": ({"train_in_full": ["query"]}, LayerMapError, "choose one"),
}


@pytest.mark.parametrize("arguments,error,message", REFUSALS.values(), ids=REFUSALS)
def test_refused_with_the_model_unchanged(arguments, error, message):
    model = bert()
    with pytest.raises(error, match=message):
        attach(model, **{"d": 60} | arguments)
    assert torch.equal(run(model), run(bert()))
    assert all(p.requires_grad for p in model.parameters())
    assert not hasattr(model, "unilora")
