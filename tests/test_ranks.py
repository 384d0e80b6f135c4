"""Ranks by plan: what the planners see before training."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import base, one_thread, options, own_cache, reviews, small  # noqa: F401  fixtures
from torch import nn

import unilora_spec
from backends.settings import PlanSettings, TrainSettings
from backends.torch import attach
from backends.torch import plan as plan_of
from backends.torch.planning import planned, show
from backends.torch.ranks.before import (
    gelora,
    gradient_norm,
    gradients_of_flow,
    gradients_of_loss,
    hetero,
    snip,
    spread,
    synflow,
    two_nn,
)
from backends.torch.training import train as training
from unilora_spec import LayerMap, Segment, UniLoraError

# Before training: GeLoRA


@pytest.mark.parametrize("dimension", [1, 2, 3, 5])
def test_two_nn_finds_the_dimension_of_a_plane(dimension):
    """Points of a cube of known dimension in a space of 20. Over twenty seeds the estimates of a thousand points spread by 4 %
    to 5 % (standard deviation), and their mean is below the dimension by up to 6 %, as neighbours are missing at the faces of
    a cube: 15 % is room for both, and for no neighbouring dimension."""
    generator = torch.Generator().manual_seed(0)
    plane, _ = torch.linalg.qr(torch.randn(20, dimension, generator=generator))
    points = torch.rand(1000, dimension, generator=generator).double() @ plane.T.double() + 7
    found = two_nn(points)
    assert abs(found - dimension) < 0.15 * dimension
    assert two_nn(torch.cat([points, points[:300]])) == pytest.approx(found, rel=1e-9)  # texts that come twice
    twins = torch.cat([points, points[:10] + 1e-9])  # r₁ of 2 % of the points says nothing; the rest count as before
    assert two_nn(twins) == pytest.approx(found, rel=0.05)
    assert two_nn(1000 * points) == pytest.approx(found, rel=1e-6)  # float64, of squares that cancel


def test_too_few_points_are_refused():
    with pytest.raises(UniLoraError, match="more than 9 different texts"):
        two_nn(torch.eye(9).repeat(5, 1))


class Grows(nn.Module):
    """A layer that adds ``extra`` to its states, each token's the same, so that a text has as many more dimensions."""

    def __init__(self, extra):
        super().__init__()
        self.query, self.extra = nn.Linear(20, 20), extra

    def forward(self, hidden_states):
        return (hidden_states + self.extra.unsqueeze(1),)


class Narrows(Grows):
    def forward(self, hidden_states):
        return hidden_states * torch.eye(20)[0]  # the first dimension alone


class Layers(nn.Module):
    """Texts of two dimensions; three layers, of 5, 1 and 1; a module of its own after them."""

    def __init__(self, texts):
        super().__init__()
        extra = torch.zeros(len(texts), 20)
        extra[:, 4:7] = torch.rand(len(texts), 3, generator=torch.Generator().manual_seed(1))
        self.texts, self.padding = texts, torch.randn(texts.shape, generator=torch.Generator().manual_seed(2))
        self.layers = nn.ModuleList([Grows(extra), Narrows(extra), Grows(0 * extra)])
        self.pooler = nn.Linear(20, 20)

    def forward(self, rows, attention_mask):
        states = self.texts[rows].unsqueeze(1) + torch.arange(3).reshape(1, 3, 1) / 3  # of three tokens
        states = states + self.padding[rows].unsqueeze(1) * (1 - attention_mask.unsqueeze(-1))  # of no part in a point
        for layer in self.layers:
            states = layer(hidden_states=states)
            states = states[0] if isinstance(states, tuple) else states
        return self.pooler(states)


def test_gelora_gives_each_layer_the_dimensions_it_gains_and_one():
    texts = torch.zeros(600, 20)
    texts[:, :2] = torch.rand(600, 2, generator=torch.Generator().manual_seed(0))
    model = Layers(texts)
    mask = torch.tensor([[1, 1, 0]]).repeat(600, 1)
    layer_map = plan_of(model, ["query", "pooler"], 4)
    ranks, seen = gelora(model, layer_map, [{"rows": torch.arange(600), "attention_mask": mask}])
    assert ranks == [3 + 1, 1, 1, 1]
    assert [segment.name for segment in layer_map.segments][-1] == "pooler.weight"
    # As above, where the spread is 5 % to 6 % for 600 points.
    assert [figures["output"] for figures in seen] == pytest.approx([5, 1, 1, 1], rel=0.15)
    assert seen[0]["score"] == seen[0]["output"] - seen[0]["input"]
    assert not model.layers[0]._forward_hooks
    with pytest.raises(UniLoraError, match=r"layers\.0's input has \(600, 3, 20\)"):
        gelora(model, layer_map, [{"rows": torch.arange(600), "attention_mask": mask[:1]}])


# HeteroLoRA


class TwoLayers(nn.Module):
    """y = V·W·x with W (2, 2) and V (1, 2); the loss is y, summed over the batch, and so are the logits."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.5]]))
            self.second.weight.copy_(torch.tensor([[2.0, -1.0]]))

    def forward(self, x):
        y = self.second(self.first(x))
        return SimpleNamespace(loss=y.sum(), logits=y)


def test_proxies_by_hand():
    """Two batches, x = (1, 2) and (0, 1), of sum (1, 3). ∂L/∂W = Vᵀ·(1, 3) and ∂L/∂V = W·(1, 3) = (−5, 4.5). Of the flow,
    x = (1, 1): ∂R/∂|W| = |V|ᵀ·(1, 1) and ∂R/∂|V| = |W|·(1, 1) = (3, 3.5), and both sums are R = 2·3 + 1·3.5."""
    model, names = TwoLayers(), ["first.weight", "second.weight"]
    W, V = (model.get_parameter(name).detach() for name in names)
    batches = [{"x": torch.tensor([[1.0, 2.0]])}, {"x": torch.tensor([[0.0, 1.0]])}]
    of_W, of_V = gradients_of_loss(model, names, batches).values()
    assert of_W.tolist() == [[2, 6], [-1, -3]] and of_V.tolist() == [[-5, 4.5]]
    assert gradient_norm(W, of_W) == pytest.approx((4 + 36 + 1 + 9) ** 0.5)
    assert gradient_norm(V, of_V) == pytest.approx((25 + 20.25) ** 0.5)
    assert snip(W, of_W) == 2 + 12 + 3 + 1.5 and snip(V, of_V) == 10 + 4.5
    flow = gradients_of_flow(model, names, {"x": torch.ones(1, 2, dtype=torch.float64)})
    assert flow["first.weight"].tolist() == [[2, 2], [1, 1]] and flow["second.weight"].tolist() == [[3, 3.5]]
    assert synflow(W, flow["first.weight"]) == synflow(V, flow["second.weight"]) == 9.5
    assert W.tolist() == [[1, -2], [3, 0.5]]  # the model is as it was
    layer_map = plan_of(model, ["first", "second"], 1)
    assert hetero(model, layer_map, batches, "snip") == [18.5, 14.5]
    with pytest.raises(UniLoraError, match="--proxy snip is 0 for every target"):
        hetero(model, layer_map, [{"x": torch.zeros(1, 2)}], "snip")
    with pytest.raises(UniLoraError, match="--proxy synflow: TwoLayers cannot run on embeddings"):
        hetero(model, layer_map, batches, "synflow")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 30)), min_size=1, max_size=40), st.data())
def test_a_budget_of_rank_is_spread_whole_over_the_best(targets, data):
    scores, most = zip(*targets)
    budget = data.draw(st.integers(1, sum(most)))
    ranks = spread(scores, budget, most)
    assert sum(ranks) == budget and all(0 <= rank <= top for rank, top in zip(ranks, most))
    without = [score for score, rank in zip(scores, ranks) if not rank]
    assert all(score >= max(without, default=0) for score, rank in zip(scores, ranks) if rank)
    roomy = spread(scores, budget, [budget] * len(scores))
    adapted = max(1, len(scores) // 4)
    assert sum(rank > 0 for rank in roomy) == min(adapted, budget) and max(roomy) == -(-budget // adapted)
    with pytest.raises(UniLoraError, match="give a lower --rank"):
        spread(scores, sum(most) + 1, most)


# The commands' functions, on a BERT of two layers


@pytest.mark.parametrize("more", [{"ranks": "gelora"}, {"ranks": "hetero"}, {"ranks": "hetero", "proxy": "synflow"}])
def test_a_plan_is_what_a_run_trains(small, capsys, more):
    """Of the same options, in another process's worth of objects: the layer map of the file is the plan's."""
    more |= {"targets": "query,value,attention.output.dense"}
    fields = {field.name for field in dataclasses.fields(PlanSettings)}
    report = planned(PlanSettings(**{name: value for name, value in (small | more).items() if name in fields}))
    assert json.loads(json.dumps(report)) == report
    targets = report["ranks"]["targets"]
    assert len(targets) == 6 and all(isinstance(target["score"], float) for target in targets)
    if more["ranks"] == "hetero":  # one target of six, with the budget of all
        assert sorted(target["rank"] for target in targets) == [0] * 5 + [12] and report["ranks"]["budget"] == 12
        assert max(targets, key=lambda target: target["score"])["rank"] == 12
    else:
        assert all(target["rank"] == max(0, round(target["output"] - target["input"])) + 1 for target in targets)
    show(report)
    out = capsys.readouterr().out
    assert all(target["target"] in out for target in targets) and "█" in out
    run = training.train(TrainSettings(**small | more))
    adapter = unilora_spec.load_adapter(small["output"])
    assert adapter.layer_map == LayerMap.from_json(report["layers"], 2)
    assert run["ranks"] == report["ranks"] and adapter.projection.d == 100


@pytest.mark.parametrize(
    "more, sentence",
    [
        ({"ranks": "gelora", "data": None}, "--ranks gelora looks at the base while it reads texts; give --data"),
        ({"ranks": "beam"}, "--ranks beam moves rows of A with columns of B, which --kind balanced does not train"),
        ({"ranks": "dora", "kind": "uniform"}, "--kind uniform does not train as they are; give --kind identity"),
        ({"ranks": "beam", "kind": "identity", "rank": 1}, "give --rank 2 or more"),
        ({"ranks": "uniform", "rank": 0}, "--ranks uniform shares out the ranks of pairs; give --rank 1 or more"),
        ({"ranks": "dora", "kind": "identity", "patience": 1}, "before dora has pruned to its budget"),
        ({"ranks": "beam", "kind": "identity", "head_only": True, "output": None}, "leave --ranks beam out"),
        ({"ranks": "hetero", "rank": 0}, "--ranks hetero gives ranks from 1, and --rank is 0"),
        ({"ranks": "adalora"}, "give uniform, gelora, hetero, beam or dora, or pairs such as query=8,value=2"),
        ({"ranks": "hetero", "proxy": "fisher"}, "give grad-norm, snip or synflow"),
    ],
)
def test_planners_refuse(more, sentence):
    with pytest.raises(UniLoraError) as error:
        TrainSettings(**options({"base": "b", "data": "d.csv", "output": "v"}, **more))
    assert sentence in str(error.value)


def test_uniform_beam_and_dora_are_planned_without_weights(tmp_path):
    config = transformers.BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    config.save_pretrained(tmp_path)
    for planner, rank in (("uniform", 3), ("beam", 3), ("dora", 5)):
        report = planned(PlanSettings(base=tmp_path, rank=3, ranks=planner, kind="identity"))
        assert [target["rank"] for target in report["ranks"]["targets"]] == [rank] * 4
        assert report["ranks"]["budget"] == 12 and report["D"] == 4 * rank * 64


def test_a_layer_map_that_does_not_fit_is_refused():
    with pytest.raises(UniLoraError, match="second.weight has shape"):
        attach(TwoLayers(), d=2, targets=LayerMap([Segment("second.weight", 3, 2, 1)]))
