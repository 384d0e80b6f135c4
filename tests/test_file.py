"""SPEC chapter 8: the file, written canonically and read without trust."""

import errno
import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from strategies import adapters, arrays, dtypes, examples
from test_layer_map import transformer
from test_spec_text import TINY

from conformance_tests import hostile
from unilora_spec import (
    Adapter,
    Base,
    FileError,
    KindError,
    LayerMap,
    LayerMapError,
    LimitError,
    Projection,
    Segment,
    UniLoraError,
    VersionError,
    WorkFailed,
    load_adapter,
    replacing,
    save_adapter,
)
from unilora_spec.canonical_json import encode as to_json
from unilora_spec.serialization import decode, encode

ROOT = Path(__file__).parents[1]
DATA = encode(TINY)


def header_of(data):
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def with_header(text, body=DATA[-10:]):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return len(text).to_bytes(8, "little") + text + body


def changed(change, body=DATA[-10:]):
    """The tiny file with its header changed by ``change(header)``."""
    header = header_of(DATA)
    change(header)
    return with_header(header, body)


def described(change):
    """The tiny file with its description changed by ``change(description)``."""

    def apply(header):
        description = json.loads(header["__metadata__"]["unilora"])
        change(description)
        header["__metadata__"]["unilora"] = json.dumps(description)

    return changed(apply)


def same(a, b):
    """The same adapter, its numbers by their bits."""
    assert (a.projection, a.layer_map, a.base, dict(a.dtypes)) == (b.projection, b.layer_map, b.base, dict(b.dtypes))
    for x, y in zip([a.theta, *a.saved.values()], [b.theta, *(b.saved[name] for name in a.saved)], strict=True):
        assert x.dtype == y.dtype == np.float32 and x.shape == y.shape and x.tobytes() == y.tobytes()


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


# Soundness (SPEC 8.2 to 8.6, 8.8, 8.9)


@pytest.mark.parametrize("end", range(len(DATA)))
def test_truncated_anywhere(end):
    with pytest.raises(FileError):
        decode(DATA[:end])


MUTATIONS = st.tuples(st.integers(0, len(DATA) - 1), st.sampled_from(["set", "drop", "insert"]), st.integers(0, 255))


@given(st.lists(MUTATIONS, min_size=1, max_size=4))
@examples(600)
def test_mutated_bytes_raise_nothing_but_refusals(mutations):
    data = bytearray(DATA)
    for at, how, byte in mutations:
        at = min(at, len(data) - 1)
        data[at : at + (how != "insert")] = b"" if how == "drop" else bytes([byte])
    try:
        encode(decode(bytes(data)))
    except UniLoraError as refusal:
        assert refusal.rule


@given(st.binary(max_size=60), st.sampled_from([b"", b"{", DATA[:8], DATA[:40]]))
@examples(200)
def test_foreign_bytes_raise_nothing_but_refusals(data, head):
    with pytest.raises(UniLoraError):
        decode(head + data)


def every_value(description):
    """(object, key) of every value inside of a description."""
    for key, value in list(description.items() if isinstance(description, dict) else enumerate(description)):
        yield description, key
        if isinstance(value, dict | list):
            yield from every_value(value)


json_values = st.sampled_from([-1, 0, 1, 2**40, 2**53 - 1, 0.5, True, "", "x", "42", [], {}, [0, 2], ["a"], [{}]])


@given(st.integers(0, 30), json_values)
@examples(300)
def test_descriptions_with_any_value_raise_nothing_but_refusals(at, value):
    def change(description):
        description["base"] = {"name": "b", "structure": "0" * 32, "contents": "0" * 32, "labels": ["x"]}
        places = list(every_value(description))
        place, key = places[at % len(places)]
        place[key] = value

    try:
        encode(decode(described(change)))
    except UniLoraError as refusal:
        assert refusal.rule


def entry(header, name="theta", **changes):
    header[name].update(changes)


def put(place, key, value):
    place[key] = value


# A refusal's class stands for a chapter, or for a rule of it.
CLASSES = {"1": LimitError, "7": LayerMapError, "8": FileError, "9.1": KindError, "9.2": LimitError, "9.4": LimitError}


@pytest.mark.parametrize("case", hostile.CASES, ids=lambda case: case.name)
def test_hostile_files(case):
    """Refused by their rule, in its class, and at no more memory than the file and the limits allow (SPEC 8.9)."""
    tracemalloc.start()
    with pytest.raises(UniLoraError) as refusal:
        decode(case.file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    rule = refusal.value.rule
    assert rule in case.rules and peak < 2**24 + 4 * len(case.file)
    assert isinstance(refusal.value, CLASSES.get(rule) or CLASSES[rule.split(".")[0]])


@pytest.mark.parametrize("case", hostile.SOUND, ids=lambda case: case.name)
def test_sound_files_at_the_limits(case):
    decode(case.file)


@pytest.mark.parametrize("version", ["2", "1.0", "", None])
def test_unknown_version_names_both(version):
    with pytest.raises(VersionError, match=f"version {version!r} and this reader knows version '1'"):
        decode(hostile.metadata(version=version))


def test_a_header_that_would_be_too_long_is_not_written(tmp_path):
    long = Base("x" * 2**18, "0" * 32, "0" * 32)
    with pytest.raises(FileError, match="262144 is the limit"):
        save_adapter(Adapter(TINY.projection, TINY.layer_map, TINY.theta, long), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_sound_but_not_canonical_is_read():
    spaced = with_header(json.dumps(header_of(DATA), indent=1).encode() + b"\n\n")
    spelled = described(lambda t: (t.update(scaling="lora"), t["layers"][0].update(transposed=False)))
    for data in (spaced, spelled):
        same(decode(data), TINY)
        assert data != DATA == encode(decode(data))


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


# What the fuzzer found (tests/fuzz_reader.py)


def with_layers(layers, D, **more):
    def change(description):
        description["projection"]["D"] = D
        description.update(layers=layers, **more)

    return described(change)


def one(name="", **more):
    return {"in": 1, "name": name, "out": 1, "rank": 1, **more}


RUN = {"layers": [0, 65_536], "prefix": "x" * 58, "segments": [one()]}
SHORT = {**RUN, "layers": [0, 65_000]}
NESTED = [[[]] * 20_000]
LARGE = {"dtype": "BF16", "shape": [2**22], "data_offsets": [8, 8 + 2**23]}
TABLE = encode(
    Adapter(
        Projection("table", D=2**20, d=2, seed=0, tensors={"index": np.arange(2**20) % 2}),
        LayerMap([Segment("w", 1, 2**20 - 1, 1)]),
        np.ones(2),
        dtypes={"theta": "F16"},  # so that its four bytes follow those of the index
    )
)
# How each ends: None where it is sound.
LEAN = {
    "the most segments and names": (with_layers([RUN], 2**17), None),
    "the most segments of one name": (with_layers([one("w", index=[10**6, 10**6 + 2**16])], 2**17), None),
    "an overlap at the end": (with_layers([SHORT, one("x" * 58 + "64999")], 130_002), "7.6"),
    "the most segments beside what means nothing": (with_layers([SHORT, {"name": NESTED}], 130_002), "7.8"),
    "the most segments beside labels that are none": (with_layers([SHORT], 130_000, base={"labels": NESTED}), "8.6"),
    "dense lists": (with_header(b'{"a":[' + b"[[]]," * 52_000 + b"0]}"), "8.4"),
    "dense objects": (with_header(b'{"a":[' + b'{"":{}},' * 32_000 + b"0]}"), "8.4"),
    "dense texts": (with_header('{"a":["😀"'.encode() + b',"ab"' * 52_000 + b"]}"), "8.4"),
    "a large table": (TABLE, None),
    "a large table with its last column beyond theta": (TABLE[:-8] + b"\2\0\0\0" + TABLE[-4:], "9.4"),
    "NaN alone": (changed(lambda h: entry(h, "saved.b", **LARGE), DATA[-10:-2] + b"\x80\xff" * 2**22), "8.3"),
}


@pytest.mark.parametrize("case", LEAN)
def test_what_a_reading_takes_is_bounded_by_the_file(case):
    data, rule = LEAN[case]
    ended = []
    for measured in (False, True):  # measuring the memory takes twice the time again
        if measured:
            tracemalloc.start()
        begin = time.process_time()
        try:
            ended.append(decode(data) and None)
        except UniLoraError as refusal:
            ended.append(refusal.rule)
        if not measured:
            assert time.process_time() - begin < 2  # seconds of the processor; about 0.3 are usual
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ended == [rule, rule]
    assert peak < 2**24 + 4 * len(data)  # SPEC 7.1 bounds the one, SPEC 8.2 the other


@pytest.mark.parametrize(
    "change",
    [
        lambda t: put(t, "scaling", "x" * 10**5),
        lambda t: put(t["projection"], "kind", "x" * 10**5),
        lambda t: put(t["layers"][0], "rank", ["x" * 10**5]),
        lambda t: put(t["layers"][0], "transposed", ["x" * 10**5]),
    ],
)
def test_a_refusal_is_no_longer_than_a_sentence(change):
    with pytest.raises(UniLoraError) as refusal:
        decode(described(change))
    assert len(str(refusal.value)) < 250
