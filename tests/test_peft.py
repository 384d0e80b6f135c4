"""PEFT's UniLora: its folders to our files and back, against the installed PEFT, by the logits of small models."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from backends.torch import attach, load_adapter
from export.__main__ import app
from export.folders.from_peft import drawn_index, import_peft
from export.folders.peft import export_peft
from unilora_spec import BaseMismatch, LimitError, Projection, UniLoraError, save_adapter
from unilora_spec import load_adapter as read
from unilora_spec.__main__ import verify

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
safetensors = pytest.importorskip("safetensors.torch")

ROOT = Path(__file__).parents[1]
IDS = torch.randint(1, 50, (3, 7), generator=torch.Generator().manual_seed(0))
TARGETS = {"bert": ["query", "value"], "gpt2": ["c_attn", "mlp.c_proj"]}
HEADS = {"bert": "classifier", "gpt2": "score"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A BERT without a head, so that its files have other names than the model, and a GPT-2, whose weights lie turned."""
    folder = tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    small = {"vocab_size": 50, "initializer_range": 0.2}
    bert = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=32, **small
    )  # fmt: skip
    transformers.BertModel(bert).save_pretrained(folder / "bert")
    gpt2 = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0, pad_token_id=0, **small
    )
    transformers.GPT2ForSequenceClassification(gpt2).save_pretrained(folder / "gpt2")
    return folder


def load(base, labels=3, **options):
    torch.manual_seed(1)
    auto = transformers.AutoModelForSequenceClassification
    return auto.from_pretrained(base, num_labels=labels, ignore_mismatched_sizes=True, **options).eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def same(one, other):
    """The same A and B, but s is a factor of B's scales on one side and of the product on the other: a rounding of 2^-24 for
    each of some dozen products in a few layers, so that 1e-5 of the largest logit is a hundred of them."""
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * float(other.abs().max()))


def peft_folder(base, folder, dtype=torch.float32, **options):
    """What PEFT saves of a model with numbers as after a training, and the logits of that model."""
    config = {
        "r": 2,
        "theta_d_length": 40,
        "proj_seed": 7,
        "task_type": "SEQ_CLS",
        "target_modules": TARGETS[base.name],
    }
    model = peft.get_peft_model(load(base, dtype=dtype), peft.UniLoraConfig(**config | options)).eval()
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = 2.0 if "theta" in name else 0.3
            parameter.data = (torch.randn(parameter.shape, generator=generator) * scale).to(parameter.dtype)
    model.save_pretrained(folder)
    return logits(model)


def our_file(base, path, kind="balanced", **options):
    """A trained adapter of ours on a base, and the logits of its model."""
    known = {"rank": 2, "d": None if kind == "identity" else 40, "targets": TARGETS[base.name], "alpha": 5}
    model = load(base)
    table, kind = kind == "table", "uniform" if kind == "table" else kind
    attach(model, kind=kind, train_in_full=[HEADS[base.name]], **known | options)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        model.unilora.theta.copy_(torch.randn(model.unilora.theta.shape, generator=generator))
        model.get_submodule(HEADS[base.name]).weight.normal_(generator=generator)
    adapter = model.unilora.adapter()
    if table:
        p = adapter.projection
        adapter.projection = Projection("table", D=p.D, d=p.d, seed=p.seed, tensors={"index": p.index()})
    save_adapter(adapter, path)
    return logits(model)


def name_of(model):
    return model.config.model_type


# From PEFT


@pytest.mark.parametrize("saved", [False, True], ids=["drawn again", "saved indices"])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_from_peft(bases, tmp_path, name, saved):
    expected = peft_folder(bases / name, tmp_path / "peft", save_indices=saved)
    report = import_peft(tmp_path / "peft", tmp_path / "x")
    assert report["weights"] == 4 and not report["warnings"] and report["bytes"] == (tmp_path / "x").stat().st_size
    model = load(bases / name)
    plain = logits(model)
    load_adapter(model, tmp_path / "x")
    same(logits(model), expected)
    assert (plain - expected).abs().max() > 0.1
    adapter = read(tmp_path / "x")
    assert adapter.projection.kind == "table" and adapter.projection.seed == 7 and adapter.layer_map.alpha == 2
    assert adapter.base.architecture == type(model).__name__ and adapter.base.name == str(bases / name)
    assert adapter.base.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    targets = [
        name for name, _ in model.named_modules() if name.endswith(tuple(f".{end}" for end in TARGETS[name_of(model)]))
    ]
    assert [s.name for s in adapter.layer_map.segments] == [f"{target}.weight" for target in targets]
    checked = verify(tmp_path / "x", bases / name)
    assert checked["canonical"] and checked["base"] == {
        "folder": str(bases / name),
        "weights": 4,
        "same_contents": True,
        "other_rest": [],
    }


def test_with_saved_indices_no_base_is_needed(bases, tmp_path):
    expected = peft_folder(bases / "bert", tmp_path / "peft", save_indices=True)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "no/where"}))
    report = import_peft(tmp_path / "peft", tmp_path / "x")
    assert "'no/where' is not here" in report["warnings"][0] and read(tmp_path / "x").base is None
    same(logits(load_adapter(load(bases / "bert"), tmp_path / "x")), expected)
    assert not import_peft(tmp_path / "peft", tmp_path / "x", bases / "bert")["warnings"]
    assert read(tmp_path / "x").base.name == str(bases / "bert")


@pytest.mark.parametrize(("D", "d", "seed"), [(40, 40, 0), (41, 40, 1), (1000, 7, 42), (12288, 5000, 2**63)])
def test_the_index_is_drawn_as_peft_draws_it(D, d, seed):
    assert drawn_index(D, d, seed).tolist() == peft.UniLoraModel.generate_index(D, d, seed).tolist()


CONFIGS = {
    "a regular expression": {"target_modules": r".*layer\.1\..*(key|query)"},
    "all Linears": {"target_modules": "all-linear"},
    "PEFT's own choice": {"target_modules": None},
    "names in full": {"target_modules": ["bert.encoder.layer.1.output.dense", "key"]},
    "one layer": {"target_modules": ["query", "dense"], "layers_to_transform": 1},
    "layers by a pattern": {"target_modules": ["query"], "layers_to_transform": [0], "layers_pattern": "layer"},
    "layers by patterns": {"target_modules": ["query"], "layers_to_transform": [1], "layers_pattern": ["h", "layer"]},
    "not beside what is saved": {"target_modules": ["dense"], "modules_to_save": ["pooler"]},
    "biases of the layers": {"bias": "unilora_only"},
    "all biases": {"bias": "all"},
    "a regression": {"theta_d_length": 12, "proj_seed": 0},
}


@pytest.mark.parametrize("saved", [False, True], ids=["drawn again", "saved indices"])
@pytest.mark.parametrize("how", CONFIGS)
def test_what_is_adapted_is_what_peft_adapts(bases, tmp_path, how, saved):
    expected = peft_folder(bases / "bert", tmp_path / "peft", save_indices=saved, **CONFIGS[how])
    import_peft(tmp_path / "peft", tmp_path / "x")
    same(logits(load_adapter(load(bases / "bert"), tmp_path / "x")), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_base_in_half_precision(bases, tmp_path, dtype):
    """PEFT then rounds its scales (and saves them as float32), and we do not; alpha is the rank still."""
    peft_folder(bases / "bert", tmp_path / "peft", dtype=dtype, save_indices=True)
    saved = safetensors.load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert all(torch.equal(value, value.to(dtype).float()) for name, value in saved.items() if "scales" in name)
    import_peft(tmp_path / "peft", tmp_path / "x")
    adapter = read(tmp_path / "x")
    assert adapter.layer_map.alpha == 2 and adapter.projection == import_again(bases, tmp_path)


def import_again(bases, tmp_path):
    """The projection of the same adapter without its indices."""
    peft_folder(bases / "bert", tmp_path / "without")
    import_peft(tmp_path / "without", tmp_path / "y")
    return read(tmp_path / "y").projection


# To PEFT


@pytest.mark.parametrize("kind", ["balanced", "uniform", "identity", "table"])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_to_peft(bases, tmp_path, name, kind):
    expected = our_file(bases / name, tmp_path / "x", kind, scaling="rslora")
    report = export_peft(tmp_path / "x", tmp_path / "peft")
    assert report["weights"] == 4 and report["files"] == len(os.listdir(tmp_path / "peft")) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)  # transformers', of PEFT
        model = peft.PeftModel.from_pretrained(load(bases / name), tmp_path / "peft").eval()
    same(logits(model), expected)
    same(logits(model.merge_and_unload()), expected)


def test_there_and_back(bases, tmp_path):
    """The same A, B and s; and what PEFT gave comes back by its bytes."""
    our_file(bases / "gpt2", tmp_path / "x")
    export_peft(tmp_path / "x", tmp_path / "peft")
    import_peft(tmp_path / "peft", tmp_path / "y")
    one, other = read(tmp_path / "x"), read(tmp_path / "y")
    assert other.layer_map == one.layer_map and other.base == one.base
    assert np.array_equal(other.projection.index(), one.projection.index()) and np.array_equal(other.theta, one.theta)
    assert {name: value.tobytes() for name, value in other.saved.items()} == {
        name: value.tobytes() for name, value in one.saved.items()
    }
    export_peft(tmp_path / "y", tmp_path / "again")
    import_peft(tmp_path / "again", tmp_path / "z")
    assert (tmp_path / "z").read_bytes() == (tmp_path / "y").read_bytes()
    for file in os.listdir(tmp_path / "peft"):
        assert (tmp_path / "peft" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_an_imported_adapter_is_trained_on(bases, tmp_path):
    peft_folder(bases / "bert", tmp_path / "peft")
    import_peft(tmp_path / "peft", tmp_path / "x")
    model = load_adapter(load(bases / "bert"), tmp_path / "x")
    logits_before = logits(model)
    model(IDS, labels=torch.tensor([0, 1, 2])).loss.backward()
    torch.optim.SGD([model.unilora.theta], lr=0.5).step()
    model.save_adapter(tmp_path / "more")
    export_peft(tmp_path / "more", tmp_path / "back")
    again = peft.PeftModel.from_pretrained(load(bases / "bert"), tmp_path / "back").eval()
    same(logits(again), logits(model))
    assert (logits(again) - logits_before).abs().max() > 1e-3


# Refused


def change(folder, tensors=lambda tensors: None, **config):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    values = safetensors.load_file(folder / "adapter_model.safetensors")
    tensors(values)
    safetensors.save_file(values, folder / "adapter_model.safetensors")


def scaled(end, factor):
    def scale(tensors):
        for name in tensors:
            if name.endswith(end):
                tensors[name][0, 0] *= factor

    return scale


QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query.unilora_"
FROM_PEFT = {
    "another method": (lambda f: change(f, peft_type="LORA"), "holds 'LORA'; only PEFT's UNILORA"),
    "no tensors": (lambda f: (f / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    "no configuration": (lambda f: (f / "adapter_config.json").write_text("[]"), "holds no JSON object"),
    "no rank": (lambda f: change(f, r=None), "r is None; it must be a whole number from 1 to 2147483647"),
    "no vector": (lambda f: change(f, lambda t: t.pop("base_model.unilora_theta_d")), "has no tensor base_model.unilora_theta_d"),
    "scales of A": (lambda f: change(f, scaled("scales_A", 1.01)), "scales of A are not 1/√n"),
    "scales of B": (lambda f: change(f, scaled("query.unilora_scales_B", 1.01)), "scales of B are not one multiple"),
    "one scale less": (lambda f: change(f, lambda t: t.pop(QUERY + "scales_B")), "has no matrix " + QUERY + "scales_B"),
    "an index beyond": (lambda f: change(f, lambda t: t[QUERY + "indices_A"].add_(40)), "32 below 40 are needed".replace("32", "256")),
    "a negative index": (lambda f: change(f, lambda t: t[QUERY + "indices_A"].sub_(40)), "are needed"),
    "an index of floats": (lambda f: change(f, lambda t: t.update({QUERY + "indices_A": t[QUERY + "indices_A"].float()})), "as F32; PEFT's are I64"),
    "another rank": (lambda f: change(f, r=3), "are of rank 2 and 2, and r is 3"),
    "a parameter of no model": (lambda f: change(f, lambda t: t.update(x=torch.ones(1))), "x is no parameter of the model"),
    "a module that is not there": (lambda f: change(f, lambda t: t.update({QUERY.replace("query", "q") + "indices_A": torch.ones(2, 16).long()})), "has no Linear or Conv1D bert.encoder.layer.0.attention.self.q"),
}  # fmt: skip


@pytest.mark.parametrize("case", FROM_PEFT)
def test_a_folder_that_cannot_be_imported(bases, tmp_path, case):
    peft_folder(bases / "bert", tmp_path / "peft", save_indices=True)
    change_it, sentence = FROM_PEFT[case]
    change_it(tmp_path / "peft")
    with pytest.raises(UniLoraError) as refusal:
        import_peft(tmp_path / "peft", tmp_path / "x")
    assert sentence in str(refusal.value) and not (tmp_path / "x").exists()


def test_a_drawn_index_needs_its_base(bases, tmp_path):
    peft_folder(bases / "bert", tmp_path / "peft")
    with pytest.raises(UniLoraError, match="holds no config.json"):
        import_peft(tmp_path / "peft", tmp_path / "x", tmp_path)
    with pytest.raises(UniLoraError, match="no module of the base is among the target_modules"):
        import_peft(tmp_path / "peft", tmp_path / "x", bases / "gpt2")
    change(tmp_path / "peft", target_modules=["LayerNorm"])
    with pytest.raises(UniLoraError, match=r"bert.embeddings.LayerNorm is a target, but neither a Linear"):
        import_peft(tmp_path / "peft", tmp_path / "x")
    change(tmp_path / "peft", target_modules="*")
    with pytest.raises(UniLoraError, match="no regular expression"):
        import_peft(tmp_path / "peft", tmp_path / "x")
    change(tmp_path / "peft", target_modules=["query"], theta_d_length=10**12)
    with pytest.raises(UniLoraError, match="has no tensor base_model.unilora_theta_d of shape"):
        import_peft(tmp_path / "peft", tmp_path / "x")
    longer = torch.ones(10**5)
    change(tmp_path / "peft", lambda t: t.update({"base_model.unilora_theta_d": longer}), theta_d_length=len(longer))
    with pytest.raises(LimitError, match=r"SPEC 1\.1"):
        import_peft(tmp_path / "peft", tmp_path / "x")
    change(tmp_path / "peft", base_model_name_or_path="no/where")
    with pytest.raises(UniLoraError, match="has no indices .* give --base the folder of the base model"):
        import_peft(tmp_path / "peft", tmp_path / "x")


TO_PEFT = {
    "a program": (
        {"kind": "tied", "d": None},
        "the kind is tied; PEFT's UniLora has one number of theta in each entry of A and B, so use",
    ),
    "two ranks": (
        {"ranks": {"query": 3}},
        "the ranks 2 and 3 are in the adapter; PEFT's UniLora has one for all, so use",
    ),
    "rows": (
        {"targets": ["query[0:8]"]},
        "bert.encoder.layer.0.attention.self.query.weight is adapted by ranges of rows",
    ),
    "rank 0": (
        {"ranks": {"query": 0}},
        "bert.encoder.layer.0.attention.self.query.weight is adapted with rank 0, for which PEFT's UniLora has no A and B",
    ),
}


@pytest.mark.parametrize("case", TO_PEFT)
def test_what_peft_cannot_hold(bases, tmp_path, case):
    options, sentence = TO_PEFT[case]
    our_file(bases / "bert", tmp_path / "x", **options)
    with pytest.raises(UniLoraError) as refusal:
        export_peft(tmp_path / "x", tmp_path / "peft")
    other = "export merge" if case == "rank 0" else "export lora"
    assert sentence in str(refusal.value) and other in str(refusal.value)
    assert sorted(os.listdir(tmp_path)) == ["x"]


@pytest.mark.parametrize(
    ("name", "shape", "more", "sentence"),
    [
        ("conv.weight", (4, 3, 2, 2), {}, "conv.weight is the weight of a convolution"),
        ("bert.word_embeddings.weight", (50, 8), {}, "bert.word_embeddings.weight is an embedding"),
        ("experts.up", (3, 4, 5), {"index": 1}, "experts.up is a stack of experts"),
        ("lone", (4, 5), {}, "lone is not the weight of a module"),
    ],
)
def test_weights_that_peft_cannot_hold(tmp_path, name, shape, more, sentence):
    from unilora_spec import Adapter, LayerMap, Segment

    out, columns = (shape[1], shape[2]) if more else (shape[0], int(np.prod(shape[1:])))
    layer_map = LayerMap([Segment(name, out, columns, 1, **more)])
    save_adapter(Adapter(Projection(D=layer_map.D, d=2, seed=0), layer_map, np.ones(2)), tmp_path / "x")
    (tmp_path / "base").mkdir()
    safetensors.save_file({name: torch.ones(shape)}, tmp_path / "base" / "model.safetensors")
    with pytest.raises(UniLoraError) as refusal:
        export_peft(tmp_path / "x", tmp_path / "peft", tmp_path / "base")
    assert sentence in str(refusal.value) and "export lora" in str(refusal.value)
    assert sorted(os.listdir(tmp_path)) == ["base", "x"]


def test_another_base(bases, tmp_path):
    our_file(bases / "bert", tmp_path / "x")
    with pytest.raises(BaseMismatch):
        export_peft(tmp_path / "x", tmp_path / "peft", bases / "gpt2")


# The commands


def test_commands(bases, tmp_path):
    call = CliRunner().invoke
    expected = our_file(bases / "bert", tmp_path / "x")
    done = call(app, ["peft", "--adapter", str(tmp_path / "x"), "-o", str(tmp_path / "peft")])
    assert done.exit_code == 0 and "4 weights of rank 2, 2 trained in full" in done.output
    again = call(app, ["peft", "--adapter", str(tmp_path / "x"), "-o", str(tmp_path / "peft")])
    assert "is there already" in str(again.exception)
    done = call(app, ["import-peft", "--adapter", str(tmp_path / "peft"), "-o", str(tmp_path / "y"), "--json"])
    assert (
        json.loads(done.stdout)["index"] == "saved"
        and json.loads(done.stdout)["bytes"] == (tmp_path / "y").stat().st_size
    )
    same(logits(load_adapter(load(bases / "bert"), tmp_path / "y")), expected)
    shutil.rmtree(tmp_path / "peft")
    done = call(app, ["import-peft", "--adapter", str(tmp_path / "peft"), "-o", str(tmp_path / "y")])
    assert "has no adapter_config.json" in str(done.exception)


def test_no_framework_is_needed(bases, tmp_path):
    """Without torch: our file to PEFT's folder, and one with indices, whose base is not here, to our file."""
    our_file(bases / "bert", tmp_path / "x")
    program = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from pathlib import Path; from export.folders.peft import export_peft; from export.folders.from_peft import import_peft\n"
        "export_peft(Path('x'), Path('peft')); Path('base').mkdir()\n"
        "import json; path = Path('peft/adapter_config.json'); config = json.loads(path.read_text())\n"
        "path.write_text(json.dumps(config | {'base_model_name_or_path': None})); import_peft(Path('peft'), Path('y'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=environment)
    assert read(tmp_path / "y").layer_map == read(tmp_path / "x").layer_map


def test_an_imported_adapter_in_a_graph(bases, tmp_path):
    """The index of a table is a constant of the graph, since nothing computes it; ONNX Runtime gives what PyTorch does."""
    peft_folder(bases / "bert", tmp_path / "peft")
    import_peft(tmp_path / "peft", tmp_path / "x")
    call = ["onnx", "--adapter", str(tmp_path / "x"), "--mode", "reconstruct", "-o", str(tmp_path / "x.onnx"), "--json"]
    report = json.loads(CliRunner().invoke(app, call).stdout)
    assert report["index"].startswith("stored") and report["adapter_moves_outputs_by"] > 0.1
