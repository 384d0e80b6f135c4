"""The command `python -m backends.torch plan`: the layer map and the bytes that attach would give, within its limits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as T

from backends.settings import AdapterSettings
from backends.torch import attach
from backends.torch import plan as layer_map_of
from backends.torch.planning import planned
from unilora_spec import Adapter, LayerMap, Projection, Segment, UniLoraError
from unilora_spec.serialization import encode, encoded_size

ROOT = Path(__file__).parents[1]
ALL_LINEAR = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
# A child's peak is its own only where it is read inside of it: getrusage counts the parent's pages before exec too.
MEASURED = (
    "import atexit, resource, sys;"
    "usage = lambda: resource.getrusage(resource.RUSAGE_SELF);"
    "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) * 1024;"
    "tops = lambda: ','.join(sorted({name.partition('.')[0] for name in sys.modules}));"
    "atexit.register(lambda: print(usage().ru_utime + usage().ru_stime, peak(), tops(), file=sys.stderr));"
)
COMMAND = "from runpy import run_module; run_module('backends.torch', run_name='__main__')"


def llama():
    return T.LlamaForCausalLM(T.LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True))


def bert():
    return T.BertForMaskedLM(T.BertConfig(**SIZES, max_position_embeddings=32))


def gpt2():
    options = {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 50, "n_positions": 32}
    return T.GPT2LMHeadModel(T.GPT2Config(**options, bos_token_id=0, eos_token_id=0))


def mixtral():
    return T.MixtralForCausalLM(T.MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=3))


def measured(code, *arguments, path=()):
    """What Python code prints, its seconds of CPU, user and system, its peak of resident memory in bytes, and the packages that
    it imported. Those in the folders of ``path`` are found first."""
    command = [sys.executable, "-c", MEASURED + code, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT))), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    seconds, peak, packages = done.stderr.splitlines()[-1].split()
    return done.stdout, float(seconds), int(peak), packages


def call(*arguments, path=()):
    """The command's report as JSON, and what ``measured`` tells of it."""
    text, *cost = measured(COMMAND, "plan", *arguments, "--json", path=path)
    return json.loads(text), *cost


def config(folder, **values):
    (folder / "config.json").write_text(json.dumps(values))
    return folder / "config.json"


@pytest.fixture
def installed(tmp_path):
    """A folder with what transformers imports wherever it finds it: each is one here that fails when it is imported."""
    names = "accelerate, bitsandbytes, kernels, peft, PIL, psutil, sklearn, timm, torchao, torchvision"
    for name in names.split(", "):
        (tmp_path / "installed" / name).mkdir(parents=True)
        (tmp_path / "installed" / name / "__init__.py").write_text(f"raise SystemExit('{name} was imported')")
    return tmp_path / "installed"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("hidden", "layers", "heads", "inner", "D", "parameters"),
    [
        pytest.param(4096, 32, 32, 14336, 41_943_040, 8_030_261_248, marks=pytest.mark.thorough),
        pytest.param(8192, 80, 64, 28672, 207_093_760, 70_553_706_496, marks=pytest.mark.thorough),
        (16384, 126, 128, 53248, 623_443_968, 405_853_388_800),
    ],
)
def test_the_largest_llamas_in_seconds_and_300_MiB_with_nothing_that_is_only_installed(
    tmp_path, installed, hidden, layers, heads, inner, D, parameters
):
    """D by hand: a layer has q and o (h × h), k and v (8 heads of 128 × h), gate, up and down (inner × h), and a matrix
    of out × in takes rank · (out + in). The seconds, 2.9 to 3.7 on a slow machine, are beside those
    that the import of the model's class takes in the same minute, some 0.6 of them, whatever the size, so that a slow machine is no
    failure. The peak is 275 MiB."""
    file = config(
        tmp_path, model_type="llama", architectures=["LlamaForCausalLM"], hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=8, intermediate_size=inner, vocab_size=128256,
        torch_dtype="bfloat16", tie_word_embeddings=False,
    )  # fmt: skip
    asked = "--base", file, "--targets", ALL_LINEAR, "--rank", 16, "--dim", 10**6
    report, seconds, peak, packages = call(*asked, path=[installed])
    assert layers * 16 * (2 * 2 * hidden + 2 * (1024 + hidden) + 3 * (inner + hidden)) == D == report["D"]
    assert (
        report["segments"] == 7 * layers and len(report["layers"]) == 1 and report["layers"][0]["layers"] == [0, layers]
    )
    base = {"name": str(file), "class": "LlamaForCausalLM", "parameters": parameters, "dtype": "bfloat16"}
    assert report["base"] == base | {"bytes": 2 * parameters}
    bytes_ = report["bytes"]
    assert bytes_["P"] == {"computed": 0, "cached": 4 * D, "PEFT": 12 * D}
    assert bytes_["theta_D"] == bytes_["gradient of theta_D"] == 4 * D and bytes_["optimizer"] == 8 * 10**6
    _, of_import, *_ = measured("from transformers import LlamaForCausalLM")
    assert seconds <= of_import, f"{seconds} s, the import of the class {of_import} s; imported: {packages}"
    assert peak <= 300 * 2**20, f"{peak / 2**20:.0f} MiB; imported: {packages}"


@pytest.mark.parametrize(
    ("build", "targets"),
    [
        (llama, "q_proj,down_proj"),
        (bert, "query,attention.output.dense"),
        (gpt2, "c_attn[0:32],c_proj"),
        (mixtral, "v_proj,experts.gate_up_proj,experts.down_proj"),
    ],
)
def test_the_layer_map_is_that_of_the_real_model(tmp_path, build, targets):
    """Also of what a model ties and what it shares: no parameter is counted twice."""
    model = build()
    model.config.architectures = [type(model).__name__]  # as save_pretrained would
    model.config.save_pretrained(tmp_path)
    names = targets.split(",")
    ranks = {names[0].split("[")[0]: 2}
    report = planned(AdapterSettings(base=str(tmp_path), targets=names, ranks=ranks))
    expected = layer_map_of(model, names, 4, ranks)
    assert LayerMap.from_json(report["layers"], 4) == expected and report["D"] == expected.D
    assert report["base"]["class"] == type(model).__name__
    assert report["base"]["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_a_tied_weight_is_refused_as_attach_does(tmp_path):
    model = llama()
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(tmp_path)
    for refusing in (lambda: attach(model, d=5, targets="lm_head"), lambda: planned(settings(tmp_path, "lm_head"))):
        with pytest.raises(UniLoraError, match=r"lm_head\.weight is tied"):
            refusing()


@pytest.mark.parametrize(("kind", "rank"), [("balanced", 4), ("balanced", 0), ("identity", 4), ("vb", 4)])
def test_the_file_is_as_long_as_said(tmp_path, kind, rank):
    llama().save_pretrained(tmp_path)
    model = T.LlamaForCausalLM.from_pretrained(tmp_path)
    d, options = 77 if kind == "balanced" else None, {"length": 8} if kind == "vb" else None
    attach(model, rank=rank, d=d, seed=3, targets=["q_proj"], kind=kind, options=options, alpha=8)
    said = planned(
        settings(tmp_path, "q_proj", rank=rank, dim=d, seed=3, kind=kind, options=options and "length=8", alpha=8)
    )
    assert said["d"] == model.unilora.theta.numel()
    assert said["bytes"]["file"] == model.save_adapter(tmp_path / "vec.safetensors")


def test_the_length_of_a_file_with_saved_parameters_of_every_dtype_and_a_table():
    layer_map = LayerMap([Segment("w", 3, 2, 1)])
    saved = {"b": np.zeros(3, np.float32), "a": np.zeros((2, 2), np.float32)}
    p = Projection("table", D=5, d=3, seed=0, tensors={"index": [0, 1, 2, 1, 0]})
    adapter = Adapter(p, layer_map, np.zeros(3, np.float32), None, saved, {"theta": "F16", "saved.b": "BF16"})
    assert encoded_size(adapter) == len(encode(adapter))


def settings(base, targets, **options):
    return AdapterSettings(base=str(base), targets=targets, **options)


def test_without_d_the_figures_of_some_are_shown(tmp_path):
    llama().config.save_pretrained(tmp_path)
    report = planned(settings(tmp_path, "q_proj", rank=16))  # D is 2 · 16 · (32 + 32)
    assert report["D"] == 2048 and "d" not in report
    assert [(choice["d"], choice["optimizer"]) for choice in report["choices"]] == [(1000, 8000)]
    assert report["base"]["class"] == "LlamaModel"  # the configuration alone names no class


def test_the_dtype_of_the_base_is_its_configurations(tmp_path):
    report = planned(settings(config(tmp_path, model_type="bert", dtype="float16"), "query", dim=5))
    assert report["bytes"]["P"]["cached"] == 2 * report["D"]  # columns below 5 fit into 16 bits
    assert report["base"]["dtype"] == "float16" and report["base"]["bytes"] == 2 * report["base"]["parameters"]
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        (None, {}, "there is no config.json in it, and no base model with this id can be loaded; give the base model's folder or its config.json"),
        ("folder", {}, "there is no config.json in it, and no base model with this id can be loaded; give the base model's folder or its config.json"),
        ("{", {}, "this is no config.json with a model_type"),
        ("[]", {}, "this is no config.json with a model_type"),
        ('{"hidden_size": 4}', {}, "this is no config.json with a model_type"),
        ('{"model_type": "lama"}', {}, "transformers knows no model_type 'lama'; the closest are llama"),
        ('{"model_type": ["x"]}', {}, "transformers knows no model_type ['x']"),
        ('{"model_type": "bert", "hidden_size": "x"}', {}, "transformers cannot read it"),
        ('{"model_type": "bert", "hidden_size": 10}', {}, "transformers cannot build a model of its config.json"),
        ('{"model_type": "bert"}', {"targets": "qery"}, "'qery' matches no weight that can be adapted; close names are query"),
        ('{"model_type": "bert"}', {"dim": 10**9}, "d is 1000000000; give one from 1 to 73728"),
        ('{"model_type": "bert"}', {"kind": "xs", "rank": 769, "dim": None}, "has rank 769, and a matrix of 768 × 768 (out × in) has at most 768"),
        ('{"model_type": "bert"}', {"kind": "lora-fa"}, "--kind is 'lora-fa'; give balanced, "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_mend(tmp_path, content, options, sentence):
    base = tmp_path / "base"
    if content == "folder":
        base.mkdir()
    elif content is not None:
        base.write_text(content)
    with pytest.raises(UniLoraError) as refusal:
        planned(settings(base, **{"targets": "query", "dim": 100, **options}))
    assert sentence in str(refusal.value)
