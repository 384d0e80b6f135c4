"""python -m export gguf: the file that llama.cpp reads holds the specification's ΔW, by llama.cpp's names and in its rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from adapters import adapter_of

from unilora_spec import Adapter, LayerMap, Projection, Segment, UniLoraError, save_adapter

gguf = pytest.importorskip("gguf")
safetensors = pytest.importorskip("safetensors.numpy")
transformers = pytest.importorskip("transformers")

from export.folders.gguf import export_gguf
from export.folders.gguf_names import ARCHITECTURES

ROOT = Path(__file__).parents[1]
SIZES = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 32, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip
Q, K, V, O = (f"self_attn.{n}_proj" for n in "qkvo")
GATE, UP, DOWN = (f"mlp.{n}_proj" for n in ("gate", "up", "down"))
SHAPES = {Q: (32, 32), K: (16, 32), V: (16, 32), O: (32, 32), GATE: (48, 32), UP: (48, 32), DOWN: (32, 48)}
THERE = dict(zip(SHAPES, ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"), strict=True))


def base_of(tmp_path, kind, segments, scaling="lora", **sizes):
    """A random model of a type in a folder, and an adapter of it in a file."""
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **SIZES | sizes))
    model.save_pretrained(tmp_path / "base")
    return write(tmp_path, adapter_of(model, segments, tmp_path / "base", scaling=scaling))


def by_hand(tmp_path, kind, segments, shapes, scaling="lora", **values):
    """A base of weights in ``shapes``, beside a config.json, and an adapter of it in a file."""
    (tmp_path / "base").mkdir()
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    safetensors.save_file(weights, tmp_path / "base/model.safetensors")
    (tmp_path / "base/config.json").write_text(json.dumps({"model_type": kind, **SIZES, **values}))
    layer_map = LayerMap(segments, alpha=8, scaling=scaling)
    theta = np.random.default_rng(0).normal(size=64).astype(np.float32)
    return write(tmp_path, Adapter(Projection(D=layer_map.D, d=64, seed=42), layer_map, theta))


def write(tmp_path, adapter):
    save_adapter(adapter, tmp_path / "vec.safetensors")
    return adapter


def export(tmp_path, output="out.gguf"):
    return export_gguf(tmp_path / "vec.safetensors", tmp_path / output, tmp_path / "base")


def read(path):
    """The fields of a file, and its tensors as NumPy has them."""
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}, {t.name: t.data for t in reader.tensors}


def expected(adapter, shapes):
    """s·B·A of every weight in float64, in the place that SPEC 7 gives it, as a matrix (out, in) or a stack of them; and with it
    the sum of its terms' sizes, which bounds what rounding may do."""
    deltas, bounds = ({name: np.zeros(shape) for name, shape in shapes.items()} for _ in range(2))
    for segment, A, B in adapter.factors():
        s = float(adapter.layer_map.factor_scale(segment))
        for whole, a, b in ((deltas, A, B), (bounds, abs(A), abs(B))):
            part = segment.part(whole[segment.name])
            part[...] = segment.stored(s * b.astype(float) @ a.astype(float), part.shape)
    turned = {segment.name for segment in adapter.layer_map.segments if segment.transposed}
    return (
        {name: d.swapaxes(-1, -2) if name in turned else d for name, d in each.items()} for each in (deltas, bounds)
    )


def permuted(weight, heads):
    """LlamaModel.permute of llama.cpp's converter, for a weight of so many heads."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def agrees(tmp_path, adapter, shapes, places, output="out.gguf"):
    """What llama.cpp makes of the file is ΔW. ``places`` are names there, by which (weight, function of its ΔW) each is.

    llama.cpp's factor is alpha / rank in float32, B has one rounding at most, s another: three of 2^-24 for each term.
    """
    fields, tensors = read(tmp_path / output)
    assert set(tensors) == {f"{place}.weight.lora_{end}" for place in places for end in "ab"}
    deltas, bounds = expected(adapter, shapes)
    for place, (name, laid_out) in places.items():
        a, b = (tensors[f"{place}.weight.lora_{end}"] for end in "ab")
        assert a.dtype == b.dtype == np.float32
        scale = np.float32(fields["adapter.lora.alpha"]) / np.float32(
            b.shape[-1]
        )  # llama_adapter_lora_weight::get_scale
        got = float(scale) * (b.astype(float) @ a.astype(float))
        assert (abs(got - laid_out(deltas[name])) <= 3 * 2.0**-24 * laid_out(bounds[name])).all(), place
        assert abs(got).max() > 0
    return fields, tensors


def layers(kind):
    shapes = {f"model.layers.{i}.{n}.weight": shape for i in range(2) for n, shape in SHAPES.items()}
    heads = {Q: 4, K: 2} if kind == "llama" else {}
    places = {
        f"blk.{i}.{there}": (f"model.layers.{i}.{n}.weight", lambda d, n=n: permuted(d, heads[n]) if n in heads else d)
        for i in range(2)
        for n, there in THERE.items()
    }
    return shapes, places


# Whole models


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma3_text"])
def test_all_weights_of_a_model(tmp_path, kind):
    """With one rank and plain scaling, A is the adapter's own to the bit, and B but for its order; the same bytes twice."""
    architecture = ARCHITECTURES[kind]
    shapes, places = layers(architecture)
    adapter = base_of(tmp_path, kind, [Segment(name, *shape, 3) for name, shape in shapes.items()])
    report = export(tmp_path)
    fields, tensors = agrees(tmp_path, adapter, shapes, places)
    assert (fields["general.type"], fields["adapter.type"], fields["adapter.lora.alpha"]) == ("adapter", "lora", 8.0)
    assert fields["general.architecture"] == report["architecture"] == architecture and report["rank"] == 3
    assert (
        report["weights"] == 14 and report["bytes"] == (tmp_path / "out.gguf").stat().st_size and not report["warnings"]
    )
    factors = {segment.name: (A, B) for segment, A, B in adapter.factors()}
    for place, (name, _) in places.items():
        assert np.array_equal(tensors[f"{place}.weight.lora_a"], factors[name][0])
        assert np.array_equal(np.sort(tensors[f"{place}.weight.lora_b"], 0), np.sort(factors[name][1], 0))
    export(tmp_path, "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "out.gguf").read_bytes()


@pytest.mark.parametrize("scaling", ["lora", "rslora"])
def test_different_ranks(tmp_path, scaling):
    shapes, places = layers("llama")
    segments = [Segment(name, *shape, 1 + i % 5) for i, (name, shape) in enumerate(shapes.items())]
    adapter = base_of(tmp_path, "llama", segments, scaling)
    fields, _ = agrees(tmp_path, adapter, shapes, places) if export(tmp_path) else None
    assert fields["adapter.lora.alpha"] == np.float32(8 if scaling == "lora" else 8 * 5**0.5)


@pytest.mark.parametrize("scaling", ["lora", "rslora"])
def test_ranges_of_rows(tmp_path, scaling):
    """Of a fused weight each part has columns of its own; the rest of its rows are zeros. And of a q whose rows are permuted."""
    qkv, gate_up, q = (
        "model.layers.1.self_attn.qkv_proj.weight",
        "model.layers.0.mlp.gate_up_proj.weight",
        f"model.layers.0.{Q}.weight",
    )
    segments = [Segment(qkv, 16, 32, 4, row=48), Segment(qkv, 32, 32, 2, row=0), Segment(gate_up, 48, 32, 3, row=48)]
    shapes = {qkv: (64, 32), gate_up: (96, 32)}
    adapter = by_hand(tmp_path, "phi3", segments, shapes, scaling)
    assert export(tmp_path)["rank"] == 6
    agrees(tmp_path, adapter, shapes, {"blk.1.attn_qkv": (qkv, np.asarray), "blk.0.ffn_up": (gate_up, np.asarray)})
    inner = tmp_path / "llama"
    inner.mkdir()
    adapter = by_hand(
        inner, "llama", [Segment(q, 5, 32, 2, row=7), Segment(q, 9, 32, 1, row=20)], {q: (32, 32)}, scaling
    )
    export(inner)
    agrees(inner, adapter, {q: (32, 32)}, {"blk.0.attn_q": (q, lambda d: permuted(d, 4))})


def test_weights_stored_turned(tmp_path):
    name, shape = "transformer.h.0.attn.c_attn.weight", (32, 96)
    adapter = by_hand(
        tmp_path, "gpt2", [Segment(name, 32, 32, 4, transposed=True, row=64)], {name: shape}, n_layer=2
    )  # fmt: skip
    export(tmp_path)
    agrees(tmp_path, adapter, {name: shape}, {"blk.0.attn_qkv": (name, np.asarray)})


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral"])
def test_stacked_experts(tmp_path, kind):
    """gate and up are one stack in the model and two there; an expert that is not adapted has zeros."""
    gate_up, down, router = (
        f"model.layers.1.mlp.{n}" for n in ("experts.gate_up_proj", "experts.down_proj", "gate.weight")
    )
    shapes = {gate_up: (4, 96, 32), down: (4, 32, 48), router: (4, 32)}
    segments = [Segment(gate_up, 96, 32, 2, index=i) for i in (0, 1, 3)] + [
        Segment(down, 32, 48, 1 + i, index=i) for i in range(4)
    ]
    adapter = by_hand(tmp_path, kind, [*segments, Segment(router, 4, 32, 2)], shapes)
    export(tmp_path)
    places = {
        "blk.1.ffn_gate_exps": (gate_up, lambda d: d[:, :48]),
        "blk.1.ffn_up_exps": (gate_up, lambda d: d[:, 48:]),
        "blk.1.ffn_down_exps": (down, np.asarray),
        "blk.1.ffn_gate_inp": (router, np.asarray),
    }
    agrees(tmp_path, adapter, shapes, places)


@pytest.mark.parametrize("prefix", ["", "model.", "model.language_model.", "language_model.model."])
def test_names_with_other_beginnings(tmp_path, prefix):
    """Of a model without its head, and of one that sees as well."""
    name = f"{prefix}layers.0.{V}.weight"
    values = {"text_config": SIZES, "num_hidden_layers": 1} if "language" in prefix else {}
    adapter = by_hand(tmp_path, "gemma3", [Segment(name, 16, 32, 2)], {name: (16, 32)}, **values)
    export(tmp_path)
    agrees(tmp_path, adapter, {name: (16, 32)}, {"blk.0.attn_v": (name, np.asarray)})


def test_a_table_of_tokens_and_an_output_layer(tmp_path):
    """llama.cpp takes rows of the first factor for tokens, so that the table's is B; where the two are one, it has no LoRA."""
    table, head = "model.embed_tokens.weight", "lm_head.weight"
    shapes = {table: (50, 32), head: (50, 32)}
    adapter = by_hand(tmp_path, "llama", [Segment(name, 50, 32, 2) for name in shapes], shapes)
    export(tmp_path)
    _, tensors = read(tmp_path / "out.gguf")
    (_, A, B), (_, head_A, head_B) = adapter.factors()
    assert np.array_equal(tensors["token_embd.weight.lora_a"], B)
    assert np.array_equal(tensors["token_embd.weight.lora_b"], A.T)
    assert np.array_equal(tensors["output.weight.lora_a"], head_A) and np.array_equal(
        tensors["output.weight.lora_b"], head_B
    )


# What is refused

LAYER = "model.layers.0."


@pytest.mark.parametrize(
    "kind, segment, shape, values, words",
    [
        ("llama", Segment(f"{LAYER}{Q}.weight", 32, 32, 0), (32, 32), {}, "q_proj.weight is adapted with rank 0"),
        ("bert", Segment(f"{LAYER}{Q}.weight", 32, 32, 2), (32, 32), {}, "of model_type 'bert' is not known"),
        (["x"], Segment(f"{LAYER}{Q}.weight", 32, 32, 2), (32, 32), {}, r"of model_type \['x'\] is not known"),
        ("llama", Segment("vision.weight", 32, 32, 2), (32, 32), {}, "vision.weight has no name in llama.cpp's llama"),
        ("llama", Segment("model.layers.2.mlp.up_proj.weight", 48, 32, 2), (48, 32), {}, "up_proj.weight has no name"),
        ("gpt2", Segment("transformer.wpe.weight", 9, 32, 2), (9, 32), {"n_layer": 1}, "wpe.weight is position_embd"),
        ("qwen2", Segment("model.embed_tokens.weight", 50, 32, 2), (50, 32), {}, "embed_tokens.weight is both the table"),
        ("qwen2", Segment("lm_head.weight", 50, 32, 2), (50, 32), {"tie_word_embeddings": True}, "lm_head.weight is both"),
        ("llama", Segment(f"{LAYER}{Q}.weight", 32, 9, 2), (32, 3, 3), {}, "q_proj.weight is the weight of a convolution"),
    ],
)  # fmt: skip
def test_what_llama_cpp_has_no_lora_for(tmp_path, kind, segment, shape, values, words):
    by_hand(tmp_path, kind, [segment], {segment.name: shape}, **values)
    with pytest.raises(UniLoraError, match=f"{words}.*use export merge, and llama.cpp's convert_hf_to_gguf.py"):
        export(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "vec.safetensors"]


@pytest.mark.parametrize(
    "values, words",
    [
        ({"num_hidden_layers": None}, "has no num_hidden_layers"),
        ({"num_attention_heads": 3}, "has 32 rows, and .* says 3 heads"),
    ],
)
def test_a_configuration_that_does_not_fit(tmp_path, values, words):
    by_hand(tmp_path, "llama", [Segment(f"{LAYER}{Q}.weight", 32, 32, 2)], {f"{LAYER}{Q}.weight": (32, 32)}, **values)
    with pytest.raises(UniLoraError, match=words):
        export(tmp_path)
    (tmp_path / "base/config.json").unlink()
    with pytest.raises(UniLoraError, match=r"has no config\.json"):
        export(tmp_path)


def test_a_head_and_two_names_of_one_tensor(tmp_path):
    names = [f"{LAYER}{V}.weight", f"layers.0.{V}.weight"]
    adapter = by_hand(tmp_path, "llama", [Segment(name, 16, 32, 2) for name in names], dict.fromkeys(names, (16, 32)))
    with pytest.raises(UniLoraError, match=r"are one tensor in llama.cpp, blk\.0\.attn_v\.weight"):
        export(tmp_path)
    adapter.saved = {"score.weight": np.ones((2, 32), np.float32)}
    write(tmp_path, adapter)
    with pytest.raises(
        UniLoraError, match="score.weight is trained in full, and llama.cpp's LoRA has A and B alone; use export merge"
    ):
        export(tmp_path)


def test_ranks_that_add_up_to_more_than_a_weight_has(tmp_path):
    """As files of A and B they would be larger than the weight, without a bound."""
    name = f"{LAYER}{UP}.weight"
    by_hand(tmp_path, "llama", [Segment(name, 12, 32, 9, row=row) for row in range(0, 48, 12)], {name: (48, 32)})
    with pytest.raises(
        UniLoraError, match="ranks of .*up_proj.weight add up to 36, and as one LoRA it can have 32; use"
    ):
        export(tmp_path)


# The command


def test_the_command_with_neither_torch_nor_transformers(tmp_path):
    name = f"{LAYER}{V}.weight"
    by_hand(tmp_path, "llama", [Segment(name, 16, 32, 2)], {name: (16, 32)})
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None;"
        "from runpy import run_module as run; run('export', run_name='__main__')"
    )

    def call(*more):
        words = ["gguf", "--adapter", tmp_path / "vec.safetensors", "--base", tmp_path / "base", *more]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        return subprocess.run(
            [sys.executable, "-c", code, *words], check=False, capture_output=True, text=True, env=environment
        )

    done = call("-o", tmp_path / "out.gguf")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.endswith(
        "1 weights of a llama, of rank 2 at most\n"
    )
    before = (tmp_path / "out.gguf").read_bytes()
    report = json.loads(call("-o", tmp_path / "out.gguf", "--json").stdout)  # a file is replaced
    assert report["architecture"] == "llama" and (tmp_path / "out.gguf").read_bytes() == before
    done = call("-o", tmp_path / "vec.safetensors")
    assert done.returncode == 2 and "is the adapter itself" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out.gguf", "vec.safetensors"]
