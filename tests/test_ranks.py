"""Ranks by plan: what the planners see before training, and what moves during it."""

# ruff: noqa: F811  the fixtures are test_train's

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train import base, halt_at, one_thread, own_cache, refusal, reviews, small  # noqa: F401
from torch import nn

import unilora_spec
from backends.runs.ending import Stopped
from backends.settings import DURING, PlanSettings, TrainSettings
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
from backends.torch.ranks.during import Beam, Dora, norms, pairs, without_pruned
from backends.torch.training import train as training
from unilora_spec import Adapter, LayerMap, Projection, Segment, UniLoraError

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


def options(small, **more):
    return {name: value for name, value in (small | more).items() if value is not None}


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


# During training


class Net(nn.Module):
    """Two targets, of 6 × 5 and 4 × 6, with plain LoRA of rank 4 on both and entries from a seed."""

    def __init__(self):
        super().__init__()
        self.query, self.value = nn.Linear(5, 6), nn.Linear(6, 4)
        attach(self, rank=4, targets=("query", "value"), kind="identity")
        with torch.no_grad():
            self.unilora_theta.copy_(torch.randn(len(self.unilora_theta), generator=torch.Generator().manual_seed(0)))


def given_norms(net, *of_pairs):
    """Scales A of each pair, so that its components have these norms."""
    with torch.no_grad():
        for pair, wanted in zip(pairs(net.unilora.layer_map, net.unilora_theta), of_pairs):
            pair[0].mul_((torch.tensor(wanted) / norms(pair)).unsqueeze(1))


def deltas(net):
    return [B @ A for A, B in pairs(net.unilora.layer_map, net.unilora_theta.detach().clone())]


def step_of(callback, net, moments, step, steps=100):
    optimizer = SimpleNamespace(state={net.unilora_theta: moments})
    callback.on_step_end(None, SimpleNamespace(global_step=step, max_steps=steps), None, optimizer=optimizer)


def moments_of(net):
    names = ("exp_avg", "exp_avg_sq")
    return {"step": torch.tensor(1.0)} | {name: torch.rand(len(net.unilora_theta)) + 1 for name in names}


def test_beam_expands_the_important_into_the_places_of_the_unimportant():
    """Importances are (1.7, 1.9, 0.2, 0.2) and four ones, of sum 8. At step 8 of 100 p is 0.9518, and the first 0.9518 · 8 = 7.61
    are all but the two of 0.2. The two others of their target take their places, and as they have not moved since half an
    interval before, ΔW is what it was without the two, up to the order of sums."""
    net = Net()
    given_norms(net, [85.0, 95.0, 10.0, 10.0], [0.01] * 4)
    beam, moments = Beam(net.unilora), moments_of(net)
    step_of(beam, net, moments, 4)
    (A, B), _ = pairs(net.unilora.layer_map, net.unilora_theta.detach().clone())
    _, other = deltas(net)
    before = {name: moments[name].clone() for name in ("exp_avg", "exp_avg_sq")}
    moments["exp_avg"] += 1  # training goes on
    step_of(beam, net, moments, 8)
    first, second = deltas(net)
    assert torch.equal(second, other)
    torch.testing.assert_close(first, B[:, :2] @ A[:2], rtol=1e-5, atol=1e-4)  # float32 sums of terms up to 95
    (new_A, new_B), _ = pairs(net.unilora.layer_map, net.unilora_theta)
    assert torch.equal(new_A[:2], A[:2]) and torch.equal(new_B[:, :2], B[:, :2] / 2)
    assert torch.equal(new_A[2:], A[[1, 0]]) and torch.equal(new_B[:, 2:], B[:, [1, 0]] / 2)
    (old, _), _ = pairs(net.unilora.layer_map, before["exp_avg"])
    (now, _), _ = pairs(net.unilora.layer_map, moments["exp_avg"])
    assert torch.equal(now[2:], old[[1, 0]]) and torch.equal(now[:2], old[:2] + 1)


def test_beam_frees_half_of_a_target_at_most():
    """Importances (3.88, 0.04, 0.04, 0.04) and four ones: of the first target all but one are beyond 7.61, and two are freed,
    so that ΔW is left with the first and one of the others; which of them is a matter of rounding."""
    net = Net()
    given_norms(net, [97.0, 1.0, 1.0, 1.0], [0.01] * 4)
    (A, B), _ = pairs(net.unilora.layer_map, net.unilora_theta.detach().clone())
    beam, moments = Beam(net.unilora), moments_of(net)
    step_of(beam, net, moments, 4)
    step_of(beam, net, moments, 8)
    wanted = [B[:, [0, other]] @ A[[0, other]] for other in (1, 2, 3)]
    # float32 sums of terms up to 97, and components of norm 1
    assert sum(torch.allclose(deltas(net)[0], one, rtol=0, atol=1e-4) for one in wanted) == 1


def test_beam_keeps_more_and_more():
    shares = [Beam(Net().unilora).kept_share(step / 100) for step in range(101)]
    assert shares[0] == 0.95 and shares == sorted(shares) and shares[66] < 1 and set(shares[67:]) == {1.0}


def test_dora_prunes_by_the_share_in_a_pair():
    """The least is a quarter of the norms' sum or so in the second target, however small its norms are; the least in the
    first target goes first, though its norm is ten thousand times as large. ``left`` falls with the cube."""
    net = Net()
    given_norms(net, [100.0, 90.0, 80.0, 1.0], [1e-4] * 4)
    dora = Dora(net.unilora, 7)
    moments = moments_of(net)
    before = deltas(net)
    step_of(dora, net, moments, 14)
    assert all(torch.equal(now, then) for now, then in zip(deltas(net), before))  # pruning starts at 15 of 100
    step_of(dora, net, moments, 50)
    for name in ("exp_avg", "exp_avg_sq", None):
        vector = moments[name] if name else net.unilora_theta.detach()
        (A, B), (C, D) = pairs(net.unilora.layer_map, vector)
        assert not A[3].any() and not B[:, 3].any() and A[:3].all() and B[:, :3].all() and C.all() and D.all()
    moments["importance"][3] = 9  # what is pruned has no say, whatever it was before
    dora.budget = 6
    step_of(dora, net, moments, 50)
    assert sum(int((A != 0).any(1).sum()) for A, _ in pairs(net.unilora.layer_map, net.unilora_theta)) == 6
    assert [Dora(net.unilora, 4).left(progress) for progress in (-1, 0, 0.5, 0.9, 0.99, 1, 2)] == [8, 8, 8, 6, 5, 4, 4]


def test_doras_gradient_is_that_of_the_mean_variance():
    net = Net()
    theta, dora = net.unilora_theta, Dora(net.unilora, 4)
    halves = [half for A, B in pairs(net.unilora.layer_map, theta) for half in (A, B.T)]
    penalty = 0.1 * torch.cat([half.var(1) for half in halves]).mean()
    (wanted,) = torch.autograd.grad(penalty, theta)
    theta.grad = torch.zeros_like(theta)
    dora.on_pre_optimizer_step(None, SimpleNamespace(global_step=49, max_steps=100), None)
    torch.testing.assert_close(theta.grad, wanted, rtol=1e-5, atol=1e-9)  # the same sums in float32, in another order
    dora.on_pre_optimizer_step(None, SimpleNamespace(global_step=50, max_steps=100), None)
    torch.testing.assert_close(theta.grad, wanted, rtol=1e-5, atol=1e-9)  # no more when pruning is over


class Watch(transformers.TrainerCallback):
    """After each step: how many components each target has, and whether all that is pruned is zero, moments too."""

    def __init__(self, unilora):
        self.unilora, self.counts = unilora, []

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        theta = self.unilora.theta.detach()
        alive = [(A != 0).any(1) | (B != 0).any(0) for A, B in pairs(self.unilora.layer_map, theta)]
        for name in ("exp_avg", "exp_avg_sq"):
            for (A, B), mask in zip(pairs(self.unilora.layer_map, optimizer.state[self.unilora.theta][name]), alive):
                assert not A[~mask].any() and not B[:, ~mask].any()
        self.counts.append(sum(int(mask.sum()) for mask in alive))


@pytest.fixture
def watched(monkeypatch):
    """What the next run has: its ``Watch``, and the adapter before pruned components are cut out."""
    seen, make, cut_out = SimpleNamespace(), training.make_trainer, training.without_pruned

    def make_trainer(model, *rest):
        trainer = make(model, *rest)
        add = trainer.add_callback

        def add_with_watch(callback):
            add(callback)
            if isinstance(callback, Beam | Dora):
                seen.watch = Watch(model.unilora)
                add(seen.watch)

        trainer.add_callback = add_with_watch
        return trainer

    def cutting(adapter):
        seen.whole = adapter
        return cut_out(adapter)

    monkeypatch.setattr(training, "make_trainer", make_trainer)
    monkeypatch.setattr(training, "without_pruned", cutting)
    return seen


def same_deltas(adapter, whole):
    """Whether the ΔW of a cut adapter are those of the whole one. B's entries are rounded once more, by 2^-24 of themselves; the
    products here are exact but for 2^-50."""
    left = {segment.name: (float(adapter.layer_map.factor_scale(segment)), A, B) for segment, A, B in adapter.factors()}
    for segment, A, B in whole.factors():
        A, B = A.astype(np.float64), float(whole.layer_map.factor_scale(segment)) * B.astype(np.float64)
        if segment.name not in left:
            assert not (B @ A).any()
            continue
        s, new_A, new_B = left[segment.name]
        error = np.abs(s * new_B.astype(np.float64) @ new_A - B @ A)
        assert (error <= 2**-23 * (np.abs(B) @ np.abs(A))).all()
    return True


@pytest.mark.parametrize("scaling", ["lora", "rslora"])
def test_a_run_of_dora_prunes_to_its_budget_and_the_file_is_the_trained_model(small, base, watched, scaling):
    small |= {"kind": "identity", "ranks": "dora", "epochs": 4, "lr": 0.02, "head_lr": 0.02, "scaling": scaling}
    small = options(small, dim=None, targets="query,value,intermediate.dense", rank=2)
    report = training.train(TrainSettings(**small))
    # 36 steps, so that pruning goes from 5.4 to 18: from rank 3 to a mean of 2 on six targets
    counts = watched.watch.counts
    assert counts[:5] == [18] * 5 and counts[17:] == [12] * 19 and counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 3  # on the way
    adapter = unilora_spec.load_adapter(small["output"])
    ranks = [target["rank"] for target in report["ranks"]["targets"]]
    assert sum(ranks) == 12 == sum(segment.rank for segment in adapter.layer_map.segments) and len(set(ranks)) > 1
    assert [segment.rank for segment in adapter.layer_map.segments] == [rank for rank in ranks if rank]
    assert adapter.projection.kind == "identity" and report["parameters"]["theta"] == adapter.projection.d
    assert same_deltas(adapter, watched.whole)
    assert report["after"]["loss"] < report["before"]["loss"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    attach(model, d=1, targets="query", train_in_full="classifier")
    model.load_adapter(small["output"])  # with the record of the base that it fits


def test_a_run_of_beam_keeps_every_rank(small, watched):
    small |= {"kind": "identity", "ranks": "beam", "epochs": 4, "lr": 0.02, "head_lr": 0.02, "rank": 4}
    small = options(small, dim=None)
    report = training.train(TrainSettings(**small))
    assert watched.watch.counts == [16] * 36
    adapter = unilora_spec.load_adapter(small["output"])
    assert [segment.rank for segment in adapter.layer_map.segments] == [4] * 4
    assert [target["rank"] for target in report["ranks"]["targets"]] == [4] * 4
    assert adapter.theta.tobytes() == watched.whole.theta.tobytes()
    plain = options(small, ranks=None, output=small["output"].with_name("plain.safetensors"))
    training.train(TrainSettings(**plain))
    assert unilora_spec.load_adapter(plain["output"]).theta.tobytes() != adapter.theta.tobytes()  # something moved


@pytest.mark.parametrize("planner", DURING)
def test_a_stopped_run_goes_on_to_the_same_bytes(small, halt_at, planner):
    """Stopped while dora prunes, and between what beam remembers and what it does with it."""
    small = options(small | {"kind": "identity", "ranks": planner, "epochs": 4, "lr": 0.02, "rank": 4}, dim=None)
    training.train(TrainSettings(**small))
    whole = small["output"].read_bytes()
    small["output"].unlink()
    halt_at(9)
    with pytest.raises(Stopped, match="stopped at step 10 of 36"):
        training.train(TrainSettings(**small))
    halt_at(None)
    assert "--ranks is" in refusal(**small | {"resume": True, "ranks": {"query": 4}})
    training.train(TrainSettings(**small, resume=True))
    assert small["output"].read_bytes() == whole


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=4), st.data())
def test_cutting_keeps_every_delta_weight(alive, data):
    if not any(map(any, alive)):
        alive[0][0] = True
    segments = [Segment(f"w{i}", 6 + i, 7, len(mask)) for i, mask in enumerate(alive)]
    layer_map = LayerMap(
        segments, data.draw(st.sampled_from([1.0, 3.0, 16.0])), data.draw(st.sampled_from(["lora", "rslora"]))
    )
    theta = np.random.default_rng(data.draw(st.integers(0, 9))).standard_normal(layer_map.D).astype(np.float32)
    for (A, B), mask in zip(pairs(layer_map, theta), alive):
        A[~np.array(mask)], B[:, ~np.array(mask)] = 0, 0
    whole = Adapter(Projection("identity", D=layer_map.D, d=layer_map.D, seed=3), layer_map, theta)
    left = without_pruned(whole)
    assert [segment.rank for segment in left.layer_map.segments] == [sum(mask) for mask in alive if any(mask)]
    assert same_deltas(left, whole)
    if all(map(all, alive)):
        assert left.layer_map == layer_map and np.array_equal(left.theta, theta)
