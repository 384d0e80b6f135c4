"""Ranks that move during training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import base, halt_at, one_thread, options, own_cache, refusal, reviews, small  # noqa: F401  fixtures
from torch import nn

import unilora_spec
from backends.runs.ending import Stopped
from backends.settings import DURING, TrainSettings
from backends.torch import attach
from backends.torch.ranks.during import Beam, Dora, norms, pairs, without_pruned
from backends.torch.training import train as training
from unilora_spec import Adapter, LayerMap, Projection, Segment


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
