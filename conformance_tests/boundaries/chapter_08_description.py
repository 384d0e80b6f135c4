"""SPEC 8.4 and 8.6: format and version, and the description."""

import json
import struct

from .. import hostile
from ..hostile import BODY, TEXT, TINY, header, metadata
from ..oracle import files
from . import gives, limit, refused
from .chapter_07 import W, described, file_of, run
from .chapter_08 import DESCRIPTION, sound


def _text_of(value):
    return lambda h: h.update(value)


PROBLEM_TYPES = "regression", "single_label_classification", "multi_label_classification"


def wrong_beside_the_version():
    """What 8.4 says comes after format and version: name → a change of the header, all of it sound JSON."""

    def entry(name="theta", **fields):
        return lambda h: h[name].update(fields)

    def meta(**fields):
        return lambda h: h["__metadata__"].update(fields)

    def text(value):
        return meta(unilora=json.dumps(value))

    return {
        "an unknown dtype": entry(dtype="F4"),
        "a dtype of number": entry(dtype=4),
        "an unknown field of a tensor": entry(more=1),
        "a tensor without a shape": lambda h: h["theta"].pop("shape"),
        "a tensor of text": _text_of({"theta": "F32"}),
        "a tensor of list": _text_of({"saved.b": [1]}),
        "a shape with a point": entry(shape=[2.0]),
        "a negative shape": entry(shape=[-2]),
        "a shape of 65 numbers": entry(shape=[2] + [1] * 64),
        "a shape of text": entry(shape="2"),
        "a longer shape": entry(shape=[3]),
        "a shape of truth": entry(shape=[True, 2]),
        "negative offsets": entry(data_offsets=[-8, 0]),
        "three offsets": entry(data_offsets=[0, 8, 8]),
        "an overlap": entry("saved.b", data_offsets=[6, 8]),
        "a gap": entry("saved.b", data_offsets=[9, 11]),
        "offsets beyond the file": entry(data_offsets=[0, 2**40]),
        "a tensor too few": lambda h: h.pop("saved.b"),
        "no tensor": lambda h: (h.pop("saved.b"), h.pop("theta")),
        "a tensor of another name": lambda h: h.update(more=h.pop("saved.b")),
        "a saved tensor without a name": lambda h: h.update({"saved.": h.pop("saved.b")}),
        "an index": lambda h: h.update(index=h.pop("saved.b")),
        "metadata of number": meta(more=1),
        "metadata of list": meta(more=[1]),
        "a further field of the metadata": meta(more=""),
        "a description of object": meta(unilora={}),
        "no description": lambda h: h["__metadata__"].pop("unilora"),
        "a description that is no JSON": meta(unilora="?"),
        "an empty description": meta(unilora=""),
        "a description with a key twice": meta(unilora='{"a":1,"a":1}'),
        "a description of another form": text({"adapter": 2}),
        "a description of list": text([]),
        "an unknown kind": text(TEXT | {"projection": {"kind": "next", "more": 1}}),
        "a D of another layer map": text(TEXT | {"projection": TEXT["projection"] | {"D": 6}}),
        "a seed of 2^64": text(TEXT | {"projection": TEXT["projection"] | {"seed": str(2**64)}}),
        "an alpha of 0": text(TEXT | {"alpha": 0}),
        "a rank above both sides": text(TEXT | {"layers": [W | {"rank": 3}]}),
    }


@limit("8.4", "format and version before all else", "read")
def version_first():
    """A reader that looks at the version after the tensors, the metadata or the description refuses newer files for the wrong reason."""
    yield sound("as it is", TINY)
    for what, change in wrong_beside_the_version().items():
        for other in (
            {"version": "2"},
            {"format": "next"},
            {"format": "pt", "version": "7"},
            {"version": None},
            {"format": None},
        ):

            def both(value, change=change, other=other):
                change(value)
                value["__metadata__"] = {k: v for k, v in (value["__metadata__"] | other).items() if v is not None}

            yield refused(f"{other}, {what}", "8.4", file=header(both))
    nan = struct.pack("<I", 0x7FC00000) + BODY[4:]
    yield refused(
        "version 2, and NaN in theta", "8.4", file=header(lambda h: h["__metadata__"].update(version="2"), nan)
    )
    yield refused(
        "version 2, and bytes behind",
        "8.4 8.2",
        file=header(lambda h: h["__metadata__"].update(version="2"), BODY + b"\0"),
    )
    for version in ("2", "0", "1.0", "01", "1 ", " 1", "+1", "１", "", "4294967297", "1\u0000"):
        yield refused(f"version {version!r}", "8.4", file=metadata(version=version))
    for form in ("Unilora", "UNILORA", "unilora ", "", "uni-lora", "pt"):
        yield refused(f"format {form!r}", "8.4", file=metadata(format=form))
    for version in (1, 2, True, ["1"], {"1": 1}):
        yield refused(f"version {version!r}", "8.2 8.4", file=metadata(version=version))
    for more in ({"more": ""}, {"Format": "unilora"}, {"": ""}, {"unilora ": DESCRIPTION}, {"unilora": None}):
        yield refused(f"{', '.join(more)} in the metadata, or not", "8.4", file=metadata(**more))
    yield refused("no metadata", "8.4", file=header(lambda h: h.pop("__metadata__")))
    for value in ("unilora", [], 1, True, ["format", "unilora"]):
        yield refused(f"metadata {value!r}", "8.2 8.4", file=header(_text_of({"__metadata__": value})))
    yield refused("metadata {}", "8.4", file=header(_text_of({"__metadata__": {}})))


SEEDS = {
    "0": True, "1": True, "42": True, "4294967296": True, "9007199254740993": True, "9223372036854775808": True, "18446744073709551615": True,
    "": False, "00": False, "042": False, "+42": False, "-0": False, "-1": False, " 42": False, "42 ": False, "4 2": False, "42\n": False,
    "0x2a": False, "4e1": False, "42.0": False, "4_2": False, "٤٢": False, "４２": False, "²": False, "42\u0000": False, "1" * 21: False,
    "18446744073709551616": False, "18446744073709551658": False, "99999999999999999999": False, "100000000000000000042": False,
}  # fmt: skip
"""Whether a text is a seed."""


@limit("8.6 1.2", "a seed, the decimal number without leading zeros", "read")
def seeds():
    """What a language's own reader of numbers takes: signs, blanks, digits of other scripts, what follows the number."""
    for seed, fits in SEEDS.items():
        text = TEXT | {"projection": TEXT["projection"] | {"seed": seed}}
        if fits:
            yield gives(f"{seed!r}", {"description": files.describe(text)}, file=file_of(text))
        else:
            yield refused(f"{seed!r}", "8.6 1.2", file=file_of(text))


@limit("8.6", "the fields of a description and no others", "read")
def fields():
    """A field of another level, a name that any object of the language has, labels that are equal."""
    base = hostile.BASE
    for name, more in {
        "a base": {"base": base}, "an architecture": {"base": base | {"architecture": ""}}, "labels": {"base": base | {"labels": ["a", "b"]}},
        "labels that are equal": {"base": base | {"labels": ["a", "a", "", ""]}}, "no labels": {"base": base | {"labels": []}},
        **{kind: {"base": base | {"problem_type": kind}} for kind in PROBLEM_TYPES}, "a rest of no groups": {"base": base | {"rest": ""}},
        "a rest of 1,024 groups": {"base": base | {"rest": "0123456789abcdef" * 1024}},
        "10,000 labels": {"base": base | {"labels": ["x"] * 10_000}},
        "an empty name": {"base": base | {"name": ""}}, "rslora": {"scaling": "rslora"}, "lora": {"scaling": "lora"},
    }.items():  # fmt: skip
        yield gives(name, {"description": files.describe(TEXT | more)}, file=file_of(TEXT | more))
    for key in (
        "more",
        "",
        "Alpha",
        "alpha ",
        "d",
        "kind",
        "name",
        "labels",
        "__proto__",
        "constructor",
        "toString",
        "hasOwnProperty",
        "version",
        "\u0000",
    ):
        yield refused(f"{key!r} in the description", "8.6", file=file_of(TEXT | {key: 1}))
        yield refused(
            f"{key!r} in the base",
            "8.6",
            file=file_of(TEXT | {"base": {key: 1} | base | ({key: 1} if key in base else {})}),
        )
        if key not in ("d", "kind"):
            yield refused(
                f"{key!r} in the projection", "8.6", file=file_of(TEXT | {"projection": TEXT["projection"] | {key: 1}})
            )
        if key != "name":
            yield refused(f"{key!r} in a segment", "7.8 7.2", file=file_of(described([W | {key: 1}], 5)))
            yield refused(f"{key!r} in a run", "7.8", file=file_of(described([run(0, 2) | {key: 1}], 10)))
    for digits in (
        "0" * 31,
        "0" * 33,
        "A" * 32,
        "g" * 32,
        "0" * 31 + " ",
        "٠" * 32,
        "0" * 64,
        "",
        "0" * 31 + "\n",
        "0" * 32 + "\n",
    ):
        for key in ("structure", "contents"):
            yield refused(f"{key} {digits!r}", "8.6", file=file_of(TEXT | {"base": base | {key: digits}}))
        if digits not in ("", "0" * 64):
            yield refused(f"rest {digits!r}", "8.6", file=file_of(TEXT | {"base": base | {"rest": digits}}))
    for kind in (
        "",
        "Regression",
        "regression ",
        "regression\n",
        "multi_label",
        "classification",
        "__proto__",
        "constructor",
    ):
        yield refused(f"problem_type {kind!r}", "8.6", file=file_of(TEXT | {"base": base | {"problem_type": kind}}))
