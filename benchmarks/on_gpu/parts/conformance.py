"""The specification through the kernels: its vectors replayed, and all of the conformance tests where what they need is there."""

import importlib
import json
import sys
from collections.abc import Iterator
from importlib.resources import files

import numpy as np

from backends.torch.conformance import expand_by, implementation, kernel_answers
from unilora_spec.protocol import TYPES, unpack

from ..findings import Context, checked, guarded, left_out
from ..running import command

TESTS = "the conformance tests"
NEEDS = ("hypothesis", "pytest", "rich")
RULES = ("4.5", "6.2", "6.3")  # the rules that the kernels take part in
BY_KERNELS = ("index", "expand", "adjoint")
SUMS = ("adjoint", "delta_weight", "merge")
"""Answers of sums, whose bits the specification leaves open. Those of the vectors are exact, but for the sign of a zero."""


def findings(context: Context) -> Iterator[dict]:
    yield from guarded("vectors", _vectors())
    yield from guarded(TESTS, _tests(context))


def _vectors():
    """Every request that the implementation answers, of every kind; of kind balanced the kernels answer."""
    answer = implementation("Triton", expand_by, kernel_answers())
    known = set(answer({"request": "describe"})["requests"])
    for path in sorted(files("unilora_spec").joinpath("vectors").iterdir(), key=lambda path: path.name):
        cases = [] if path.name == "schema.json" else json.loads(path.read_text(encoding="utf-8"))["cases"]
        cases = [case for case in cases if case["request"]["request"] in known]
        if cases:
            name = f"vectors of {path.name}, {sum(map(_by_kernels, cases))} of them by kernels"
            yield checked(name, len(cases), list(filter(None, map(fault_of(answer), cases))))


def _by_kernels(case) -> bool:
    request = case["request"]
    return request["request"] in BY_KERNELS and request["projection"]["kind"] == "balanced"


def fault_of(answer):
    """What is wrong with the answer to a case, as a sentence, or None."""

    def fault(case):
        got = json.loads(json.dumps(answer(case["request"])))
        if "refused" in case:
            wrong = got.get("refused") not in case["refused"]
        else:
            same = _same_numbers if case["request"]["request"] in SUMS else lambda got, expected, field: got == expected
            wrong = not all(same(got.get(field), expected, field) for field, expected in case["answer"].items())
        return f"{case['id']}, rule {case['rule']}: {case['comment']}" if wrong else None

    return fault


def _same_numbers(got, expected, field) -> bool:
    if isinstance(expected, dict) and isinstance(got, dict):
        return got.keys() == expected.keys() and all(_same_numbers(got[key], expected[key], key) for key in expected)
    if field in TYPES and isinstance(got, str):
        return np.array_equal(unpack(got, field), unpack(expected, field))
    return got == expected


def _tests(context):
    for package in NEEDS:
        importlib.import_module(package)
    if not context.gpu:
        yield left_out(TESTS, "`make test` runs them without a GPU")
        return
    call = [
        "conformance_tests",
        "--timeout",
        "60",
        "--impl",
        f"{sys.executable} -m backends.torch.conformance --triton",
    ]
    for rule in RULES:
        call += ["--rule", rule]
    yield from command(f"{TESTS}, rules {', '.join(RULES)}", call, context)
