"""export: one ONNX file that says what the model and its adapter say, in both modes."""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from unilora_spec import (
    Base,
    BaseMismatch,
    Segment,
    UniLoraError,
    structure_fingerprint,
)

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
transformers = pytest.importorskip("transformers")
from tiny_models import ROOT, Convolutions, export_to, make_adapter, tiny

from export import export_onnx
from export.graph import rebuild
from export.graph.functions import FUNCTIONS
from export.torch_base.base import load_base
from export.torch_base.inputs import real_inputs

# Models and adapters


def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=32, num_labels=3, initializer_range=0.2,
    )  # fmt: skip
    segments = [Segment(f"bert.encoder.layer.0.attention.self.{n}.weight", 32, 32, 4) for n in ("query", "value")]
    return transformers.BertForSequenceClassification(config), segments


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=1, n_embd=32, n_head=4, vocab_size=50, n_positions=32)
    fused = "transformer.h.0.attn.c_attn.weight"  # q, k, v side by side, stored (in, out); q and v are adapted
    segments = [Segment(fused, 32, 32, 4, transposed=True, row=row) for row in (64, 0)]
    segments.append(Segment("transformer.wte.weight", 50, 32, 2))  # tied to the output layer: gathered and multiplied
    segments.append(Segment("transformer.h.0.mlp.c_fc.weight", 128, 32, 3, transposed=True))
    return transformers.GPT2LMHeadModel(config), segments


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=32,
    )  # fmt: skip
    segments = [Segment(f"model.layers.0.self_attn.{n}_proj.weight", out, 32, 4) for n, out in (("q", 32), ("v", 16))]
    return transformers.LlamaForCausalLM(config), segments


def mixtral():
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=24, num_local_experts=4, max_position_embeddings=32,
    )  # fmt: skip
    experts = "model.layers.0.mlp.experts.gate_up_proj"  # one tensor (4, 48, 32)
    segments = [Segment(experts, 48, 32, 4, index=1), Segment(experts, 24, 32, 2, index=3, row=24)]
    segments[0] = Segment(experts, 24, 32, 4, index=1, row=0)
    return transformers.MixtralForCausalLM(config), segments


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Small transformers models exported, each once for all tests that look at it: (model, adapter, file, report)."""

    @functools.cache
    def get(build, mode):
        model, segments = build()
        adapter = make_adapter(segments, model=model, saved=["classifier.weight"] if build is bert else [])
        path = tmp_path_factory.mktemp(build.__name__) / f"{mode}.onnx"
        before = {name: value.clone() for name, value in model.state_dict().items()}
        model.train()
        report = export_to(path, model, adapter, mode)
        assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        return model, adapter, path, report

    return get


def largest(report, what="relative"):
    return max(row[what] for row in report["comparison"]["outputs"].values())


# Parity


@pytest.mark.parametrize(
    "mode, build",
    [pytest.param("merged", llama, marks=pytest.mark.thorough), ("reconstruct", llama), ("reconstruct", gpt2)],
    ids=lambda each: getattr(each, "__name__", each),
)  # test_modes.py has a BERT in each of them
def test_onnx_runtime_agrees_with_pytorch(exported, build, mode):
    model, _, path, report = exported(build, mode)
    # An export that ignored the adapter or a part of it would be off by what the adapter does: thousands of times this.
    assert largest(report) < 1e-5 and report["adapter_moves_outputs_by"] > 1e-2
    assert largest(report, "changed") == 0 < largest(report, "labels")
    assert list(report["outputs"]) == ["logits"] and report["inputs"]["input_ids"] == ["batch", "sequence"]
    assert report["bytes"] == path.stat().st_size and report["warnings"] == []
    assert getattr(model.config, "use_cache", True)  # as it was


@pytest.mark.parametrize("build", [mixtral, lambda: (Convolutions(), [])], ids=["experts", "convolutions"])
def test_stacked_weights_and_convolutions(tmp_path, build):
    model, segments = build()
    segments = segments or [Segment("first.weight", 8, 18, 2), Segment("second.weight", 6, 72, 3)]
    report = export_to(tmp_path / "m.onnx", model, make_adapter(segments))
    assert largest(report) < 1e-5 and report["adapter_moves_outputs_by"] > 1e-2


def test_convolutions_merge(tmp_path):
    adapter = make_adapter([Segment("first.weight", 8, 18, 2), Segment("second.weight", 6, 72, 3)])
    assert export_to(tmp_path / "m.onnx", Convolutions(), adapter, "merged")["nodes"] < 10


# The rebuild


def values_of(path, names, feeds):
    """Some inner values of a graph, as ONNX Runtime computes them."""
    model = onnx.load(path)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names), feeds)))


@pytest.mark.parametrize(
    "features, out, rank, options",
    [
        (8, 8, 4, {"d": 10}),  # D = 64 is a square: one pass
        (9, 8, 3, {"d": 10, "seed": 2**64 - 1}),  # D = 51: 13 of the 64 numbers of a pass are outside
        (1, 1, 1, {"d": 1}),  # D = 2, half of a pass is outside
        (300, 300, 60, {"d": 700}),  # D = 36,000, walking
        (2100, 2100, 64, {"d": 5760}),  # D = 268,800: above the limit, thus stored
        (9, 8, 3, {"d": 40, "kind": "uniform"}),  # some columns are empty
        (2100, 2100, 64, {"d": 5760, "kind": "uniform"}),
        (9, 8, 3, {"kind": "identity"}),
    ],
)
def test_factors_are_bit_identical(tmp_path, features, out, rank, options):
    model, adapter = tiny(features, out, rank, **options)
    report = export_to(tmp_path / "m.onnx", model, adapter)
    ((_, A, B),) = adapter.factors()
    got = values_of(tmp_path / "m.onnx", ["linear.weight.A", "linear.weight.B"], {"x": np.zeros((2, features), "f4")})
    assert np.array_equal(got["linear.weight.A"].view("u4"), A.view("u4"))
    assert np.array_equal(got["linear.weight.B"].view("u4"), B.view("u4"))
    stored = adapter.projection.kind != "identity" and adapter.projection.D > rebuild.LARGEST_COMPUTED
    assert report["index"].startswith("stored") == stored


def test_factors_of_parts_are_bit_identical(exported):
    _, adapter, path, _ = exported(gpt2, "reconstruct")
    wanted = {}
    for segment, A, B in adapter.factors():
        wanted |= {rebuild.factor_name(segment, "A"): A, rebuild.factor_name(segment, "B"): B}
    assert "transformer.h.0.attn.c_attn.weight.A.row64" in wanted
    ids = np.zeros((2, 3), np.int64)
    got = values_of(path, wanted, {"input_ids": ids, "attention_mask": ids + 1})
    assert all(np.array_equal(got[name].view("u4"), value.view("u4")) for name, value in wanted.items())


@pytest.mark.parametrize("kind, D, d", [("balanced", 49, 10), ("balanced", 83, 7), ("uniform", 50, 10)])
def test_the_reference_evaluator_gives_the_same_index(tmp_path, kind, D, d):
    """Another implementation of the operators: the functions mean what they say, not what one runtime makes of them."""
    model, adapter = tiny(D - 1, 1, 1, kind=kind, d=d)
    export_to(tmp_path / "m.onnx", model, adapter)
    graph = onnx.load(tmp_path / "m.onnx")
    graph.graph.output.append(onnx.ValueInfoProto(name="unilora.index"))
    evaluator = onnx.reference.ReferenceEvaluator(graph)
    (index,) = evaluator.run(["unilora.index"], {"x": np.zeros((2, D - 1), np.float32)})
    assert index.tolist() == adapter.projection.index().tolist()


def test_functions_are_built_of_standard_operators(tmp_path):
    model, adapter = tiny()
    export_to(tmp_path / "m.onnx", model, adapter)
    graph = onnx.load(tmp_path / "m.onnx")
    assert {f.domain for f in graph.functions} == {"unilora"}
    assert {f.name for f in graph.functions} <= set(FUNCTIONS)
    own = {f.name for f in graph.functions}
    for node in [node for f in graph.functions for node in f.node] + list(graph.graph.node):
        assert node.op_type in own if node.domain == "unilora" else onnx.defs.has(node.op_type, node.domain), node
    assert all(f.doc_string or f.node for f in graph.functions)
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    assert metadata["unilora.d"] == "20" and metadata["unilora.mode"] == "reconstruct"


def two_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 4, bias=False))
    return model, [Segment("0.weight", 16, 8, 2), Segment("3.weight", 4, 16, 2)]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:torch.onnx")  # torch's own, of its exporter
@pytest.mark.parametrize("build", [two_layers, pytest.param(llama, marks=pytest.mark.thorough)])
def test_merged_is_the_base_export_but_for_the_adapted_weights(tmp_path, build):
    model, segments = build()
    adapter = make_adapter(segments, model=model)
    plain = [{"input": torch.randn(2, 3, 8)}, {"input": torch.randn(3, 2, 8)}]
    inputs, *more = plain if build is two_layers else real_inputs(model)
    dynamic = {name: {0: "batch", 1: "sequence"} for name in inputs}
    export_onnx(model, adapter, inputs, tmp_path / "merged.onnx", "merged", dynamic=dynamic, more_inputs=more)
    if build is llama:
        model.config.use_cache = False
    torch.onnx.export(
        model.eval(), (), tmp_path / "base.onnx", kwargs=inputs, dynamic_shapes=dynamic,
        output_names=["logits" if build is llama else "output"], dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    base, merged = (onnx.load(tmp_path / f"{name}.onnx").graph for name in ("base", "merged"))
    for node in base.node:
        del node.metadata_props[:]
    assert [n.SerializeToString() for n in base.node] == [n.SerializeToString() for n in merged.node]
    one, other = ({t.name: onnx.numpy_helper.to_array(t) for t in g.initializer} for g in (base, merged))
    assert one.keys() == other.keys()
    changed = [name for name in one if one[name].tobytes() != other[name].tobytes()]
    weights = {n: p.detach().numpy() for n, p in model.named_parameters()}
    # The exporter folds the transpose into the weight.
    adapted = [weights[segment.name].T for segment in segments]
    assert len(changed) == len(adapted)
    assert all(any(np.array_equal(one[name], weight) for weight in adapted) for name in changed)


def test_reconstruct_leaves_the_base_weights_in_the_file(exported):
    model, adapter, path, _ = exported(llama, "reconstruct")
    initializers = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for segment in adapter.layer_map.segments:
        assert np.array_equal(initializers[segment.name], dict(model.named_parameters())[segment.name].detach().numpy())


def test_no_paths_of_this_machine(tmp_path):
    model, recorded = tiny()
    recorded.base = Base(str(tmp_path / "my-base"), structure_fingerprint({"linear.weight": (6, 8)}), "0" * 32)
    export_to(tmp_path / "m.onnx", model, recorded)
    data = (tmp_path / "m.onnx").read_bytes()
    assert b"my-base" in data
    for path in (tmp_path, ROOT, Path(sys.prefix), Path(torch.__file__).parent):
        assert str(path).encode() not in data


# Base models of transformers


def saved_bert(folder, **options):
    model, segments = bert()
    model.save_pretrained(folder)
    return make_adapter(segments, model=model, name=folder, **options)


def test_the_base_is_what_the_adapter_names(tmp_path):
    adapter = saved_bert(tmp_path, labels=("low", "middle", "high"))
    model, tokenizer, warnings = load_base(adapter)
    assert type(model).__name__ == "BertForSequenceClassification" and tokenizer is None and warnings == []
    assert model.config.id2label == {0: "low", 1: "middle", 2: "high"}


def test_a_head_that_only_the_adapter_has(tmp_path):
    """Five labels, where the checkpoint's head has three: the head comes from the adapter, or is reported as random."""
    adapter = saved_bert(tmp_path, labels=tuple("abcde"))
    model, _, warnings = load_base(adapter)
    assert model.classifier.out_features == 5
    assert [w.split(" has values for ")[1].split(":")[0] for w in warnings] == ["classifier.bias", "classifier.weight"]
    adapter.saved = {"classifier.bias": np.zeros(5, np.float32), "classifier.weight": np.ones((5, 32), np.float32)}
    assert load_base(adapter)[2] == []


def test_bases_that_do_not_fit(tmp_path):
    adapter = saved_bert(tmp_path / "bert")
    gpt2()[0].save_pretrained(tmp_path / "gpt2")
    with pytest.raises(BaseMismatch, match="holds a gpt2 model"):
        load_base(adapter, str(tmp_path / "gpt2"))
    with pytest.raises(UniLoraError, match="without config.json"):
        load_base(adapter, str(tmp_path))
    with pytest.raises(UniLoraError, match="no base model"):
        load_base(adapter, str(tmp_path / "none"))
    with pytest.raises(UniLoraError, match=r"export\.export_onnx"):
        load_base(make_adapter(bert()[1]))
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "wider").mkdir()
    (tmp_path / "wider" / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(UniLoraError, match="has shape"):
        load_base(adapter, str(tmp_path / "wider"))


@pytest.mark.parametrize("name", ["os", "__builtins__", "AutoConfig", "PreTrainedModel", "pipeline", "a.b", "", "Bert"])
def test_only_a_model_class_is_looked_up(tmp_path, name):
    """The name is input from a file; whatever else it names must not be reached."""
    adapter = saved_bert(tmp_path)
    object.__setattr__(adapter.base, "architecture", name)
    with pytest.raises(UniLoraError, match="no model class of transformers"):
        load_base(adapter)


def test_another_checkpoint_of_the_same_form_warns(tmp_path):
    model, recorded = tiny()
    shapes = {"linear.weight": (6, 8)}
    recorded.base = Base("b", structure_fingerprint(shapes), "0" * 32)
    assert "another checkpoint" in export_to(tmp_path / "m.onnx", model, recorded)["warnings"][0]
    recorded.base = Base("b", "0" * 32, "0" * 32)
    with pytest.raises(BaseMismatch, match="other shapes"):
        export_to(tmp_path / "m.onnx", model, recorded)
