"""The conformance tests themselves: our implementations and the two examples pass, and what is wrong is found and named."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from implementations import DESCRIBED, started

import unilora_spec
from conformance_tests import faults, hostile, vectors
from conformance_tests.oracle import arithmetic
from conformance_tests.rules import NOT_ASKED, spec_rules
from unilora_spec import conformance
from unilora_spec.projection import KINDS

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "conformance_tests" / "examples"
# Of each property; the boundaries, which find nearly all faults, are asked whole. `make implementations` asks 40.
SHORT = "--examples", 6


def command(*arguments, module="conformance_tests", as_json=("--json", "-")):
    """A run of the command, its report (None where there is none) with ``seconds``, and what it wrote."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    begin = time.monotonic()
    done = started(*arguments, *as_json, module=module, env=environment, timeout=280)
    return done, json.loads(done.stdout) if done.stdout else None, time.monotonic() - begin


def failed(report):
    return [(check["name"], check["message"]) for check in report["checks"] if check["outcome"] == "failed"]


def compiled(folder) -> str:
    """The C example, compiled as its head says."""
    head = (EXAMPLES / "unilora.c").read_text()[:3000]
    line = re.search(r"gcc .*unilora\.c.*", head).group()
    subprocess.run(line, shell=True, check=True, cwd=folder, env={**os.environ, "PATH": os.environ["PATH"]})
    return str(folder / "unilora")


# Ours and the examples


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A run against the NumPy reference: its report and its folder."""
    folder = tmp_path_factory.mktemp("report")
    done, report, _ = command("--impl", "unilora_spec.conformance", "--junit", folder / "report.xml", *SHORT)
    assert done.returncode == 0, done.stderr[-3000:]
    return report, folder


def test_the_reference_reaches_the_highest_level(reference):
    report, _ = reference
    assert report["level"] == "full" and not failed(report)


@pytest.mark.thorough
def test_a_run_by_default():
    _, report, seconds = command("--impl", "unilora_spec.conformance")
    assert report["level"] == "full" and not failed(report)
    assert seconds < 250  # on two cores; 30 to 60 are usual, and this leaves room for a load of ten


def test_every_rule_has_a_check(reference):
    """All rules of SPEC.md but those whose reason is given, and without exception those with a MUST."""
    report, _ = reference
    missing = {rule for rule, outcome in report["rules"].items() if outcome != "passed"}
    assert missing == set(NOT_ASKED)
    assert {rule for check in report["checks"] for rule in check["rules"]} <= set(spec_rules())
    assert not [rule for rule in missing if "MUST" in spec_rules()[rule]]


def test_the_report_as_junit(reference):
    report, folder = reference
    suite = ElementTree.parse(folder / "report.xml").getroot()[0]
    assert int(suite.get("tests")) == len(report["checks"]) and suite.get("failures") == "0"


def test_the_c_example(tmp_path):
    shutil.copy(EXAMPLES / "unilora.c", tmp_path)
    done, report, seconds = command("--impl", compiled(tmp_path), *SHORT)
    assert not failed(report) and report["level"] == "file" and done.returncode == 0
    assert seconds < 120


@pytest.mark.skipif(not shutil.which("node"), reason="the JavaScript example needs node")
def test_the_javascript_example():
    done, report, _ = command("--impl", f"node {EXAMPLES / 'unilora.mjs'}", *SHORT)
    assert not failed(report) and report["level"] == "file" and done.returncode == 0


# All rules but that whose limit takes 2^24 random numbers a case, which a backend makes in ten seconds.
QUICK_RULES = [word for rule in spec_rules() if rule != "11.16" for word in ("--rule", rule)]


@pytest.mark.parametrize(
    "asked", [[*SHORT, *QUICK_RULES], pytest.param([], marks=pytest.mark.thorough)], ids=["short", "whole"]
)
@pytest.mark.parametrize(
    ("implementation", "requests"),
    [
        ("backends.torch.conformance", {"index", "expand", "adjoint", "delta_weight", "merge"}),
        # Thousands of files, each a state and an adapter again; its short form: test_onnx_training has states of several.
        pytest.param("backends.onnx.conformance", {"read", "write"}, marks=pytest.mark.thorough),
        ("export.conformance", {"mix", "permutation", "index", "expand", "delta_weight", "merge"}),
    ],
)  # fmt: skip
def test_our_other_implementations(implementation, requests, asked):
    # The first answer waits for torch or onnxruntime to be imported.
    done, report, _ = command("--impl", implementation, "--timeout", 60, *asked)
    assert not failed(report) and done.returncode == 0
    assert set(report["implementation"]["requests"]) == requests | {"describe"}


# For 11.3, XLA compiles each kind's arithmetic below 2^-126, of which test_jax.py asks the bits.
JAX_RULES = {"short": "4.5 6.2 6.3 7.7 11.4", "longer": "4.5 6.2 6.3 7.7 7.10 11.3 11.4"}


@pytest.mark.parametrize("rules", ["short", pytest.param("longer", marks=pytest.mark.thorough)])
def test_jax(rules):
    pytest.importorskip("jax", reason="the JAX backend needs jax")
    # Few examples: a function is compiled for each program, and for each size of array. docs/jax.md has the whole run.
    asked = [word for rule in JAX_RULES[rules].split() for word in ("--rule", rule)]
    done, report, _ = command("--impl", "backends.jax.conformance", "--timeout", 60, "--examples", 3, *asked)
    assert not failed(report) and done.returncode == 0
    described = report["implementation"]
    assert set(described["requests"]) == {"describe", "index", "expand", "adjoint", "delta_weight", "merge"}
    assert set(described["kinds"]) == set(KINDS)


def has_cxx():
    return shutil.which(os.environ.get("CXX", "g++"))


@pytest.mark.thorough  # its short form: test_compiled.py
@pytest.mark.skipif(not has_cxx(), reason="torch.compile needs a C++ compiler")
def test_torch_compiled():
    call = f"{sys.executable} -m backends.torch.conformance --compile"
    done, report, _ = command("--impl", call, "--timeout", 200, "--rule", "6.2", "--rule", "6.3", *SHORT)
    assert not failed(report) and done.returncode == 0


def test_triton_kernels(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # for the processes of the command; here nothing reads it
    call = f"{sys.executable} -m backends.torch.conformance --triton"
    rules = [word for rule in ("4.5", "6.2", "6.3") for word in ("--rule", rule)]  # what the kernels have a part in
    done, report, _ = command("--impl", call, "--timeout", 60, *rules, *SHORT)
    assert not failed(report) and done.returncode == 0
    assert report["rules"]["4.5"] == report["rules"]["6.2"] == report["rules"]["6.3"] == "passed"


# Vectors


def test_vectors_are_those_of_the_oracle():
    """python -m conformance_tests.vectors writes them."""
    written = {path.name: path.read_text(encoding="utf-8") for path in vectors.FOLDER.glob("[0-9]*.json")}
    assert written == vectors.texts()
    assert sum(path.stat().st_size for path in vectors.FOLDER.iterdir()) < 2 * 10**6


@pytest.mark.parametrize("name", vectors.FILES)
def test_vectors(name):
    """They keep their schema, and the reference answers as they say."""
    content = json.loads((vectors.FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.validate(content, json.loads((vectors.FOLDER / "schema.json").read_text(encoding="utf-8")))
    ids = [case["id"] for case in content["cases"]]
    assert len(set(ids)) == len(ids) and {flag for case in content["cases"] for flag in case["flags"]} == set(
        content["notes"]
    )
    for case in content["cases"]:
        assert case["rule"] in spec_rules()
        answer = json.loads(json.dumps(conformance.answer(case["request"])))
        if "refused" in case:
            assert answer.get("refused") in case["refused"], case["id"]
        else:
            assert {field: answer.get(field) for field in case["answer"]} == case["answer"], case["id"]


def test_hostile_files_have_names_of_their_own():
    names = [case.name for case in (*hostile.CASES, *hostile.SOUND)]
    assert len(set(names)) == len(names) > 250
    assert {case.flag for case in hostile.CASES} == set(hostile.FLAGS)


def test_protocol_examples():
    """Each request of PROTOCOL.md is answered as it says."""
    text = (ROOT / "conformance_tests" / "PROTOCOL.md").read_text(encoding="utf-8")
    lines = re.search(r"```protocol\n(.*?)```", text, re.DOTALL).group(1).splitlines()
    asked = set()
    for request, expected in zip(lines[::2], lines[1::2], strict=True):
        assert request.startswith("→ ") and expected.startswith("← ")
        request, expected = json.loads(request[2:]), json.loads(expected[2:])
        asked.add(request["request"])
        if request["request"] != "describe":
            assert json.loads(json.dumps(conformance.answer(request))) == expected
    assert asked == set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))


# Faults


def test_every_fault_has_its_place():
    assert f"{len(faults.FAULTS)} small mistakes" in (ROOT / "docs/implementing.md").read_text(encoding="utf-8")
    for fault in faults.FAULTS:
        assert fault.text != fault.path.read_text(encoding="utf-8"), fault.name
    assert len({(fault.name, fault.file, fault.rule) for fault in faults.FAULTS}) == len(faults.FAULTS)


def test_faults_are_found():
    """One of twenty, each by a check of the rule that it breaks; ``make faults`` looks for all, with ten seeds."""
    done, rows, _ = command("--every", 30, module="conformance_tests.faults", as_json=["--json"])
    assert not [row["fault"] for row in rows if None in row["by"]] and done.returncode == 0
    assert not [row for row in rows if "the check itself failed" in row["by"][0]]


def test_a_fault_that_breaks_nothing_is_reported(monkeypatch):
    harmless = faults.Fault(
        "a harmless change", "3.1", "permutation.py", "np.uint32(0x7FEB352D)", "np.uint32(2146121005)"
    )
    assert faults.caught_by(harmless, 0) is None
    gone = faults.Fault("a place that is gone", "3.1", "permutation.py", "nowhere", "")
    with pytest.raises(unilora_spec.UniLoraError, match="stands 0 times in permutation.py, not once"):
        faults.caught_by(gone, 0)


# Implementations that do not answer

WELL = """
import base64, json, os, runpy, struct, sys, time
oracle = runpy.run_path({oracle!r})
def packed(numbers):
    return base64.b64encode(struct.pack(f"<{{len(numbers)}}I", *numbers)).decode()
def answer(request):
    if request["request"] == "describe":
        return {described!r}
    if request["request"] == "keys":
        seed = int(request["seed"])
        return {{"keys": packed(oracle["keys"](seed))}} if 0 <= seed < 2**64 else {{"refused": "1.2"}}
    words, key = base64.b64decode(request["words"]), request["key"]
    if not 0 <= key < 2**32:
        return {{"refused": "3.1"}}
    return {{"mixed": packed([oracle["mix"](x, key) for (x,) in struct.iter_unpack("<I", words)])}}
asked = 0
for line in sys.stdin:
    request, asked = json.loads(line), asked + 1
    reply = json.dumps(answer(request))
    if request["request"] == "keys":
        {bad}
    print(reply, flush=True)
"""
BAD = {
    "hangs": ("time.sleep(1000)", "no answer within 1 seconds"),
    "ends": ("sys.exit(3)", "it ended with exit status 3"),
    "raises": ("raise KeyError('seed')", "KeyError: 'seed'"),
    "is killed": ("os.kill(os.getpid(), 11)", "it was ended by signal SIGSEGV"),
    "closes its output": ("os.close(1); time.sleep(1000)", "it closed its output"),
    "says what is no JSON": ("reply = 'hello'", "the answer is not a JSON object: b'hello'"),
    "says a list": ("reply = '[1]'", "the answer is not a JSON object"),
    "says nothing": ("reply = ''", "the answer is not a JSON object: b''"),
    "says two lines": ("reply += '\\n' + reply", "more than one line came as answer"),
    "babbles without end": ("[os.write(1, b'x' * 65536) for _ in iter(int, 1)]", "the answer is longer than"),
    "leaves a field out": ("reply = '{}'", "the answer has no keys"),
    "sends no array": ("reply = json.dumps({'keys': 5})", "keys is no array of <u4 in base64: 5"),
    "sends no base64": ("reply = json.dumps({'keys': 'é'})", "keys is no array of <u4 in base64"),
    "sends a piece": ("reply = json.dumps({'keys': 'AAAA'})", "keys is no array of <u4 in base64"),
    "sends too little": ("reply = json.dumps({'keys': 'AAAAAA=='})", "keys has 1 entries, and must have 10"),
    "refuses": ("reply = json.dumps({'refused': '1.2', 'message': 'no'})", "refused with rule 1.2: no"),
    "answers differently each time": (
        "reply = json.dumps({'keys': 'AAAAAA=='}) if asked == 3 else reply",
        "not the same at each time of asking",
    ),
}


def script(folder, bad) -> str:
    """An implementation of chapters 2 and 3 by the oracle, without a package, as it is started again after each failure."""
    path = folder / "implementation.py"
    path.write_text(WELL.format(bad=bad, described=DESCRIBED, oracle=arithmetic.__file__))
    return f"{sys.executable} -S {path}"


@pytest.mark.parametrize("how", BAD)
def test_what_does_not_answer_is_reported(tmp_path, how):
    bad, message = BAD[how]
    done, report, seconds = command("--impl", script(tmp_path, bad), "--timeout", 1, "--rule", "2.2", "--rule", "3.1")
    assert done.returncode == 1 and seconds < 60
    found = dict(failed(report))
    assert message in found.pop("keys")  # and the rules after it are still checked
    assert all(name.startswith("boundary[2.1") and message in said for name, said in found.items())
    assert report["rules"]["3.1"] == "passed"
    request = next(check["request"] for check in report["checks"] if check["name"] == "keys")
    assert request == {"request": "keys", "seed": "0"}  # the smallest
    assert json.dumps(request) in done.stderr


HANGS = """
import json, sys, time
from unilora_spec.conformance import answer
print(json.dumps(answer(json.loads(sys.stdin.readline()))), flush=True)
time.sleep(1000)
"""


def test_three_hangs_are_enough(tmp_path):
    path = tmp_path / "implementation.py"
    path.write_text(HANGS)
    rules = [word for rule in ("2.2", "3.1", "3.2", "4.1", "4.5", "6.2") for word in ("--rule", rule)]
    done, report, seconds = command("--impl", f"{sys.executable} {path}", "--timeout", 1, *rules)
    assert done.returncode == 1 and seconds < 60
    assert sum("no answer within" in message for _, message in failed(report)) == 3
    others = {check["message"] for check in report["checks"] if check["outcome"] == "not asked"}
    assert others == {"3 requests before have had no answer in time"} and report["level"] is None


@pytest.mark.parametrize(
    ("arguments", "sentence", "status"),
    [
        (["--impl", "no-such-command"], "does not answer the request describe: no-such-command cannot be started", 1),
        (["--impl", "json"], "does not answer the request describe: it ended with exit status 1", 1),
        (["--impl", "true"], "does not answer the request describe: it ended with exit status 0", 1),
        (["--impl", "'"], "is no command: No closing quotation", 2),
        (["--impl", ""], "is no command", 2),
        (["--impl", "unilora_spec.conformance", "--rule", "99.1"], "--rule 99.1 is no rule of SPEC.md", 2),
        (["--impl", "unilora_spec.conformance", "--examples", "0"], "--examples and --timeout must be above 0", 2),
        (
            ["--impl", "unilora_spec.conformance", "--junit", "no/such/report.xml"],
            "--junit no/such/report.xml: there is no folder",
            2,
        ),
    ],
)
def test_wrong_calls(arguments, sentence, status):
    done, _, _ = command(*arguments)
    assert (
        done.returncode == status
        and sentence in done.stderr.replace("\n", " ")
        and "Traceback (most" not in done.stderr
    )


# The same seed, the same requests


def test_a_run_can_be_repeated(tmp_path, monkeypatch):
    """The same examples and seed ask the same lines, another seed others, where tests run by themselves too."""
    monkeypatch.setenv("CI", "true")
    log = (
        "import sys, subprocess; from unilora_spec.conformance import answer; from unilora_spec.protocol import serve\n"
    )
    log += "out = open(sys.argv[1], 'a')\n"
    log += "serve(lambda request: (out.write(repr(request) + '\\n'), out.flush(), answer(request))[2])\n"
    (tmp_path / "logging.py").write_text("")
    path = tmp_path / "logged.py"
    path.write_text(log)
    calls = {"a": (7, 5), "b": (7, 5), "c": (8, 5), "d": (7, 6)}

    def asked(name):
        seed, examples = calls[name]
        given = ["--seed", seed, "--examples", examples, "--rule", "7.9"]
        command("--impl", f"{sys.executable} {path} {tmp_path / name}", *given)
        return (tmp_path / name).read_text()

    a, b, c, d = map(asked, calls)
    assert a == b and a != c and a != d


def test_the_first_step_of_the_guide(tmp_path):
    """docs/implementing.md shows a program and what is said of it."""
    guide = (ROOT / "docs" / "implementing.md").read_text(encoding="utf-8")
    (tmp_path / "mine.py").write_text(re.search(r"```python\n(.*?)```", guide, re.DOTALL).group(1))
    done, _, _ = command("--impl", f"{sys.executable} {tmp_path / 'mine.py'}")
    assert re.search(r"```\n(rule.*?)```", guide, re.DOTALL).group(1) in done.stderr and done.returncode == 1
