"""The adapter file (SPEC 8): canonical bytes, what a writer refuses, where it is written, and its import."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from adapter_files import DATA, described, header_of, same
from hypothesis import given
from hypothesis import strategies as st
from strategies import adapters, arrays, dtypes, examples
from test_layer_map import transformer
from test_spec_text import TINY

from unilora_spec import (
    Adapter,
    Base,
    FileError,
    LayerMap,
    Projection,
    Segment,
    WorkFailed,
    load_adapter,
    replacing,
    save_adapter,
)
from unilora_spec.canonical_json import encode as to_json
from unilora_spec.serialization import decode, encode

ROOT = Path(__file__).parents[1]


# Canonical bytes (SPEC 8.5 to 8.7)


@given(adapters())
@examples(150)
def test_round_trip(adapter):
    data = encode(adapter)
    again = decode(data)
    assert encode(again) == data and int.from_bytes(data[:8], "little") % 8 == 0
    # What F16 and BF16 round is rounded by the first writing, and nothing by the second.
    same(decode(encode(again)), again)
    if not adapter.dtypes:
        same(again, adapter)
    assert (again.projection, again.layer_map, again.base) == (adapter.projection, adapter.layer_map, adapter.base)


@given(st.data(), dtypes)
@examples(60)
def test_values_of_a_dtype_come_back_bit_for_bit(data, dtype):
    bits = {"F32": np.uint32, "F16": np.uint16, "BF16": np.uint16}[dtype]
    raw = np.array(data.draw(st.lists(st.integers(0, np.iinfo(bits).max), min_size=2, max_size=2)), bits)
    wide = (raw.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else None
    theta = raw.view(np.float32 if dtype == "F32" else np.float16).astype(np.float32) if wide is None else wide
    theta = np.where(np.isfinite(theta), theta, np.float32(-0.0))
    adapter = Adapter(TINY.projection, TINY.layer_map, theta, dtypes={} if dtype == "F32" else {"theta": dtype})
    same(decode(encode(adapter)), adapter)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@given(data=st.data())
@examples(40)
def test_rounding_is_to_nearest_even(dtype, data):
    torch = pytest.importorskip("torch")
    theta = data.draw(arrays(dtype, 2))
    stored = decode(encode(Adapter(TINY.projection, TINY.layer_map, theta, dtypes={"theta": dtype}))).theta
    other = torch.from_numpy(theta.copy()).to({"F16": torch.float16, "BF16": torch.bfloat16}[dtype]).float().numpy()
    assert stored.tobytes() == other.tobytes()


@pytest.mark.parametrize(("dtype", "step"), [("F16", 2.0**-10), ("BF16", 2.0**-7)])
def test_ties_round_to_even(dtype, step):
    theta = np.array([1 + step / 2, 1 + 3 * step / 2], np.float32)
    stored = decode(encode(Adapter(TINY.projection, TINY.layer_map, theta, dtypes={"theta": dtype}))).theta
    assert stored.tolist() == [1, 1 + 2 * step]


SPECIAL = [0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-126, 3.4028234663852886e38]


def test_signed_zeros_and_denormals():
    layer_map = LayerMap([Segment("w", 3, 3, 1)])
    adapter = Adapter(Projection(D=6, d=6, seed=0), layer_map, np.array(SPECIAL, np.float32))
    same(decode(encode(adapter)), adapter)


def test_canonical_json_text():
    value = {"\ue000": 1, "𝔸": 2, "a": [True, '\x00\x1f\x7f\b\t\n\f\r"\\/é', 8.0, 0.1, 1e-4, -0.0, 1048575.5]}
    text = r'{"a":[true,"\u0000\u001f' + "\x7f" + r"\b\t\n\f\r\"\\/é" + '",8,0.1,0.0001,0,1048575.5],"𝔸":2,"\ue000":1}'
    assert to_json(value).decode() == text  # the surrogates of 𝔸 sort before U+E000, its code point after


def test_the_same_bytes_in_every_process(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_spec_text import TINY;"
        "from unilora_spec.serialization import encode; print(encode(TINY).hex())"
    )
    for seed in ("0", "1", "random"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        call = [sys.executable, "-c", code, str(ROOT / "tests")]
        assert subprocess.check_output(call, env=environment, text=True).strip() == DATA.hex()


@given(adapters())
@examples(40)
def test_the_safetensors_library_reads_it(adapter):
    torch = pytest.importorskip("safetensors.torch")  # NumPy has no bfloat16
    tensors = torch.load(encode(adapter))
    again = decode(encode(adapter))
    for name, value in again.projection.tensors.items():
        assert np.array_equal(tensors.pop(name).numpy(), value)
        assert value.dtype == {"I32": np.int32, "F32": np.float32}[again.projection.stored[name]]
    values = {"theta": again.theta} | {f"saved.{name}": value for name, value in again.saved.items()}
    assert tensors.keys() == values.keys()
    for name, value in values.items():
        assert tensors[name].float().numpy().tobytes() == value.tobytes() and tensors[name].shape == value.shape


def test_a_file_by_the_safetensors_library_is_read_and_called_not_canonical():
    metadata = header_of(DATA)["__metadata__"]
    tensors = {"theta": TINY.theta}
    data = safetensors.numpy.save(
        tensors, metadata={**metadata, "unilora": json.dumps(json.loads(metadata["unilora"]))}
    )
    assert decode(data).theta.tolist() == [1, -0.5] and encode(decode(data)) != data


def minilm():
    layer_map = LayerMap(transformer(6), alpha=8)
    base = Base("sentence-transformers/all-MiniLM-L6-v2", "0" * 32, "0" * 32, "BertForSequenceClassification")
    theta = np.random.default_rng(0).standard_normal(5760).astype(np.float32)
    return Adapter(Projection(D=36864, d=5760, seed=42), layer_map, theta, base)


def test_size():
    assert len(encode(minilm())) <= 4 * 5760 + 700


# What a writer refuses (SPEC 8.3, 8.8)


@pytest.mark.parametrize(
    ("theta", "dtype"),
    [
        ([1, np.nan], "F32"),
        ([np.inf, 0], "F32"),
        ([65520, 0], "F16"),  # halfway between the largest and what comes after it rounds to infinity
        ([3.4e38, 0], "BF16"),
        (np.array([0x7FFFFFFF, 0], np.uint32).view(np.float32), "BF16"),  # a NaN whose rounding would carry into −0
        ([1, 0], "F64"),
    ],
)
def test_values_that_cannot_be_stored(theta, dtype):
    adapter = Adapter(TINY.projection, TINY.layer_map, np.array(theta, np.float32), dtypes={"theta": dtype})
    with pytest.raises(FileError) as refusal:
        encode(adapter)
    assert refusal.value.rule == "8.3" and "theta" in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"theta": np.zeros(3, np.float32)}, "8.8"),
        ({"theta": np.zeros((2, 1), np.float32)}, "8.8"),
        ({"projection": Projection(D=6, d=2, seed=42)}, "8.8"),
        ({"saved": {"w": np.zeros(1, np.float32)}}, "8.8"),
        ({"saved": {"": np.zeros(1, np.float32)}}, "8.3"),
    ],
)
def test_parts_that_contradict_each_other(values, rule):
    parts = {"projection": TINY.projection, "layer_map": TINY.layer_map, "theta": TINY.theta}
    with pytest.raises(FileError) as refusal:
        Adapter(**(parts | values))
    assert refusal.value.rule == rule


def test_names_that_utf8_cannot_spell():
    for parts in ({"saved": {"\ud800": np.zeros(1)}}, {"base": Base("\ud800", "0" * 32, "0" * 32)}):
        with pytest.raises(FileError, match=r"SPEC 8\.5"):
            encode(Adapter(TINY.projection, TINY.layer_map, TINY.theta, **parts))


# On the disk (SPEC 8.11)


def test_files(tmp_path):
    path = tmp_path / "größe.safetensors"
    assert save_adapter(TINY, path) == len(DATA) == path.stat().st_size
    same(load_adapter(path), TINY)
    assert path.read_bytes() == DATA and [*tmp_path.iterdir()] == [path]
    loaded = load_adapter(path)
    path.unlink()
    loaded.theta += 1  # its own memory, not the file's


@pytest.mark.parametrize("data", [b"", DATA[:50], b"PK\x03\x04" * 9, None])
def test_load_names_the_file(tmp_path, data):
    path = tmp_path / "vec.safetensors"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(FileError) as refusal:
        load_adapter(path)
    assert str(refusal.value).startswith(f"{path}: ")


def fail(number):
    def failing(*_, **__):
        raise OSError(number, os.strerror(number))

    return failing


@pytest.mark.parametrize("broken", ["os.replace", "os.fsync", "pathlib.Path.write_bytes", "pathlib.Path.mkdir"])
def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, broken):
    path = tmp_path / "vec.safetensors"
    path.write_bytes(b"old")
    monkeypatch.setattr(broken, fail(errno.ENOSPC))
    with pytest.raises(WorkFailed, match="No space left on device; nothing there has changed"):
        save_adapter(TINY, path)
    assert path.read_bytes() == b"old" and [*tmp_path.iterdir()] == [path]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk(tmp_path):
    path = tmp_path / "vec.safetensors"
    with (
        pytest.raises(WorkFailed, match="No space left"),
        replacing(path) as temporary,
        open("/dev/full", "wb") as full,
    ):
        temporary.write_bytes(DATA[:10])
        full.write(DATA)
    assert not [*tmp_path.iterdir()]


def test_an_interruption_leaves_the_old_file_and_the_next_write_clears_what_a_kill_left(tmp_path):
    path = tmp_path / "vec.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and [*tmp_path.iterdir()] == [path]
    left = tmp_path / ".vec.safetensors.abcd0123.unilora.partial"
    left.mkdir()
    (left / "lock").touch()
    (left / "vec.safetensors").write_bytes(b"half")
    save_adapter(TINY, path)
    assert path.read_bytes() == DATA and [*tmp_path.iterdir()] == [path]


def test_no_such_folder(tmp_path):
    with pytest.raises(WorkFailed, match="No such file or directory"):
        save_adapter(TINY, tmp_path / "none" / "vec.safetensors")


# The import

PROBE = """
import sys, time
import numpy
begin = time.process_time()
import unilora_spec
print(time.process_time() - begin, *sorted({"torch", "onnx", "safetensors", "onnxruntime"} & set(sys.modules)))
"""


def test_import_is_light():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    runs = [
        subprocess.check_output([sys.executable, "-c", PROBE], env=environment, text=True).split() for _ in range(3)
    ]
    assert all(len(run) == 1 for run in runs)
    assert min(float(run[0]) for run in runs) < 0.3  # seconds of the processor beyond NumPy's own; about 0.03 is usual


def test_a_sound_file_may_have_no_canonical_form(tmp_path):
    run = {
        "layers": [10**9, 10**9 + 9_000],
        "prefix": "x" * 400,
        "segments": [{"in": 1, "name": "", "out": 1, "rank": 1}],
    }

    def large(description):
        description["layers"] = [run]
        description["projection"]["D"] = 2 * 9_000

    path = tmp_path / "large.safetensors"
    path.write_bytes(described(large))
    done = subprocess.run(
        [sys.executable, "-m", "unilora_spec", "verify", path], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "not the canonical bytes" in done.stdout


def test_names_cannot_steer_a_terminal(tmp_path):
    path = tmp_path / "escape.safetensors"
    save_adapter(Adapter(TINY.projection, LayerMap([Segment("w\x1b[31m", 2, 3, 1)]), TINY.theta), path)
    done = subprocess.run(
        [sys.executable, "-m", "unilora_spec", "inspect", path], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "\x1b" not in done.stdout and r"w\x1b[31m" in done.stdout
