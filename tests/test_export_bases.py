"""export: each kind of base model in all five modes, a decoder's cache, and floats of half the size."""

import functools

import numpy as np
import onnx_ir as ir
import pytest
import torch

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
transformers = pytest.importorskip("transformers")

import small_models
from adapters import adapter_of, merged, minilm
from exports import export_to, largest, other, session_of, traced_once  # noqa: F401  one is a fixture

from export import export_onnx
from export.graph.expander import expander
from export.graph.rebuild import factor_name
from export.modes import ANSWERING
from export.onnx import feeds_of
from export.torch_base.base import load_base
from export.torch_base.inputs import real_inputs
from unilora_spec import Segment, UniLoraError

HALF = (torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def base():
    """Small models, each made once: (model, its adapter)."""

    @functools.cache
    def get(build):
        model, segments = small_models.built(build)
        return model, adapter_of(model, segments, "base")

    return get


OUTPUTS = {
    small_models.bert_alone: ["last_hidden_state", "pooler_output"],
    small_models.tokens: ["logits"],
    small_models.answers: ["start_logits", "end_logits"],
    small_models.t5: ["logits"],
    small_models.bart: ["logits"],
    small_models.vit: ["logits"],
    small_models.convnext: ["logits"],
    small_models.resnet: ["logits"],
    small_models.swin: ["logits"],
}
CONVOLUTIONS = (small_models.vit, small_models.convnext, small_models.resnet)
DECODERS = (small_models.llama, small_models.gpt2, small_models.mistral)
# A T5 with other positions, a BERT with other heads, and convolutions that two more have.
LIKE_OTHERS = (small_models.bart, small_models.tokens, small_models.answers, small_models.resnet)
MERGED = (small_models.bert_alone, small_models.vit, small_models.gpt2)


def in_every_mode(builds):
    """Each of ``builds`` in each mode. An export takes as long as its trace, which all modes share but the merged one: of that, `make test`
    has three models, as what is merged is the specification's, whatever the model."""
    cases = []
    for build in builds:
        for mode in ANSWERING:
            short = build in MERGED if mode == "merged" else build not in LIKE_OTHERS
            marks = () if short else pytest.mark.thorough
            cases.append(pytest.param(build, mode, id=f"{build.__name__}-{mode}", marks=marks))
    return pytest.mark.parametrize("build, mode", cases)


@in_every_mode(OUTPUTS)
def test_every_kind_of_model(base, tmp_path, build, mode):
    model, adapter = base(build)
    if mode == "bank" and build in CONVOLUTIONS:
        with pytest.raises(UniLoraError, match="is used by Conv .* each row of the batch has an adapter of its own"):
            export_to(tmp_path / "m.onnx", model, adapter, mode)
        return
    report = export_to(tmp_path / "m.onnx", model, adapter, mode)
    # What float32 sums in another order make of one layer, and thousands of times that.
    assert largest(report) < 2e-6 and report["adapter_moves_outputs_by"] > 1e-2
    assert list(report["outputs"]) == OUTPUTS[build] and report["warnings"] == []
    if build in (small_models.t5, small_models.bart):
        axes = {"input_ids": "sequence", "attention_mask": "sequence"}
        axes |= {f"decoder_{name}": "decoder_sequence" for name in axes}
        assert {name: report["inputs"][name] for name in axes} == {name: ["batch", axis] for name, axis in axes.items()}
        assert report["outputs"]["logits"] == ["batch", "decoder_sequence", "50"]


# The cache of a decoder


@in_every_mode(DECODERS[:2])
def test_a_decoder_takes_and_gives_its_cache(base, tmp_path, build, mode):
    model, adapter = base(build)
    report = export_to(tmp_path / "m.onnx", model, adapter, mode, with_past=True)
    assert largest(report) < 2e-6 and report["adapter_moves_outputs_by"] > 1e-2
    heads = "4" if build is small_models.gpt2 else "2"
    wanted = {name: ["batch", "sequence"] for name in ("input_ids", "position_ids")}
    wanted |= {"attention_mask": ["batch", "past + sequence"]}
    wanted |= {f"past_key_values.0.{part}": ["batch", heads, "past", "8"] for part in ("key", "value")}
    assert {name: report["inputs"][name] for name in wanted} == wanted
    assert list(report["outputs"]) == ["logits", "present.0.key", "present.0.value"]
    # Among what it was compared on are a first step, which has no past, and one token after a past.
    assert report["comparison"]["batches"][-2:] == [[3, 9], [3, 1]]


@pytest.mark.parametrize(
    "build",
    [small_models.gpt2, small_models.mistral, pytest.param(small_models.llama, marks=pytest.mark.thorough)],
    ids=lambda build: build.__name__,
)  # Mistral is a Llama with a window
def test_greedy_decoding_says_what_transformers_says(base, tmp_path, build):
    model, adapter = base(build)
    export_to(tmp_path / "m.onnx", model, adapter, "input", with_past=True)
    session = session_of(tmp_path / "m.onnx")
    whole = merged(small_models.built(build)[0], adapter)
    padded = torch.tensor([[0, 0, 7, 9, 30], [3, 14, 15, 9, 26]])
    for ids, mask in ((padded[1:], None), (padded, (padded > 0).long())):
        ids_too = {} if mask is None else {"attention_mask": mask}
        expected = whole.generate(ids, **ids_too, max_new_tokens=12, do_sample=False, eos_token_id=-1, pad_token_id=0)
        assert greedy(session, ids.numpy(), 12, mask).tolist() == expected[:, ids.shape[1] :].tolist()
    # A repetition of one token would be said by a graph that sees no past as well.
    assert len(set(expected[:, 5:].flatten().tolist())) > 3


def greedy(session, ids, count, mask=None):
    """The most likely token after each other, with ONNX Runtime alone; texts of unlike lengths are padded to the left."""
    mask = np.ones_like(ids) if mask is None else mask.numpy()
    past = {
        value.name: np.zeros([len(ids), value.shape[1], 0, value.shape[3]], np.float32)
        for value in session.get_inputs() if value.name.startswith("past_key_values.")
    }  # fmt: skip
    present = [name.replace("past_key_values", "present") for name in past]
    said = []
    for _ in range(count):
        positions = (mask.cumsum(1) - 1).clip(0)[:, -ids.shape[1] :]
        feed = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **past}
        logits, *cache = session.run(["logits", *present], feed)
        past = dict(zip(past, cache))
        ids = logits[:, -1:].argmax(-1)
        mask = np.concatenate([mask, np.ones_like(ids)], axis=1)
        said.append(ids)
    return np.concatenate(said, axis=1)


def test_models_without_such_a_cache(base, tmp_path):
    for build in (small_models.bert, small_models.bert_alone, small_models.t5, small_models.vit):
        model, adapter = base(build)
        with pytest.raises(UniLoraError, match="has no cache of keys and values alone"):
            export_to(tmp_path / "m.onnx", model, adapter, "merged", with_past=True)


# float16 and bfloat16


@pytest.mark.parametrize(
    "build, dtype",
    [
        pytest.param(build, dtype, id=f"{build.__name__}-{str(dtype).removeprefix('torch.')}", marks=marks)
        for build, dtype, marks in (
            (small_models.gpt2, torch.float16, ()),
            (small_models.vit, torch.bfloat16, ()),
            (small_models.llama, torch.float16, pytest.mark.thorough),
            (small_models.llama, torch.bfloat16, pytest.mark.thorough),
            (small_models.vit, torch.float16, pytest.mark.thorough),
        )
    ],
)
def test_half_the_size(base, tmp_path, build, dtype):
    model, adapter = base(build)
    model = small_models.built(build)[0].to(dtype)
    past = build is not small_models.vit
    modes = [mode for mode in ANSWERING if past == (mode != "merged")]
    # A few roundings (2^-11, 2^-8) of a model of one layer.
    few = {torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
    for mode in modes:
        report = export_to(tmp_path / "m.onnx", model, adapter, mode, with_past=past)
        assert largest(report) < few < report["adapter_moves_outputs_by"] / 5
        assert report["warnings"] == []  # rounded weights are another checkpoint's as little as unrounded ones
        note = report["comparison"]["note"]
        assert note == ("in float32, as ONNX Runtime has no bfloat16 on the CPU" if dtype == torch.bfloat16 else None)
        stored = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
        found = {tensor.data_type for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer} & stored
        assert found == {onnx.TensorProto.FLOAT16 if dtype == torch.float16 else onnx.TensorProto.BFLOAT16}
    assert report["opset"] == (18 if dtype == torch.float16 else 22)
    beside = [".onnx", ".onnx_adapter"] if past else []  # and nothing of the comparison
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".onnx", *beside]


@pytest.mark.parametrize("dtype", HALF, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_merged_weights_are_rounded_once(tmp_path, dtype):
    """W + ΔW is added in float32, also where a graph rebuilds it: the same bits as the merge of the specification."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 24), torch.nn.Linear(24, 32))
    adapter = adapter_of(model, [Segment("0.weight", 24, 32, 4), Segment("1.weight", 32, 24, 2)], "base")
    model = model.to(dtype)
    inputs = {"input": torch.zeros(2, 32, dtype=dtype)}
    export_onnx(model, adapter, inputs, tmp_path / "m.onnx", "reconstruct", compare=False)
    graph = onnx.load(tmp_path / "m.onnx")
    wanted = {name: value.detach().float().numpy() for name, value in model.named_parameters()}
    adapter.merge(wanted)
    weights = adapter.layer_map.by_weight()
    graph.graph.output.extend(onnx.ValueInfoProto(name=f"{name}.adapted") for name in weights)
    feeds = {
        "input": np.zeros(
            (2, 32), onnx.helper.tensor_dtype_to_np_dtype(graph.graph.input[0].type.tensor_type.elem_type)
        )
    }
    got = onnx.reference.ReferenceEvaluator(graph).run([f"{name}.adapted" for name in weights], feeds)
    for name, value in zip(weights, got):
        assert torch.equal(torch.from_numpy(wanted[name]).to(dtype).float(), torch.from_numpy(value.astype(np.float32)))


# Real weights


@pytest.fixture(scope="module")
def real():
    """MiniLM with an encoder's own outputs, as its files have them: (model, tokenizer, adapter)."""
    folder, segments = minilm()
    segments = [type(s)(s.name.removeprefix("bert."), s.out_features, s.in_features, s.rank) for s in segments]
    adapter = adapter_of(transformers.BertModel.from_pretrained(folder), segments, folder, d=5760)
    adapter.theta *= np.float32(0.3)
    model, tokenizer, warnings = load_base(adapter)
    assert warnings == []
    return model, tokenizer, adapter


@pytest.mark.thorough
@pytest.mark.parametrize("mode", ANSWERING)
def test_real_weights(real, tmp_path, mode):
    model, tokenizer, adapter = real
    first, *more = real_inputs(model, tokenizer)
    adapters = [adapter, other(adapter)] if mode == "bank" else adapter
    report = export_onnx(model, adapters, first, tmp_path / "m.onnx", mode, more_inputs=more)
    rows = report["comparison"]["outputs"]
    assert max(row["absolute"] for row in rows.values()) < 1e-4 and report["adapter_moves_outputs_by"] > 0.1
    if mode in ("merged", "factored"):  # the one has no A and B, the other is fed them
        return
    graph, wanted = onnx.load(tmp_path / "m.onnx"), {}
    for number, each in enumerate([adapter, other(adapter)] if mode == "bank" else [adapter]):
        for segment, A, B in each.factors():
            wanted |= {(factor_name(segment, "A"), number): A, (factor_name(segment, "B"), number): B}
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(name for name, _ in wanted))
    feeds = {name: np.ones((2, 3), np.int64) for name in report["inputs"] if name not in report["defaults"]}
    if mode == "bank":
        feeds["adapter"] = np.arange(2)
    session = session_of(graph.SerializeToString())
    got = dict(zip([value.name for value in session.get_outputs()], session.run(None, feeds)))
    for (name, number), value in wanted.items():
        assert (got[name][number] if mode == "bank" else got[name]).tobytes() == value.tobytes()


def test_the_expander_of_real_weights(real):
    _, _, adapter = real
    session = session_of(ir.to_proto(expander(adapter, 18)).SerializeToString())
    names = [value.name for value in session.get_outputs()]
    wanted = feeds_of(adapter)
    for theta, factors in ((None, wanted), (other(adapter).theta, feeds_of(other(adapter)))):
        got = dict(zip(names, session.run(None, {} if theta is None else {"theta": theta})))
        assert got.keys() == factors.keys() and all(got[name].tobytes() == factors[name].tobytes() for name in names)
