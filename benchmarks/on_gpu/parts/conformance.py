"""The specification through the kernels: its vectors replayed, and all of the conformance tests where what they need is there."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files

from backends.torch.conformance import expand_by, implementation, kernel_answers

from ..findings import Given, checked, left_out, tried
from ..running import ROOT

TESTS = "the conformance tests"
NEEDS = ("hypothesis", "pytest", "rich")
BY_KERNELS = ("index", "expand", "adjoint")


def findings(given: Given) -> Iterator[dict]:
    yield from tried("vectors", _vectors())
    yield from tried(TESTS, _tests(given))


def _vectors():
    """Every request that the implementation answers, of every kind; of kind balanced the kernels answer."""
    answer = implementation("Triton", expand_by, kernel_answers())
    known = set(answer({"request": "describe"})["requests"])
    for path in sorted(files("unilora_spec").joinpath("vectors").iterdir(), key=lambda path: path.name):
        cases = [] if path.name == "schema.json" else json.loads(path.read_text(encoding="utf-8"))["cases"]
        cases = [case for case in cases if case["request"]["request"] in known]
        if cases:
            count = sum(case["request"]["request"] in BY_KERNELS for case in cases)
            yield checked(f"vectors of {path.name}, {count} by kernels", len(cases), list(filter(None, map(fault_of(answer), cases))))


def fault_of(answer):
    """What is wrong with the answer to a case, as a sentence, or None."""

    def fault(case):
        got = json.loads(json.dumps(answer(case["request"])))
        if "refused" in case:
            wrong = got.get("refused") not in case["refused"]
        else:
            wrong = {field: got.get(field) for field in case["answer"]} != case["answer"]
        return f"{case['id']}, rule {case['rule']}: {case['comment']}" if wrong else None

    return fault


def _tests(given):
    for package in NEEDS:
        importlib.import_module(package)
    if not given.gpu:
        yield left_out(TESTS, "`make test` runs them without a GPU")
        return
    command = [sys.executable, "-m", "conformance_tests", "--timeout", "60"]
    command += ["--impl", f"{sys.executable} -m backends.torch.conformance --triton"]
    for rule in ("4.5", "6.2", "6.3"):  # what the kernels have a part in
        command += ["--rule", rule]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    said = (done.stdout + done.stderr).strip().splitlines() or ["nothing was said"]
    yield checked(f"{TESTS}, rules 4.5, 6.2 and 6.3", 1, [said[-1]] if done.returncode else [])
