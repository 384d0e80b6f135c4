"""SPEC chapter 8: the file, written canonically and read without trust."""

import base64
import json
import os
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance_tests import hostile
from conformance_tests.oracle import files
from conformance_tests.rules import check
from conformance_tests.spelling import canonical, descriptions, rounded, spelled
from conformance_tests.strategies import adapters, few, texts
from unilora_spec import conformance as reference

from .test_07_layer_map import rules_of

FILES = [case for case in hostile.CASES if case.flag != "layer map"]
DESCRIPTIONS = [case for case in hostile.CASES if case.description is not None]


@pytest.mark.parametrize("case", rules_of(FILES))
def test_refused(judge, case):
    """A file that breaks a rule is refused, and the refusal names the rule."""
    if case.flag == "table":
        judge.needs_kind("table")
    judge.refuses(set(case.rules), "read", file=case.file)


@check("8.10", needs="read")
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in hostile.SOUND])
def test_sound(judge, case):
    """A file at the limits is read, canonical or not."""
    judge.gives({"description": hostile.description_of(case)}, "read", file=case.file)


@check("7.8", "7.9", "8.2", "8.3", "8.10", needs="read")
@given(st.data())
def test_read(judge, data):
    """However an adapter is spelled, its stacks and runs folded in the canonical way or not, it is the same adapter; whether the
    bytes are canonical is said."""
    description, tensors = data.draw(adapters(judge.kinds))
    file = data.draw(spelled(description, tensors))
    expected = {
        "description": files.describe(description),
        "tensors": rounded(tensors),
        "canonical": file == canonical(description, tensors),
    }
    judge.gives(expected, "read", file=file)


@check("8.7", "8.10", needs="read")
@few()
@given(st.data())
def test_canonical_is_said(judge, data):
    """A canonical file is called canonical, and with one blank more it is not."""
    description, tensors = data.draw(adapters(judge.kinds))
    file = canonical(description, tensors)
    judge.gives({"canonical": True}, "read", file=file)
    size = int.from_bytes(file[:8], "little")
    judge.gives({"canonical": False}, "read", file=files.container(file[8 : 8 + size].decode() + " ", file[8 + size :]))


@check("8.3", "8.5", "8.6", "8.7", needs="write")
@given(st.data())
def test_write(judge, data):
    """The bytes of the canonical file: keys, numbers, texts, padding, order of the tensors, rounding to their dtype."""
    description, tensors = data.draw(adapters(judge.kinds))
    shuffled = {name: tensors[name] for name in data.draw(st.permutations(list(tensors)))}
    given_as = data.draw(descriptions(description))
    judge.gives({"file": canonical(description, tensors)}, "write", description=given_as, tensors=shuffled)


@check("8.5", needs="write")
@given(st.floats(1e-4, 2**20) | st.integers(-(2**60), 2**60).map(lambda n: 1 + n * 2.0**-62) | st.integers(1, 2**20))
def test_numbers(judge, alpha):
    """Alpha is the shortest decimal that gives the same float64 back, without exponent."""
    text = hostile.TEXT | {"alpha": alpha}
    judge.gives(
        {"file": files.write(text, hostile.TENSORS)},
        "write",
        description=text,
        tensors=files.as_protocol(hostile.TENSORS),
    )


@check("8.5", needs="write")
@given(
    st.lists(
        texts | st.text('\x00\x08\t\n\x0b\x0c\r\x1f\x7f\u2028"\\/é\ue000𝔸\uffff', min_size=1), unique=True, max_size=4
    )
)
def test_texts(judge, names):
    """Texts are escaped in one way, and keys sorted by UTF-16 code units."""
    tensors = hostile.TENSORS | {f"saved.{name}": ("F32", [1], [1.0]) for name in names if name != "w"}
    text = hostile.TEXT | {"base": hostile.BASE | {"labels": names}}
    judge.gives({"file": files.write(text, tensors)}, "write", description=text, tensors=files.as_protocol(tensors))


@check("8.5", "8.7", needs="write")
def test_order_of_names(judge):
    """Keys are sorted by UTF-16 code units, data by UTF-8 bytes: U+E000 and what is above the basic plane change places."""
    names = ["\uffff", "𝔸", "a", "Z", "\ue000", "ab", "\U0010ffff", "é"]
    tensors = hostile.TENSORS | {f"saved.{name}": ("F32", [1], [float(at)]) for at, name in enumerate(names)}
    fields = {"description": hostile.TEXT, "tensors": files.as_protocol(tensors)}
    judge.gives({"file": files.write(hostile.TEXT, tensors)}, "write", **fields)


@check("8.3", needs="write")
@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@given(data=st.data())
def test_rounding(judge, dtype, data):
    """F16 and BF16 are rounded to nearest, ties to even, denormals kept."""
    patterns = st.integers(0, {"F16": 0x7BFF, "BF16": 0x7F7E}[dtype])

    def between(bits):
        """Halfway from one number of the dtype to the next, or just beside."""
        low, high = (files.widened(n.to_bytes(2, "little"), dtype)[0] for n in (bits, bits + 1))
        middle = low + (high - low) / 2 if bits < 0x7BFF else low
        return data.draw(
            st.sampled_from([middle, -middle, low, middle + (high - low) / 64, middle - (high - low) / 64])
        )

    values = [
        between(bits) if bits != 0x7BFF else 65504.0 for bits in data.draw(st.lists(patterns, min_size=2, max_size=2))
    ]
    tensors = hostile.TENSORS | {"theta": (dtype, [2], [_f32(value) for value in values])}
    judge.gives(
        {"file": files.write(hostile.TEXT, tensors)},
        "write",
        description=hostile.TEXT,
        tensors=files.as_protocol(tensors),
    )


OVERFLOWS = [
    ("F32", float("nan")), ("F32", float("inf")), ("F32", float("-inf")), ("F16", 65520.0), ("F16", -1e30), ("F16", float("nan")),
    ("BF16", 3.3961775292304957e38), ("BF16", -3.4028234663852886e38), ("BF16", float("nan")), ("BF16", float("inf")),
]  # fmt: skip


@check("8.3", needs="write")
def test_values_that_cannot_be_stored(judge):
    """NaN, infinity, and what rounds to infinity in the dtype are refused by a writer."""

    def ask(case):
        name, dtype, value = case
        values = [0.5, value] if name == "theta" else [value]
        tensors = files.as_protocol(hostile.TENSORS | {name: (dtype, [len(values)], values)})
        judge.refuses("8.3", "write", description=hostile.TEXT, tensors=tensors)

    cases = [(name, dtype, value) for dtype, value in OVERFLOWS for name in ("theta", "saved.b")]
    judge.each(cases, ask, lambda case: "{} of {}: {}".format(*case))


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=check(*sorted(case.rules), needs="write"), id=case.name) for case in DESCRIPTIONS]
)
def test_writer_refuses(judge, case):
    """What a reader refuses in a description, a writer does not write."""
    judge.refuses(set(case.rules), "write", description=case.description, tensors=files.as_protocol(hostile.TENSORS))


@check("8.3", "8.8", needs="write")
def test_writer_refuses_other_tensors(judge):
    """Tensors of other names, dtypes or shapes than an adapter's are refused by a writer."""
    cases = (
        ("8.3 8.8", {"saved.b": ("F32", [1], [0.25])}),
        ("8.3", hostile.TENSORS | {"b": ("F32", [1], [0.25])}),
        ("8.3", hostile.TENSORS | {"saved.": ("F32", [1], [0.25])}),
        ("8.2 8.3", hostile.TENSORS | {"saved.b": ("F64", [1], [0.25])}),
        ("8.3 8.8", hostile.TENSORS | {"theta": ("F32", [3], [1.0, 2.0, 3.0])}),
        ("8.3 8.8", hostile.TENSORS | {"theta": ("F32", [2, 1], [1.0, 2.0])}),
        ("8.8", hostile.TENSORS | {"saved.w": ("F32", [1], [0.25])}),
    )

    def ask(case):
        tensors = files.as_protocol(case[1])
        judge.refuses(set(case[0].split()), "write", description=hostile.TEXT, tensors=tensors)

    judge.each(cases, ask)


@check("8.3", "9.4", needs="write")
def test_writer_refuses_another_index(judge):
    """An index of another dtype, shape or range than kind `table` asks for, or none, is refused by a writer."""
    judge.needs_kind("table")
    cases = (
        ("8.3 9.4", {}),
        ("8.3 9.4", {"index": ("F32", [5], [0.0, 1.0, 0.0, 1.0, 1.0])}),
        ("8.3 8.8 9.4", {"index": ("I32", [4], [0, 1, 0, 1])}),
        ("8.3 8.8 9.4", {"index": ("I32", [5, 1], [0, 1, 0, 1, 1])}),
        ("9.4", {"index": ("I32", [5], [0, 1, 0, 1, 2])}),
        ("9.4", {"index": ("I32", [5], [-1, 1, 0, 1, 1])}),
    )

    def ask(case):
        tensors = files.as_protocol(hostile.TENSORS | case[1])
        judge.refuses(set(case[0].split()), "write", description=hostile.TABLE, tensors=tensors)

    judge.each(cases, ask)


# Attacks without a name


@check("8.2", needs="read")
@few()
@given(st.data())
def test_truncated(judge, data):
    """A file that ends early, or goes on, is refused."""
    file = canonical(*data.draw(adapters(judge.kinds)))
    judge.refuses({"8.2"}, "read", file=file[: data.draw(st.integers(0, len(file) - 1))])
    judge.refuses({"8.2"}, "read", file=file + data.draw(st.binary(min_size=1, max_size=9)))


@check("8.4", needs="read")
@given(st.data())
def test_another_version(judge, data):
    """A file of another version is refused by a message that names that version and the reader's own."""
    version = data.draw(st.sampled_from(["2", "3.7", "1.0", "next"]))
    header = hostile.tiny_header()
    header["__metadata__"]["version"] = version
    if data.draw(st.booleans()):
        header["theta"]["dtype"] = "F4"
    file = hostile.with_text(json.dumps(header))
    message = judge.refuses("8.4", "read", file=file)
    if version not in message or "1" not in message.replace(version, ""):
        judge.fail(
            f"the refusal does not name version {version} and the reader's own: {message}", "read", {"file": file}
        )


@check("9.1", needs="read")
def test_an_unknown_kind_is_named(judge):
    """A file of an unknown kind is refused by a message that names it."""
    text = hostile.TEXT | {"projection": hostile.TEXT["projection"] | {"kind": "vera-2"}}
    file = files.write(text, hostile.TENSORS)
    message = judge.refuses("9.1", "read", file=file)
    if "vera-2" not in message:
        judge.fail(f"the refusal does not name vera-2: {message}", "read", {"file": file})


mutations = st.tuples(st.floats(0, 1), st.sampled_from(["set", "drop", "insert", "digit"]), st.integers(0, 255))


@check("8.9", needs="read")
@given(st.data(), st.lists(mutations, min_size=1, max_size=4))
def test_changed_bytes(judge, data, changes):
    """With any bytes changed, a file is refused or read as the reference does it, and nothing else happens."""
    file = bytearray(data.draw(st.sampled_from([hostile.TINY, None])) or canonical(*data.draw(adapters(judge.kinds))))
    for place, how, byte in changes:
        at = min(int(place * len(file)), len(file) - 1)
        if how == "digit":
            at = next((i for i in range(at, len(file)) if chr(file[i]).isdigit()), at)
            byte = ord("0") + byte % 10
        file[at : at + (how != "insert")] = b"" if how == "drop" else bytes([byte])
    expected = reference.answer({"request": "read", "file": _text(file)})
    if "refused" in expected:
        judge.refuses(ANY_RULE, "read", file=file)
    else:
        judge.gives({key: expected[key] for key in ("description", "canonical")}, "read", file=file)


ANY_RULE = {rule for case in hostile.CASES for rule in case.rules}


@check("8.1", needs="read")
def test_nothing_is_run(judge):
    """Texts of a file are not code: a file is made nowhere, whatever language would run them."""
    with tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "made")
        attacks = [
            f"__import__('os').system('touch {made}')", f"open('{made}','w')", f"$(touch {made})", f"`touch {made}`", f"; touch {made} #",
            f"require('fs').writeFileSync('{made}','')", f"cos\nsystem\n(S'touch {made}'\ntR.", f"!!python/object/apply:os.system ['touch {made}']",
        ]  # fmt: skip

        def ask(attack):
            text = hostile.TEXT | {"base": hostile.BASE | {"name": attack, "architecture": attack, "labels": [attack]}}
            tensors = hostile.TENSORS | {f"saved.{attack}": ("F32", [1], [1.0])}
            judge.gives({"description": files.describe(text)}, "read", file=files.write(text, tensors))
            kind = hostile.TEXT["projection"] | {"kind": attack}
            judge.refuses("9.1", "read", file=files.write(hostile.TEXT | {"projection": kind}, hostile.TENSORS))
            if os.path.exists(made):
                judge.fail("a text of the file was run", "read", {"file": files.write(text, tensors)})

        judge.each(attacks, ask)


@check("8.9", needs="read")
def test_memory(judge):
    """Numbers of a file that ask for more than it holds cost no memory: 256 MiB more than before are too much, 1 GiB
    where it is only reserved. (Where the system does not tell, the time limit alone is tested.)"""
    judge.ask("read", file=hostile.TINY)
    before = judge.implementation.memory()
    flags = ("shape", "offsets", "limits", "layer map", *(["table"] if "table" in judge.kinds else []))

    def ask(case):
        judge.refuses(set(case.rules), "read", file=case.file)
        for name, most in (("VmHWM", 2**28), ("VmPeak", 2**30)):
            if (grown := judge.implementation.memory().get(name, 0) - before.get(name, 0)) > most:
                judge.fail(f"{name} grew by {grown} bytes", "read", {"file": case.file})

    judge.each([case for case in hostile.CASES if case.flag in flags], ask, lambda case: case.name)


def _text(file) -> str:
    return base64.b64encode(file).decode()


def _f32(value):
    return files.widened(files.stored([value], "F32"), "F32")[0]
