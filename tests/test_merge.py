"""Merging into a checkpoint: what the files hold."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from adapters import adapter_of, merged, minilm

from unilora_spec import (
    Segment,
)
from unilora_spec.base_model import read_file, tensors_of

safetensors = pytest.importorskip("safetensors.torch")
transformers = pytest.importorskip("transformers")
from merged_folders import large, merge_to, plain, write_base  # noqa: F401  fixtures

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def gpt2(folder, dtype=torch.float32, **options):
    """Saved in several files, with fused q, k, v stored (in, out), of which q and v are adapted."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=50, n_positions=32)
    model = transformers.GPT2LMHeadModel(config).to(dtype)
    model.save_pretrained(folder, max_shard_size="30KB", **options)
    fused = "transformer.h.{}.attn.c_attn.weight"
    segments = [Segment(fused.format(i), 32, 32, 4, transposed=True, row=row) for i in (0, 1) for row in (64, 0)]
    return model.float(), [*segments, Segment("transformer.wte.weight", 50, 32, 2)]


# What the files hold


def test_minilm_gets_a_head_and_loads_as_a_classifier(tmp_path):
    """A base without a head, whose names lack `bert.`: the model that the class loads is the one merged in memory, bit for bit."""
    folder, segments = minilm()
    model = transformers.BertForSequenceClassification.from_pretrained(folder, num_labels=3)
    head = ("classifier.weight", "classifier.bias")
    adapter = adapter_of(model, segments, folder, ("bad", "fair", "good"), head, d=5760)
    report = merge_to(tmp_path, adapter)
    loaded, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "merged", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["mismatched_keys"]
    names = tensors_of(tmp_path / "merged")  # transformers 4 would take the head's names for bare ones too
    assert all(name.startswith("bert.") or name in head for name in names)
    assert type(loaded) is type(model) and loaded.config.id2label == {0: "bad", 1: "fair", 2: "good"}
    assert loaded.config.label2id == {"bad": 0, "fair": 1, "good": 2}
    expected = merged(model, adapter).state_dict()
    assert {n for n, value in loaded.state_dict().items() if not torch.equal(value, expected[n])} == set()
    assert (report["weights"], report["saved"]) == (12, sorted(head)) and report["warnings"] == report["left_out"] == []
    files = {str(p.relative_to(tmp_path / "merged")) for p in (tmp_path / "merged").rglob("*") if p.is_file()}
    assert {"tokenizer.json", "vocab.txt", "1_Pooling/config.json"} <= files and len(files) == report["files"]
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")("film")["input_ids"]


def test_the_head_alone_is_what_gives_names_a_prefix(tmp_path):
    folder, segments = minilm()
    model = transformers.BertModel.from_pretrained(folder)
    segments = [replace(s, name=s.name.removeprefix("bert.")) for s in segments]
    merge_to(tmp_path, adapter_of(model, segments, folder, d=5760))
    assert tensors_of(tmp_path / "merged").keys() == tensors_of(folder).keys()
    loaded = transformers.AutoModel.from_pretrained(tmp_path / "merged").state_dict()
    expected = merged(model, adapter_of(model, segments, folder, d=5760)).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.items())


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_rounding_and_all_else_as_it_was(tmp_path, dtype):
    base = tmp_path / "base"
    model, segments = gpt2(base, DTYPES[dtype])
    adapter = adapter_of(model, segments, base)
    report = merge_to(tmp_path, adapter)
    files = sorted(path.name for path in base.glob("*.safetensors"))
    assert len(files) > 2 and report["weights"] == 3 and report["warnings"] == []
    assert sorted(path.name for path in tmp_path.joinpath("merged").iterdir()) == sorted(p.name for p in base.iterdir())
    before, after = (
        {n: t for f in files for n, t in safetensors.load_file(d / f).items()} for d in (base, tmp_path / "merged")
    )
    deltas = dict(adapter.delta_weights())
    for name, value in before.items():
        wide = value.clone().double() if dtype == "F64" else value.clone().float()
        for segment in [s for s in segments if s.name == name]:
            part = segment.part(wide)
            part += segment.stored(torch.from_numpy(deltas[segment]), part.shape)
        assert torch.equal(after[name], wide.to(DTYPES[dtype])) and after[name].dtype == DTYPES[dtype]
        assert torch.equal(after[name], value) == (name not in adapter.layer_map.by_weight())
    for file in files:  # where nothing came to a file, its header is what it was
        header = read_file(base / file)
        assert [t[1:] for t in read_file(tmp_path / "merged" / file)[0].values()] == [t[1:] for t in header[0].values()]
    for name in ("model.safetensors.index.json", "config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (base / name).read_bytes()
    loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "merged")
    assert loaded.lm_head.weight is loaded.transformer.wte.weight  # tied: ΔW acts in both places, of one copy


def test_parts_of_every_kind(tmp_path):
    """Against ``Adapter.merge``: a convolution, rows of it, experts of a stack, and a weight of several bands of ΔW."""
    torch.manual_seed(0)
    tensors = {
        "conv.weight": torch.randn(6, 4, 3, 3), "rows.weight": torch.randn(6, 4, 3), "experts.w": torch.randn(3, 8, 4),
        "turned.w": torch.randn(2, 4, 8), "large.weight": torch.randn(3000, 1000), "other": torch.arange(3),
    }  # fmt: skip
    segments = [
        Segment("conv.weight", 6, 36, 2), Segment("rows.weight", 3, 12, 0, row=2), Segment("experts.w", 8, 4, 2, index=2),
        Segment("experts.w", 8, 4, 0, index=0), Segment("turned.w", 3, 4, 0, transposed=True, index=1, row=4),
        Segment("large.weight", 3000, 1000, 3),
    ]  # fmt: skip
    adapter = plain(segments)
    merge_to(tmp_path, adapter, write_base(tmp_path / "base", tensors))
    expected = {name: value.clone().float().numpy() for name, value in tensors.items()}
    adapter.merge(expected)
    got = safetensors.load_file(tmp_path / "merged" / "model.safetensors")
    assert got["other"].dtype == torch.int64
    assert all(np.array_equal(got[name].float().numpy(), value) for name, value in expected.items())
    added = expected["large.weight"] - tensors["large.weight"].numpy().astype(np.float64)
    whole = dict(adapter.delta_weights())[segments[-1]]
    assert (
        np.abs(added - whole).max() < 5 * 2**-24
    )  # the bands are the rows of ΔW: what is left is the rounding of W + ΔW


def test_a_head_in_a_base_of_several_files(tmp_path):
    """Of other classes than the base's, and with a parameter that the base lacks: in F32, where they fit no stored form."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, num_labels=2,
        max_position_embeddings=32,
    )  # fmt: skip
    base = tmp_path / "base"
    transformers.BertForSequenceClassification(config).bfloat16().save_pretrained(base, max_shard_size="20KB")
    config.num_labels = 5
    model = transformers.BertForSequenceClassification.from_pretrained(
        base, config=config, ignore_mismatched_sizes=True, dtype=torch.float32
    )
    saved = ["classifier.weight", "classifier.bias", "bert.pooler.dense.bias"]
    name = "bert.encoder.layer.1.attention.self.key.weight"
    adapter = adapter_of(model, [Segment(name, 32, 32, 4)], base, tuple("abcde"), saved)
    adapter.saved |= {"scale": np.float32([1.5])}
    merge_to(tmp_path, adapter)
    tensors = tensors_of(tmp_path / "merged")
    assert (tensors["classifier.weight"].dtype, tensors["classifier.weight"].shape) == ("F32", (5, 32))
    assert tensors["bert.pooler.dense.bias"].dtype == "BF16" and tensors["scale"].dtype == "F32"
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    assert {name: t.file.name for name, t in tensors.items()} == index["weight_map"]
    assert index["metadata"]["total_size"] == sum(t.size for t in tensors.values())
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert torch.equal(loaded.classifier.weight, torch.from_numpy(adapter.saved["classifier.weight"]))
    bias = torch.from_numpy(adapter.saved["bert.pooler.dense.bias"])
    assert torch.equal(loaded.bert.pooler.dense.bias, bias.bfloat16().float())


def test_what_is_added_is_aligned_and_leaves_namesakes_alone(tmp_path):
    """An odd number of BF16 in front of a float32 would be a file that torch does not read."""
    tensors = {"w.weight": torch.randn(3, 3).bfloat16(), "other.head.weight": torch.ones(2, 2).bfloat16()}
    adapter = plain([Segment("w.weight", 3, 3, 2)], {"head.weight": np.ones((1, 3), np.float32)})
    merge_to(tmp_path, adapter, write_base(tmp_path / "base", tensors))
    got = safetensors.load_file(tmp_path / "merged" / "model.safetensors")
    assert torch.equal(got["head.weight"], torch.ones(1, 3)) and torch.equal(
        got["other.head.weight"], tensors["other.head.weight"]
    )
    assert tensors_of(tmp_path / "merged")["head.weight"].start % 4 == 0


def test_weights_in_other_forms_are_left_out_and_named(tmp_path):
    tensors = {"w.weight": torch.randn(4, 4)}
    base = write_base(
        tmp_path / "base", tensors, config__json="{}", vocab__txt="a", pytorch_model__bin="b", LICENSE="c"
    )
    for name in (
        "onnx/model.onnx",
        "consolidated.safetensors",
        "pytorch_model.bin.index.json",
        "2_Dense/config.json",
        ".git/x",
    ):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("{}")
    shutil.copy(base / "model.safetensors", base / "2_Dense")
    report = merge_to(tmp_path, plain([Segment("w.weight", 4, 4, 2)]), base)
    out = ["consolidated.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json", "onnx/model.onnx"]
    assert sorted(report["left_out"]) == sorted(out)
    kept = {str(p.relative_to(tmp_path / "merged")) for p in (tmp_path / "merged").rglob("*") if p.is_file()}
    assert kept == {
        "model.safetensors",
        "config.json",
        "vocab.txt",
        "LICENSE",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
    }


def test_the_same_bytes_again(tmp_path):
    model, segments = gpt2(tmp_path / "base")
    adapter = adapter_of(model, segments, tmp_path / "base")
    merge_to(tmp_path, adapter), merge_to(tmp_path, adapter, output="again")
    for path in (tmp_path / "merged").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
