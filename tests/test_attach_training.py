"""Training an adapted model: steps, checkpoints, compiled and in half precision."""

import copy
import shutil

import pytest
import torch
from torch import nn
from torch.func import functional_call

from backends.torch import Expand, attach

transformers = pytest.importorskip("transformers")
from attached_models import IDS, adapted_weights, assert_same, bert, gpt2, run


def test_twenty_steps_are_those_of_a_dense_projection():
    """Training against P as a matrix, written out here, ends at the same θ and head."""
    base = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = attach(copy.deepcopy(base), rank=4, d=60, train_in_full=["classifier"], bound=2.0)
    labels = torch.tensor([0, 1, 1])
    theta = model.unilora.theta.detach().clone().requires_grad_()
    head = {name: p.detach().clone().requires_grad_() for name, p in base.classifier.named_parameters("classifier")}
    ours = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5, momentum=0.9)
    naive = torch.optim.SGD([theta, *head.values()], lr=0.5, momentum=0.9)
    start = theta.detach().clone()
    for _ in range(20):
        for optimizer, weights, network in (
            (ours, {}, model),
            (naive, adapted_weights(model, theta) | head, base),
        ):
            optimizer.zero_grad()
            functional_call(network, weights, kwargs={"input_ids": IDS, "labels": labels}).loss.backward()
            optimizer.step()
    assert (theta - start).abs().max() > 1e-2
    # float32 rounding, 1e-5 of the largest value in one step's gradient, carried through 20 steps with momentum
    assert_same(model.unilora.theta - start, theta - start, 1e-4)
    assert_same(model.classifier.weight, head["classifier.weight"], 1e-4)


@pytest.fixture
def counted(monkeypatch):
    """How often θ_D has been rebuilt."""
    calls = []
    forward = Expand.forward
    monkeypatch.setattr(Expand, "forward", staticmethod(lambda *a: calls.append(1) or forward(*a)))
    return calls


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_theta_D_is_rebuilt_once_a_forward(counted, reentrant):
    model = attach(bert(), d=60, bound=2.0)
    expected = run(model)
    expected.sum().backward()
    gradient = model.unilora.theta.grad.clone()
    model.zero_grad()
    counted.clear()
    if reentrant is not None:
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    run(model).sum().backward()
    assert len(counted) == 1, "nothing is rebuilt in a checkpointed region"
    # with reentrant checkpoints each region applies the adjoint for itself: the same sum in another order
    torch.testing.assert_close(model.unilora.theta.grad, gradient, atol=1e-8, rtol=1e-4)


def test_a_part_called_on_its_own_sees_the_theta_of_now():
    model = attach(bert(), d=60, bound=2.0)
    with torch.no_grad():
        run(model)
        model.unilora.theta.mul_(2)
        part = model.bert(IDS).pooler_output
        run(model)
        assert torch.equal(part, model.bert(IDS).pooler_output)
    model.bert(IDS).pooler_output.sum().backward()
    assert model.unilora.theta.grad.abs().max() > 0
    model.bert(IDS).pooler_output.sum().backward()  # the same factors serve a second backward


# Rows of a product have a short form in test_compiled.py.
@pytest.mark.parametrize(
    "make, targets",
    [
        (bert, ("query", "value")),
        pytest.param(gpt2, ("c_attn[0:32]", "mlp.c_fc"), marks=pytest.mark.thorough),
    ],
)
@pytest.mark.slow
def test_compiled_without_graph_breaks(make, targets):
    model = attach(make(), d=60, targets=targets, bound=2.0)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    for _ in range(2):
        run(model).sum().backward()
        logits = compiled(IDS).logits
        logits.sum().backward()
        assert_same(logits, run(model))
        assert_same(compiled.unilora.theta.grad, model.unilora.theta.grad)
        with torch.no_grad():  # a changed θ must be seen by the compiled model
            for one in (model, compiled):
                one.unilora.theta.mul_(3)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch's default compiler writes C++, and there is no g++ here")
@pytest.mark.thorough
def test_compiled_by_the_default_compiler():
    model = attach(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 6)), d=20, targets=["0", "2"], bound=2.0)
    x = torch.randn(4, 8)
    assert_same(torch.compile(model, fullgraph=True)(x), model(x))


@pytest.mark.parametrize("rank", [4, 0])
def test_autocast_and_half_precision(rank):
    model = attach(bert(), rank, d=60, bound=2.0)
    expected = run(model)
    with torch.autocast("cpu", torch.bfloat16):
        logits = run(model)
    logits.float().sum().backward()
    assert model.unilora.theta.grad.dtype == torch.float32
    # bfloat16 keeps 8 bits: 2⁻⁹ relative a rounding, some ten roundings deep
    assert_same(logits.float(), expected, 2e-2)
    half = attach(bert().bfloat16(), rank, d=60, bound=2.0)
    assert half.unilora.theta.dtype == torch.float32
    assert_same(run(half).float(), expected, 2e-2)


def test_evaluation_deepcopy_and_inference_mode():
    model = attach(bert(), d=60, bound=2.0)
    expected = run(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        assert torch.equal(run(model), expected)
        twin.unilora.theta.mul_(2)
        assert not torch.equal(run(twin), expected)
        assert torch.equal(run(model), expected), "a copy has a θ of its own"
    with torch.inference_mode():
        assert torch.equal(run(model), expected)
    run(model).sum().backward()
    twin.detach()
    assert torch.equal(run(twin), run(bert()))
    assert hasattr(model, "unilora")


def trainer(model, folder, held_out=None, **options):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=4, save_steps=2, per_device_train_batch_size=4, report_to=[],
        disable_tqdm=True, logging_steps=100, use_cpu=True, **options,
    )  # fmt: skip
    data = [{"input_ids": IDS[i % 3], "labels": i % 2} for i in range(16)]
    return transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=held_out)


def test_trainer_checkpoints_hold_what_is_trained(tmp_path):
    from safetensors import safe_open

    model = attach(bert(), d=60, train_in_full=["classifier"])
    trainer(model, tmp_path / "whole").train()
    with safe_open(tmp_path / "whole/checkpoint-2/model.safetensors", "np") as file:
        assert sorted(file.keys()) == ["classifier.bias", "classifier.weight", "unilora_record", "unilora_theta"]
    assert (tmp_path / "whole/checkpoint-2/optimizer.pt").exists()
    resumed = attach(bert(), d=60, train_in_full=["classifier"])
    with torch.no_grad():
        resumed.unilora.theta.zero_()
    trainer(resumed, tmp_path / "resumed").train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-2"))
    assert torch.equal(resumed.unilora.theta, model.unilora.theta)
    assert torch.equal(resumed.classifier.weight, model.classifier.weight)
