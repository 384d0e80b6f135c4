"""backends.torch: one vector on any model, in every way that a model is run."""

import copy
import shutil
import warnings

import numpy as np
import pytest
import torch
from strategies import projection as projection_of
from torch import nn
from torch.func import functional_call

import unilora_spec
from backends.torch import Expand, attach, load_adapter, plan
from backends.torch.adapter.sites.delta_weight import DeltaWeight
from unilora_spec import (
    Adapter,
    BaseMismatch,
    FileError,
    LayerMap,
    LayerMapError,
    LimitError,
    Projection,
    Segment,
    UniLoraError,
    save_adapter,
)

transformers = pytest.importorskip("transformers")

IDS = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(0))


def assert_same(actual, expected, relative=1e-5):
    """Equal but for rounding. Both ways to one result (x·W'ᵀ with W' = W + ΔW, or x·Wᵀ + s·(x·Aᵀ)·Bᵀ) make a few roundings
    of 2⁻²⁴ for each of some hundred additions, relative to the largest terms: 1e-5 of the largest value in float32."""
    largest = expected.abs().max().item()
    torch.testing.assert_close(actual, expected, atol=relative * largest, rtol=0)


def bert(**options):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=50, **options
    )
    return transformers.BertForSequenceClassification(config).eval()


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2, n_embd=32, n_head=2, vocab_size=50, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval()


def mixtral(implementation="eager"):
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, intermediate_size=48,
        vocab_size=50, num_local_experts=4, experts_implementation=implementation,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config).eval()


def gpt_oss():
    torch.manual_seed(0)
    config = transformers.GptOssConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=16,
        intermediate_size=48, vocab_size=50, num_local_experts=4,
    )  # fmt: skip
    return transformers.GptOssForCausalLM(config).eval()


def convolutions(groups=1):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(),
        nn.Conv2d(8, 6, (1, 3), stride=2, dilation=(1, 2), groups=groups),
    ).eval()


def encoder():
    torch.manual_seed(0)
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2).eval()


def table(kind=nn.Embedding):
    torch.manual_seed(0)
    return nn.Sequential(kind(50, 16, padding_idx=3), nn.Linear(16, 5)).eval()


class Scaled(nn.Embedding):
    def forward(self, ids):
        return super().forward(ids) * 3


def inputs(model):
    if isinstance(model, transformers.PreTrainedModel) or any(isinstance(m, nn.Embedding) for m in model.children()):
        return (IDS,)
    shape = (2, 4, 9, 9) if isinstance(model, nn.Sequential) else (2, 5, 16)
    return (torch.randn(shape, generator=torch.Generator().manual_seed(3)),)


def run(model):
    output = model(*inputs(model))
    return getattr(output, "logits", output)


FORMS = {
    "linear": (bert, ("query", "attention.self.value")),
    "regular expression": (bert, (r".*layer\.1\..*(key|dense)", r".*pooler\.dense")),
    "row range": (bert, ("query[4:20]", "query[24:32]", "pooler.dense")),
    "transposed": (gpt2, ("mlp.c_fc",)),
    "fused, transposed": (gpt2, ("c_attn[0:32]", "c_attn[64:96]")),
    "stacked": (mixtral, ("experts.gate_up_proj", "experts.down_proj", "q_proj")),
    "stacked, grouped matmul": (lambda: mixtral("grouped_mm"), ("experts.gate_up_proj", "experts.down_proj")),
    "stacked, row range": (mixtral, ("experts.gate_up_proj[0:48]",)),
    "stacked, transposed": (gpt_oss, ("experts.gate_up_proj", "experts.down_proj[3:9]")),
    "convolution": (convolutions, ("0", "2")),
    "convolution, row range": (convolutions, ("0[2:5]",)),
    "grouped convolution": (lambda: convolutions(2), ("0", "2")),
    "table": (table, ("0",)),
    "table, row range": (table, ("0[2:9]", "0[20:45]", "1")),
    "table of its own forward": (lambda: table(Scaled), ("0",)),
    "fast path of torch's encoder": (encoder, ("linear1", "linear2")),
}


@pytest.fixture(params=[(form, rank) for rank in (3, 0) for form in FORMS], ids=lambda p: f"{p[0]}, rank {p[1]}")
def adapted(request):
    """(base, the same model with an adapter whose effect is large)."""
    form, rank = request.param
    make, targets = FORMS[form]
    base = make()
    bound = 4.0 if rank else 0.5  # an entry of ΔW is a product of two small numbers, or one
    return base, attach(copy.deepcopy(base), rank=rank, d=40, seed=5, targets=targets, alpha=6, bound=bound)


def adapted_weights(model, theta):
    """W + ΔW of every adapted weight, straight from the formulas of the specification, differentiable to theta."""
    unilora = model.unilora
    P = torch.from_numpy(dense(unilora.projection))
    theta_D = P @ theta
    weights = {}
    for segment, start in unilora.layer_map.placed():
        s = float(unilora.layer_map.factor_scale(segment))
        if segment.rank:
            A = theta_D[start : start + segment.rank * segment.in_features].reshape(segment.rank, segment.in_features)
            B = theta_D[start + A.numel() : start + segment.size].reshape(segment.out_features, segment.rank)
            delta = s * B @ A
        else:
            shape = segment.out_features, segment.in_features
            delta = s * theta_D[start : start + segment.out_features * segment.in_features].reshape(shape)
        weight = weights.get(segment.name, model.get_parameter(segment.name).detach())
        whole = torch.zeros_like(weight) if segment.index is None else torch.zeros_like(weight[0])
        delta = delta.T if segment.transposed else delta
        rows = slice(segment.row, None if segment.row is None else segment.row + segment.out_features)
        if segment.transposed:
            whole[:, rows] = delta
        else:
            whole[rows] = delta.reshape(whole[rows].shape)
        if segment.index is not None:
            whole = torch.stack([whole if e == segment.index else torch.zeros_like(whole) for e in range(len(weight))])
        weights[segment.name] = weight + whole
    return weights


def dense(projection):
    P = np.zeros((projection.D, projection.d), np.float32)
    P[np.arange(projection.D), projection.index()] = projection.scale()[projection.index()]
    return P


def test_an_adapter_acts_as_the_formula_says(adapted):
    base, model = adapted
    theta = model.unilora.theta.detach().clone().requires_grad_()
    expected = functional_call(copy.deepcopy(base), adapted_weights(model, theta), inputs(base))
    expected = getattr(expected, "logits", expected)
    output = run(model)
    assert (run(base) - output).abs().max() > 1e-3, "the adapter must have an effect for this test to mean something"
    assert_same(output, expected)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    output.backward(direction)
    expected.backward(direction)
    assert_same(model.unilora.theta.grad, theta.grad)


def test_one_expert_alone_is_adapted():
    base = mixtral()
    every = plan(base, "experts.down_proj", 3, alpha=6)
    model = attach(copy.deepcopy(base), d=40, seed=5, targets=LayerMap(every.segments[1:2], 6), bound=4.0)
    weights = adapted_weights(model, model.unilora.theta.detach())
    assert_same(run(model), functional_call(base, weights, IDS).logits)


def test_a_weight_that_a_call_reads_twice_is_made_once(monkeypatch):
    class Twice(nn.Linear):
        def forward(self, x):
            return x @ self.weight.T @ self.weight

    made, own = [], DeltaWeight._adapted
    monkeypatch.setattr(DeltaWeight, "_adapted", lambda *given: made.append(1) or own(*given))
    model = attach(nn.Sequential(Twice(4, 4)), rank=2, d=9, targets=["0"])
    model(torch.ones(3, 4))
    assert len(made) == 1


def test_each_row_of_a_table_has_its_own_delta():
    base, ids = table(), torch.arange(50)
    model = attach(copy.deepcopy(base), rank=3, d=40, targets=["0[2:9]", "0[20:45]"], bound=4.0)
    weights = adapted_weights(model, model.unilora.theta.detach())
    assert_same(model(ids), functional_call(base, weights, ids))
    changed = (weights["0.weight"] != base[0].weight).any(1)
    assert changed.nonzero()[:, 0].tolist() == [*range(2, 9), *range(20, 45)]


def test_detach_gives_the_base_back(adapted):
    base, model = adapted
    flags = {name: p.requires_grad for name, p in base.named_parameters()}
    assert model.detach() is model
    assert torch.equal(run(model), run(base))
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert list(model.state_dict()) == list(base.state_dict())
    assert vars(model).keys() == vars(base).keys()


def test_merge_is_the_adapter_made_permanent(adapted):
    base, model = adapted
    with torch.no_grad():
        output = run(model)
    weights = {name: p.detach().numpy().copy() for name, p in base.named_parameters()}
    model.unilora.adapter().merge(weights)
    model.merge()
    assert_same(run(model), output)
    for name, parameter in model.named_parameters():  # and it is what the specification's own merge gives
        np.testing.assert_allclose(parameter.detach().numpy(), weights[name], rtol=1e-6, atol=1e-6)
    assert list(model.state_dict()) == list(base.state_dict())


@pytest.mark.parametrize(
    "kind,d", [("balanced", 50), ("balanced", 300), ("uniform", 50), ("identity", 300), ("table", 50)]
)
def test_the_expansion_is_the_specifications_to_the_bit(kind, d):
    projection = projection_of(kind, D=300, d=d, seed=9)
    theta = np.random.default_rng(0).standard_normal(d).astype(np.float32)
    index = torch.from_numpy(projection.index().astype(np.int32))
    scale = torch.from_numpy(projection.scale())
    parameter = torch.from_numpy(theta).requires_grad_()
    theta_D = Expand.apply(parameter, index, torch.float32, scale)
    assert theta_D.detach().numpy().tobytes() == projection.expand(theta).tobytes()
    g = torch.randn(300, generator=torch.Generator().manual_seed(1))
    theta_D.backward(g)
    P = dense(projection).astype(np.float64)
    # n additions and a product in float32: an error of at most (n + 1)·2⁻²⁴ of the sum of magnitudes.
    bound = (np.count_nonzero(P, axis=0).max() + 1) * 2.0**-24 * (abs(P).T @ abs(g.numpy().astype(np.float64)))
    assert (abs(parameter.grad.numpy() - P.T @ g.numpy().astype(np.float64)) <= bound).all()
    np.testing.assert_allclose(parameter.grad.numpy(), projection.adjoint(g.numpy()), atol=bound.max())


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


@pytest.mark.parametrize("make,targets", [(bert, ("query", "value")), (gpt2, ("c_attn[0:32]", "mlp.c_fc"))])
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


def test_weights_that_a_hook_would_miss_are_refused():
    with pytest.raises(LayerMapError, match="tied"):
        plan(gpt2(), "lm_head", 2)
    with pytest.raises(LayerMapError, match="already"):
        attach(attach(bert(), d=60), d=60)
    with pytest.raises(LayerMapError, match="no Linear"):
        plan(nn.ReLU(), "x", 2)


def test_a_stacked_weight_is_adapted_in_the_direction_of_its_product():
    """gpt-oss stores its experts (experts, in, out), Mixtral (experts, out, in); each module says which."""
    for model, transposed in ((gpt_oss(), True), (mixtral(), False)):
        first = plan(model, "experts.gate_up_proj", 2).segments[0]
        assert (first.out_features, first.in_features, first.transposed, first.index) == (96, 32, transposed, 0)


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


@pytest.mark.parametrize("targets", [["0"], ["0[1:4]"]], ids=["whole", "rows"])
def test_the_bias_and_the_input_have_gradients_without_that_of_theta(targets):
    """A bias is trained in full beside its weight, and what lies before a layer is trained though θ is frozen."""
    torch.manual_seed(0)
    base, x, alone = nn.Sequential(nn.Linear(8, 6)), torch.randn(40, 8), torch.randn(40, 8)
    model = attach(copy.deepcopy(base), 2, d=20, targets=targets, train_in_full=["0.bias"], alpha=5, bound=2.0)
    theta = model.unilora.theta.detach().clone().requires_grad_()
    model(x).square().sum().backward()
    functional_call(base, adapted_weights(model, theta), x).square().sum().backward()
    assert_same(model.unilora.theta.grad, theta.grad)
    model.unilora.theta.requires_grad_(False)
    # The factors of another θ are made without a gradient; those of this one have had one.
    for frozen, given, scale in ((False, x, 1), (False, x, 2), (False, alone.requires_grad_(), 1), (True, alone, 1)):
        weights = adapted_weights(model, model.unilora.theta.mul_(scale))
        model[0].bias.requires_grad_(not frozen)
        expected = functional_call(base, weights, given)
        assert_same(model(given), expected)
        wanted = [each for each in (model[0].bias, given) if each.requires_grad]
        mine = [base[0].bias if each is model[0].bias else each for each in wanted]
        for ours, theirs in zip(
            torch.autograd.grad(model(given).square().sum(), wanted),
            torch.autograd.grad(expected.square().sum(), mine),
            strict=True,
        ):
            assert_same(ours, theirs)


class Reader(nn.Module):
    """Multiplies by the weight of a layer that it does not call, twice."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Linear(8, 8, bias=False), nn.Linear(8, 6)

    def forward(self, x):
        weight = self.layer.weight
        return self.last(x @ weight.T @ weight)


def test_a_weight_that_is_read_without_a_call_of_its_module():
    torch.manual_seed(0)
    base, x = Reader(), torch.randn(20, 8)
    model = attach(copy.deepcopy(base), 2, d=20, targets=["layer", "last"], bound=2.0)
    theta = model.unilora.theta.detach().clone().requires_grad_()
    expected = functional_call(base, adapted_weights(model, theta), x)
    assert_same(model(x), expected)
    model(x).square().sum().backward()
    expected.square().sum().backward()
    assert_same(model.unilora.theta.grad, theta.grad)
    assert torch.equal(model.layer.weight, base.layer.weight), "between two calls it is the base's"
    with model.unilora.disabled():
        assert torch.equal(model(x), base(x))


def test_what_is_read_in_half_precision_is_rounded_once():
    """ΔW is a product in float32 of A and B as they are held, and W is zero here."""
    torch.manual_seed(0)
    model, seen = nn.Sequential(nn.Conv1d(8, 6, 3, groups=2), nn.Flatten(), nn.Linear(6, 4)).bfloat16(), []
    nn.init.zeros_(model[0].weight)
    attach(model, 3, d=40, targets=["0", "2"], alpha=5, bound=2.0)
    model[0].register_forward_pre_hook(lambda module, inputs: seen.append(module.weight.detach()))
    model(torch.ones(1, 8, 3, dtype=torch.bfloat16))
    (segment, (A, B)) = model.unilora.layer_map.segments[0], model.unilora.factors()[0]
    delta = float(model.unilora.layer_map.factor_scale(segment)) * (B.float() @ A.float())
    assert torch.equal(seen[0], delta.reshape(6, 4, 3).bfloat16())
