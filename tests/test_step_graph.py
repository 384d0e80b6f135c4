"""The graph of a step: loss, logits and gradients as PyTorch has them, for every task and kind, and what is refused."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
transformers = pytest.importorskip("transformers")

import onnx_ir as ir
import small_models
import torch
from adapters import OPTIONS, adapter_of
from exports import command, session_of  # noqa: F401  one is a fixture
from torch import nn

import export.torch_base.step.export as step_export
from backends.torch import load_adapter as put_on
from export import export_onnx, export_onnx_file
from export.check import check_with_file, check_with_torch
from export.graph import rebuild
from export.onnx import metadata
from export.torch_base.inputs import real_inputs
from unilora_spec import Adapter, LayerMap, Projection, Segment, UniLoraError, WorkFailed, load_adapter, save_adapter
from unilora_spec.projection import KINDS

HEAD = ("classifier.weight", "classifier.bias")
# Float32 sums in other orders, as a part of an output's largest entry: seen are 3e-6. A lost term or a wrong scale moves it by 1e-2.
CLOSE = 1e-4


def classes():
    return small_models.bert(num_labels=3)


def number():
    return small_models.bert(num_labels=1)


def gpt2():
    """Parts of the rows of one weight, stored (in, out), whose embedding gives the logits as well."""
    model, segments = small_models.gpt2()
    return model, segments[:2]


BASES = {
    "classification": (classes, HEAD),
    "regression": (number, HEAD),
    "token-classification": (small_models.tokens, HEAD),
    "causal-lm": (gpt2, ("transformer.ln_f.weight", "transformer.ln_f.bias")),
}


@pytest.fixture(scope="module", autouse=True)
def traced_once():
    """Of one model and layer map the trace is the same, whatever the kind and however the weights are stored."""
    traced, translated, found = step_export.traced, step_export.translated, {}

    def remembered(model, batch, labels, dynamic, layer_map, saved, names):
        key = (model.model, layer_map, tuple(saved), model.loss)
        if key not in found:
            joint = traced(model, batch, labels, dynamic, layer_map, saved, names)
            graph = translated(joint, {**batch, "labels": labels}, dynamic, 18)
            found[key] = joint, onnx.ModelProto.FromString(ir.to_proto(graph).SerializeToString())
        joint, proto = found[key]
        joint.proto = proto
        return joint

    step_export.traced = remembered
    step_export.translated = lambda joint, *_: ir.from_proto(joint.proto)
    yield
    step_export.traced, step_export.translated = traced, translated


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(model, adapter, file, report) of a task's small model, made once."""
    found = {}

    def get(task, weights="float32", kind=None):
        if (task, weights, kind) not in found:
            key = next((key for key in found if key[0] == task), None)
            build, saved = BASES[task]
            model, segments = (found[key][0], None) if key else small_models.built(build)
            adapter = found[key][1] if key else adapter_of(model, segments, "base", saved=saved)
            if kind:
                adapter = of_kind(kind, adapter, model)
            path = tmp_path_factory.mktemp("step") / "step.onnx"
            first, *more = real_inputs(model)
            report = export_onnx(model, adapter, first, path, "step", more_inputs=more, weights=weights)
            found[task, weights, kind] = model, adapter, path, report
        return found[task, weights, kind]

    return get


def of_kind(kind, adapter, model):
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    layer_map = KINDS[kind].fitted(adapter.layer_map, **KINDS[kind].with_defaults(OPTIONS.get(kind, {})))
    if kind == "table":
        index = np.random.default_rng(1).integers(0, 20, layer_map.D)
        projection = Projection(kind, D=layer_map.D, d=20, seed=7, tensors={"index": index})
    else:
        d = 60 if KINDS[kind].d_is_free else None
        p = Projection.of(layer_map, kind, d, 7, weights.get, **OPTIONS.get(kind, {}))
        projection, _ = p.stored_as(p.initial(layer_map))
    theta = np.random.default_rng(0).normal(size=projection.d).astype(np.float32) / 4
    return replace(adapter, projection=projection, layer_map=layer_map, theta=theta)


def batch_of(model, task, rows, columns):
    """Other sizes than those that are traced, with padding and with labels that are not learned."""
    random = np.random.default_rng(rows + columns)
    ids, mask = random.integers(1, 50, (rows, columns)), np.ones((rows, columns), np.int64)
    if rows > 1:
        mask[1, columns // 2 :] = 0
    labels = {
        "classification": random.integers(0, 3, rows),
        "regression": random.normal(size=rows).astype(np.float32),
        "token-classification": random.integers(0, 3, (rows, columns)),
        "causal-lm": ids.copy(),
    }[task]
    if task not in ("classification", "regression"):
        labels[(mask == 0) | (random.random(mask.shape) < 0.4)] = -100
        labels[0, -1] = 1  # at least one is learned
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def said_by_torch(build, path, batch):
    """The torch backend's loss, logits and gradients with the adapter in the file at ``path`` on a fresh model."""
    model = put_on(small_models.built(build)[0], path).eval()
    outputs = model(**{name: torch.from_numpy(value) for name, value in batch.items()})
    outputs.loss.backward()
    trained = {name: p.grad.numpy() for name, p in model.named_parameters() if p.requires_grad}
    trained["theta"] = trained.pop("unilora_theta")
    arrays = {"loss": outputs.loss.detach().numpy(), "logits": outputs.logits.detach().numpy()}
    return arrays | {f"{name}.grad": gradient for name, gradient in trained.items()}


def fed(adapter, batch, session):
    everything = {**batch, "theta": adapter.theta, **adapter.saved}
    assert {each.name for each in session.get_inputs()} <= everything.keys()
    return {each.name: everything[each.name] for each in session.get_inputs()}


def agree(got, wanted):
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert got[name].shape == value.shape and np.abs(value).max() > 1e-4, name
        assert np.abs(got[name] - value).max() <= CLOSE * np.abs(value).max(), name


# Of words, its loss is that of a language model, which leaves out what has no label too, with the head of classification.
MARKED = {task: pytest.param(task, marks=pytest.mark.thorough) for task in ("token-classification", "regression")}


@pytest.mark.filterwarnings("ignore:.*other than on record")
@pytest.mark.parametrize("task", [MARKED.get(task, task) for task in BASES])
def test_loss_logits_and_gradients_are_pytorchs(made, task):
    model, adapter, path, report = made(task)
    assert report["comparison"]["within"] and report["mode"] == "step"
    session = session_of(path)
    names = [each.name for each in session.get_outputs()]
    assert names == ["loss", "logits", "theta.grad", *(f"{name}.grad" for name in adapter.saved)]
    for rows, columns in ((4, 11), (1, 6), (2, 2)):
        batch = batch_of(model, task, rows, columns)
        got = dict(zip(names, session.run(None, fed(adapter, batch, session))))
        agree(got, said_by_torch(BASES[task][0], path.with_suffix(".safetensors"), batch))


def test_what_the_file_says_and_holds(made):
    """Inputs are required, the adapter lies beside byte for byte, the operators are the standard's, and each weight is there once."""
    model, adapter, path, report = made("classification")
    graph = onnx.load(path)
    inputs = ["input_ids", "attention_mask", "labels", "theta", *HEAD]
    assert [each.name for each in graph.graph.input] == inputs and report["defaults"] == []
    assert report["inputs"]["input_ids"] == ["batch", "sequence"] and report["inputs"]["labels"] == ["batch"]
    said = {each.key: each.value for each in graph.metadata_props}
    assert said == metadata([adapter], "step") | {"unilora.task": "classification", "unilora.weights": "float32"}
    assert load_adapter(path.with_suffix(".safetensors")).theta.tobytes() == adapter.theta.tobytes()
    assert {each.domain for each in graph.opset_import} == {"", "unilora"}
    functions = {each.name for each in graph.functions}
    assert {"ExpandInput", "Adjoint", "GeluBackward", "SoftmaxBackward", "LayerNormBackward"} <= functions
    assert {node.op_type for node in graph.graph.node if node.domain} <= functions
    assert not {"ScatterND", "ScatterElements"} & {node.op_type for node in graph.graph.node} - {"ScatterElements"}
    held = {each.name: each for each in graph.graph.initializer}
    frozen = {name: value for name, value in model.named_parameters() if name not in HEAD}
    assert frozen.keys() <= held.keys()
    base = sum(value.nbytes for value in model.parameters())
    rest = sum(each.ByteSize() for name, each in held.items() if name not in frozen)
    assert (
        rest < 3000
    )  # shapes, and what the index is computed of: no second copy of a weight, the smallest of which has 4,096
    assert report["files"][str(path)] <= base + 4 * adapter.projection.d + 200_000


@pytest.mark.parametrize(("weights", "bytes_each"), [("float16", 2), ("int8", 1)])
def test_narrow_weights(made, weights, bytes_each):
    """The comparison of the export is with the weights so rounded; against those that are not rounded it is off by the rounding."""
    _, _, path, report = made("classification", weights)
    held = {each.name: each for each in onnx.load(path).graph.initializer}
    table = held["bert.embeddings.word_embeddings.weight"]
    assert len(table.raw_data) == 50 * 32 * 4  # a small one stays as it is
    assert report["comparison"]["within"]


def test_narrow_weights_of_a_larger_table(tmp_path):
    """Products, a lookup and a bias: what is large is stored once and narrow, also where it is used forward and back."""
    model, adapter, example = words()
    sizes = {}
    for weights in ("float32", "float16", "int8"):
        path = tmp_path / f"{weights}.onnx"
        report = export_onnx(model, adapter, example, path, "step", loss=half_squares, weights=weights)
        assert report["comparison"]["within"]
        held = {each.name: each for each in onnx.load(path).graph.initializer}
        sizes[weights] = {name: len(held[name].raw_data) for name in ("table.weight", "first.weight", "first.bias")}
        session = session_of(path)
        sizes[weights]["loss"] = float(
            session.run(["loss"], fed(adapter, {k: v.numpy() for k, v in example.items()}, session))[0]
        )
    assert sizes["float32"]["table.weight"] == 2 * sizes["float16"]["table.weight"] == 4 * sizes["int8"]["table.weight"]
    assert sizes["float32"]["first.weight"] == 4 * sizes["int8"]["first.weight"] == 4 * 64 * 64
    assert sizes["float32"]["first.bias"] == sizes["int8"]["first.bias"]
    # Rounded to 11 and to 8 bits: the loss is another one, by less than a few of these roundings.
    assert 0 < abs(sizes["float16"]["loss"] / sizes["float32"]["loss"] - 1) < 1e-3
    assert 1e-6 < abs(sizes["int8"]["loss"] / sizes["float32"]["loss"] - 1) < 1e-1


def words_example(rows=3, columns=5, seed=0):
    random = torch.Generator().manual_seed(seed)
    return {
        "ids": torch.randint(0, 300, (rows, columns), generator=random),
        "labels": torch.randn(rows, 64, generator=random),
    }


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.first, self.second = nn.Embedding(300, 64), nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, ids):
        hidden = torch.nn.functional.silu(self.first(self.table(ids)))
        return self.second(torch.nn.functional.layer_norm(hidden, (64,))).mean(1)


def half_squares(outputs, labels):
    return 0.5 * ((outputs - labels) ** 2).mean()


def words_adapter(model, d=40):
    """Of a table that is looked up, a product, and a part of the rows of another product."""
    segments = [
        Segment("table.weight", 300, 64, 2),
        Segment("first.weight", 64, 64, 3),
        Segment("second.weight", 16, 64, 2, row=32),
    ]
    layer_map = LayerMap(segments, alpha=6)
    theta = np.random.default_rng(0).normal(size=d).astype(np.float32)
    saved = {"second.bias": model.second.bias.detach().numpy().copy()}
    return Adapter(Projection(D=layer_map.D, d=d, seed=3), layer_map, theta, saved=saved)


@functools.cache
def words():
    """One for two tests, as its trace is remembered by the model."""
    model = Words().eval()
    return model, words_adapter(model), words_example()


def test_a_module_with_a_loss_of_its_own(tmp_path):
    (model, adapter, example), path = words(), tmp_path / "step.onnx"
    export_onnx(model, adapter, example, path, "step", loss=half_squares)
    session = session_of(path)
    names = [each.name for each in session.get_outputs()]
    assert [each.name for each in session.get_inputs()] == ["ids", "labels", "theta", "second.bias"]
    batch = words_example(2, 9, seed=1)
    got = dict(zip(names, session.run(None, fed(adapter, {k: v.numpy() for k, v in batch.items()}, session))))
    mine = put_on(Words().eval(), path.with_suffix(".safetensors"))
    outputs = mine(batch["ids"])
    loss = half_squares(outputs, batch["labels"])
    loss.backward()
    agree(got, {
        "loss": loss.detach().numpy(), "logits": outputs.detach().numpy(), "theta.grad": mine.unilora.theta.grad.numpy(),
        "second.bias.grad": mine.second.bias.grad.numpy(),
    })  # fmt: skip
    with pytest.raises(UniLoraError, match="give it to export_onnx|from Python, which the file does not hold"):
        check_with_torch(path, [adapter], None, None, lambda step: None)


TRAINED = sorted(kind for kind in KINDS if KINDS[kind].trained_as() is KINDS[kind] and kind != "chain")


@pytest.mark.parametrize("kind", TRAINED)
def test_every_kind_that_is_trained_by_gradients(made, kind):
    """θ's gradient by the torch backend, and by the specification, which the export compares with."""
    model, adapter, path, report = made("classification", kind=kind)
    assert report["comparison"]["within"] and report["comparison"]["outputs"]["theta.grad"]["size"] > 1e-3
    batch = batch_of(model, "classification", 4, 7)
    session = session_of(path)
    got = dict(zip([each.name for each in session.get_outputs()], session.run(None, fed(adapter, batch, session))))
    agree(got, said_by_torch(classes, path.with_suffix(".safetensors"), batch))


@pytest.mark.parametrize(
    ("kind", "words"), [("vb", "trains more numbers than its file holds"), ("chain", "links one after the other")]
)
def test_kinds_that_are_not(made, tmp_path, kind, words):
    model, adapter, _, _ = made("classification")
    with pytest.raises(UniLoraError, match=f"the kind {kind} .*{words}.*; train it with backends.torch"):
        export_onnx(model, of_kind(kind, adapter, model), real_inputs(model)[0], tmp_path / "step.onnx", "step")
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_a_mean_of_classes(tmp_path):
    """Its backward pass divides by the number of rows, which torch's exporter gives no output for."""
    model, example = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval(), torch.randn(4, 6)
    layer_map = LayerMap([Segment("0.weight", 5, 6, 2)], alpha=2)
    adapter = Adapter(Projection(D=layer_map.D, d=7, seed=0), layer_map, np.linspace(-1, 1, 7).astype(np.float32))
    batch = {"input": example, "labels": torch.tensor([0, 2, 1, 1])}
    report = export_onnx(model, adapter, batch, tmp_path / "step.onnx", "step", loss=nn.functional.cross_entropy)
    assert report["comparison"]["within"] and report["comparison"]["outputs"]["theta.grad"]["size"] > 1e-3


def test_entries_of_rank_0(tmp_path):
    """W + ΔW with ΔW's own entries in θ_D, beside a table whose pair acts by itself: the gradient is W's."""
    model, example = Words().eval(), words_example()
    pair = words_adapter(model)
    layer_map = LayerMap([Segment("table.weight", 300, 64, 2), Segment("first.weight", 64, 64, 0)], alpha=2)
    adapter = replace(
        pair, layer_map=layer_map, projection=Projection(D=layer_map.D, d=40, seed=1), theta=pair.theta / 8
    )
    report = export_onnx(model, adapter, example, tmp_path / "step.onnx", "step", loss=half_squares)
    assert report["comparison"]["within"] and report["comparison"]["outputs"]["theta.grad"]["size"] > 1e-3


def test_a_file_that_disagrees_is_not_left_behind(made, tmp_path, monkeypatch):
    model, adapter, _, _ = made("classification")
    adjoint = rebuild.Expansion.adjoint
    without_scale = lambda self, tape, g: adjoint(
        self._replace(scale=tape.constant("ones", np.ones(64, np.float32))), tape, g
    )
    monkeypatch.setattr(rebuild.Expansion, "adjoint", without_scale)
    with pytest.raises(WorkFailed, match="theta.grad disagree"):
        export_onnx(model, adapter, real_inputs(model)[0], tmp_path / "step.onnx", "step")
    assert not list(tmp_path.iterdir())


def test_check_compares_again(made, tmp_path):
    """The file with its adapter agrees, with another it is refused, and where its weights are others it does not agree."""
    model, adapter, path, _ = made("classification")
    base = tmp_path / "base"
    model.save_pretrained(base)
    report = check_with_torch(path, [adapter], str(base), None, lambda step: None)
    assert report["comparison"]["within"] and set(report["comparison"]["outputs"]) >= {"loss", "theta.grad"}
    with pytest.raises(UniLoraError, match="another adapter's"):
        check_with_torch(path, [replace(adapter, theta=adapter.theta + 1)], str(base), None, lambda step: None)
    with pytest.raises(UniLoraError, match="give --base the model's folder"):
        check_with_file(path, [adapter], path, None, {}, lambda step: None)
    graph = onnx.load(path)
    weight = next(each for each in graph.graph.initializer if each.name.endswith("key.weight"))
    weight.raw_data = (2 * np.frombuffer(weight.raw_data, np.float32)).tobytes()
    onnx.save(graph, tmp_path / "other.onnx")
    assert not check_with_torch(tmp_path / "other.onnx", [adapter], str(base), None, lambda step: None)["comparison"][
        "within"
    ]


def test_refusals(made, tmp_path):
    model, adapter, path, _ = made("classification")
    first, to = real_inputs(model)[0], tmp_path / "step.onnx"
    alone, segments = small_models.built(small_models.bert_alone)
    several = small_models.built(lambda: small_models.bert(num_labels=2, problem_type="multi_label_classification"))[0]
    for words, call in {
        "BertModel has no head": lambda: export_onnx(alone, adapter_of(alone, segments, "base"), first, to, "step"),
        "T5ForConditionalGeneration has no head": lambda: of_small(small_models.t5, to),
        "2 outputs for each row": lambda: export_onnx(
            several, adapter_of(several, small_models.bert()[1], "base"), first, to, "step"
        ),
        "weights is 'int4'": lambda: export_onnx(model, adapter, first, to, "step", weights="int4"),
        "are of the mode step": lambda: export_onnx(model, adapter, first, to, weights="int8"),
        "--with-past is for a decoder": lambda: export_onnx(model, adapter, first, to, "step", with_past=True),
        "has no labels": lambda: export_onnx(model, adapter, first, to, "step", loss=half_squares),
        "has no backward pass": lambda: export_onnx_file(path, adapter, to, "step"),
        "takes one": lambda: export_onnx(model, [adapter, adapter], first, to, "step"),
        "is not float32": lambda: export_onnx(small_models.built(classes)[0].half(), adapter, first, to, "step"),
    }.items():
        with pytest.raises(UniLoraError, match=words):
            call()
    assert not list(tmp_path.iterdir())


def of_small(build, to):
    model, segments = small_models.built(build)
    return export_onnx(model, adapter_of(model, segments, "base"), real_inputs(model)[0], to, "step")


def test_the_command(command, tmp_path, monkeypatch):
    """As it is typed, on a base in its folder, which has a head and no layers: a trace takes as long as a model has operations."""
    config = transformers.BertConfig(
        **small_models.SIZES | {"num_hidden_layers": 0}, max_position_embeddings=32, num_labels=3
    )
    model = transformers.BertForSequenceClassification(config)
    adapter = adapter_of(model, [Segment("bert.pooler.dense.weight", 32, 32, 4)], "base", saved=HEAD)
    model.save_pretrained(tmp_path / "base")
    save_adapter(adapter, tmp_path / "start.safetensors")
    monkeypatch.chdir(tmp_path)
    words = ["--adapter", "start.safetensors", "--base", "base", "-o", "step.onnx", "--json"]
    status, output, errors = command("onnx", "--mode", "step", *words)
    assert status == 0, errors
    assert "theta.grad" in json.loads(output)["comparison"]["outputs"]
    assert (tmp_path / "step.safetensors").read_bytes() == (tmp_path / "start.safetensors").read_bytes()
    status, _, errors = command("onnx", "--mode", "input", *words, "--weights", "int8")
    assert status == 2 and "--weights is for --mode step" in errors
