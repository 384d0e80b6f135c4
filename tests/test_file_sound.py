"""What a reader refuses of an adapter file (SPEC 8.2 to 8.9), and what a reading takes."""

import json
import time
import tracemalloc

import numpy as np
import pytest
from adapter_files import DATA, changed, described, header_of, same, with_header
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
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
    save_adapter,
)
from unilora_spec.serialization import decode, encode

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
