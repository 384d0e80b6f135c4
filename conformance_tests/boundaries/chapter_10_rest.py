"""SPEC 10.5 and 10.6: the fingerprint of the base outside of the adapted weights."""

import math

from ..oracle import files
from . import exact, gives
from .chapter_06 import bits

BORDERS = bits(
    0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001,  # half a step of BF16 after 1: ties to even, and beside them
    0x3F801000, 0x3F803000, 0x3F800FFF, 0x3F801001,  # half a step of F16
    0x477FEFFF, 0x477FF000, 0x7F7F7FFF, 0x7F7F8000,  # the largest of each form, and what is infinite in it
    0x38800000, 0x387FFFFF, 0x387FF000, 0x387F0000, 0x38000000, 0x33800000, 0x33000001,  # 2^-14 and what is below
)  # fmt: skip


def _asked(weights, record=""):
    weights = {name: {"shape": shape, "values": values} for name, (shape, values) in weights.items()}
    return {"weights": weights, "record": record}


def _printed(weights):
    return "".join(sorted(files.rest(weights).values()))


@exact("10.5", "groups, entries and forms", "rest")
def groups():
    """Digits of other scripts as numbers; the last entry left out; a value that is rounded twice, or not flushed."""
    names = [
        "w",
        "w.1",
        "w.10.v",
        "w.2.v",
        "w2",
        "w10",
        "W.1",
        "w.١",
        "é.0",
        "𝔸.0",
        "\uffff.0",
        "0",
        "00",
        "1.2",
        "1",
        "",
    ]
    weights = {name: ([1, 2], [float(at), 1 / (at + 1)]) for at, name in enumerate(names)}
    yield gives("names", {"rest": _printed(weights), "differ": []}, **_asked(weights))
    for n in (0, 1, 2, 3, 63, 64, 65, 66, 127, 128, 129, 4096, 4097):
        weights = {"w": ([n], [math.ldexp(i * 7919 % 4093 + 1, -5) for i in range(n)])}
        yield gives(f"{n} entries", {"rest": _printed(weights)}, **_asked(weights))
    for shape in ([], [1], [1, 1]):
        yield gives(
            f"the shape {shape}",
            {"rest": _printed({"w": (shape, [1 / 3])})},
            **_asked({"w": (shape, bits(0x3EAAAAAB))}),
        )
    for value in BORDERS:
        for sign in (1, -1):
            weights = {"w": ([1], [sign * value])}
            yield gives(f"{sign * value!r}", {"rest": _printed(weights)}, **_asked(weights))
    weights = {"w.0": ([2], bits(0x3F800000, 0x3F802000)), "w.1": ([1], bits(0x3F801000))}
    yield gives("exact in F16 but for one", {"rest": _printed(weights)}, **_asked(weights))
    yield gives("nothing", {"rest": "", "differ": []}, **_asked({}))


@exact("10.6", "which groups differ", "rest")
def differing():
    """A form that one side has alone; a digit that is not compared; a group that is not there."""
    weights = {"a.1": ([1], bits(0x3EAAAAAB)), "a.0": ([1], [0.5]), "b": ([1], [1.0]), "B": ([1], bits(0x3F802000))}
    record = _printed(weights)
    unknown, wrong = (
        "".join(record[at : at + 8] + digits for at in range(0, len(record), 16)) for digits in ("0" * 8, "1" * 8)
    )
    changed = {
        "the same": record, "nothing": "", "unknown forms": unknown,
        "another group": "0" * 7 + "1" + "1" * 8, "twice, the last as it is": wrong + record, "twice, the first as it is": record + wrong,
    }  # fmt: skip
    changed |= {f"another digit {at}": _other(record, at) for at in range(len(record))}
    entries = files.rest(weights)
    for name, text in changed.items():
        yield gives(name, {"differ": files.differ(entries, text)}, **_asked(weights, text))


def _other(record, at):
    """The record with another digit there."""
    return record[:at] + ("1" if record[at] != "1" else "2") + record[at + 1 :]
