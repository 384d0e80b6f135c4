"""The conformance runner against implementations that do their worst: it bounds, ends and takes all, and never breaks itself."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from implementations import DESCRIBED, ROOT, command, script, words

from conformance_tests.answers import DEEPEST, MOST, parsed
from conformance_tests.client import Failed, GaveUp, Implementation
from conformance_tests.judge import Judge
from conformance_tests.processes import LONGEST, REMEMBERED, Command, how_ended


def asked(keys, described=DESCRIBED, timeout=20):
    """What the client says of an implementation that answers ``keys`` so."""
    implementation = Implementation(words(keys, described), timeout)
    try:
        with pytest.raises((Failed, GaveUp)) as caught:
            implementation.ask("keys", seed="1")
    finally:
        implementation.close()
    return getattr(caught.value, "failure", caught.value).message


# What it keeps of an implementation


def test_standard_error_is_bounded_and_its_end_is_shown():
    """64 MiB of it: as much as is remembered stays, and the last line is told."""
    flood = "[os.write(2, b'e' * 65536) for _ in range(1024)]; os.write(2, b'\\nthe last words'); sys.exit(3)"
    process = Command([sys.executable, "-c", f"import os, sys; sys.stdin.readline(); {flood}"])
    with pytest.raises(Exception, match=r"exit status 3: e+ … \(\d+ characters\) / the last words$"):
        process.exchange(b"{}", 60)
    assert len(process._said) <= REMEMBERED
    process.close()


def test_standard_error_that_never_ends_is_a_hang():
    assert asked("[os.write(2, b'e' * 65536) for _ in iter(int, 1)]", timeout=2) == "no answer within 2 seconds"


def test_an_answer_has_a_longest_line(monkeypatch):
    monkeypatch.setattr("conformance_tests.processes.LONGEST", 2**20)
    assert "the answer is longer than" in asked("[os.write(1, b'x' * 65536) for _ in iter(int, 1)]")
    assert LONGEST == 64 * 2**20 and "an answer 64" in (ROOT / "conformance_tests" / "PROTOCOL.md").read_text()


# What it ends

LEAVES = {
    "a child": "subprocess.Popen(['sleep', '1000'])",
    "a session of its own": "subprocess.Popen(['sleep', '1000'], start_new_session=True)",
    "a daemon": "os.fork() or (os.setsid(), os.fork() and os._exit(0), [os.close(n) for n in range(3)], time.sleep(1000))",
    "one that takes no signals and no environment": "subprocess.Popen(['env', '-i', 'setsid', 'sh', '-c', 'trap : TERM INT HUP; sleep 1000; :'])",
    "many": "[os.fork() or os.setsid() or time.sleep(1000) for _ in range(50)]",
}  # fmt: skip


def within(folder) -> list[int]:
    """The processes whose working directory this is, which all that is started inherits."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found += [int(entry.name)] * (os.readlink(entry / "cwd") == str(folder))
        except OSError:  # ended meanwhile, or ended and not waited for
            pass
    return found


linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have the process group alone")


@linux
@pytest.mark.parametrize("leaves", LEAVES)
def test_nothing_that_it_started_is_left(tmp_path, leaves):
    """After a hang, after an end of its own, and after an answer."""
    for end in ("time.sleep(1000)", "sys.exit(3)", "pass"):
        implementation = Implementation(words(f"os.chdir({str(tmp_path)!r}); {LEAVES[leaves]}; {end}"), 1)
        try:
            implementation.ask("keys", seed="1")
            assert end == "pass" and len(within(tmp_path)) > 1
        except (Failed, GaveUp):
            assert end != "pass"
        implementation.close()
        assert not within(tmp_path)


@linux
def test_what_is_not_its_own_is_left_alone(tmp_path):
    """A process that the same runner has started by itself, in the same folder and session."""
    other = subprocess.Popen(["sleep", "1000"], cwd=tmp_path)
    implementation = Implementation(words(f"os.chdir({str(tmp_path)!r}); {LEAVES['a daemon']}"))
    implementation.ask("keys", seed="1")
    implementation.close()
    assert within(tmp_path) == [other.pid]
    other.kill()
    other.wait()


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_runner_that_is_stopped_leaves_nothing(tmp_path, number):
    """Also one that is killed, so that it can do nothing more."""
    folder = tmp_path / "folder"
    folder.mkdir()
    keys = f"os.chdir({str(folder)!r}); {LEAVES['a daemon']}; time.sleep(1000)"
    call = [sys.executable, "-m", "conformance_tests", "--impl", script(tmp_path, keys), "--rule", "2.2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    runner = subprocess.Popen(call, env=environment, stderr=subprocess.PIPE, preexec_fn=hears_ctrl_c)  # noqa: PLW1509  no threads here
    wait_for(lambda: len(within(folder)) > 1)
    runner.send_signal(number)
    _, errors = runner.communicate(timeout=30)
    assert number == signal.SIGKILL or (runner.returncode == 1 and b"error: stopped" in errors and not within(folder))
    wait_for(lambda: not within(folder))


def hears_ctrl_c():
    """A shell starts what runs in its background with SIGINT ignored, and that is handed down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(something, seconds=30):
    end = time.monotonic() + seconds
    while not something():
        assert time.monotonic() < end
        time.sleep(0.02)


# What it takes


def test_a_command_that_cannot_be_started():
    for call, said in (
        (["no/such"], "No such file or directory"),
        ([sys.executable, "x" * 2**22], "Argument list too long"),
    ):
        with pytest.raises(Failed, match=f"^{call[0]} cannot be started: {said}$"):
            Implementation(call)


@pytest.mark.parametrize(
    ("status", "said"),
    [(0, "exit status 0"), (255, "exit status 255"), (-11, "signal SIGSEGV"), (-34, "signal SIGRTMIN"), (-40, "signal 40"), (-64, "signal SIGRTMAX")],
)  # fmt: skip
def test_any_end_has_a_sentence(status, said):
    assert how_ended(status).endswith(said)
    end = (
        f"signal.pthread_sigmask(signal.SIG_SETMASK, []); os.kill(os.getpid(), {-status})"
        if status < 0
        else f"sys.exit({status})"
    )
    assert said in asked(end)


ANSWERS = {
    "100,000 lists in each other": (b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}", "nests lists and objects deeper than 16"),
    "100,000 objects in each other": (b'{"a":' * 10**5, "nests lists and objects deeper than 16"),
    "lists behind a text that ends with a backslash": (b'{"a":"\\\\"' + b"[" * 10**5, "nests lists and objects deeper than 16"),
    "millions of values": (b'{"a":[' + b"[]," * 2 * 10**6 + b"[]]}", "more than 1048576 values"),
    "quotes without end": (b'{"a' + b'\\"' * 10**6, "the answer is not a JSON object (Unterminated string"),
    "1e400": (b'{"a":1e400}', "the number 1e400, beyond float64"),
    "-1e400": (b'{"a":[-1e400]}', "the number -1e400, beyond float64"),
    "a number of 5000 digits": (b'{"a":' + b"1" * 5000 + b"}", "a number of 5000 characters, more than 32"),
    "a long fraction": (b'{"a":1.' + b"1" * 5000 + b"}", "a number of 5002 characters, more than 32"),
    "NaN": (b'{"a":NaN}', "the answer has NaN, which is not JSON"),
    "-Infinity": (b'{"a":-Infinity}', "the answer has -Infinity, which is not JSON"),
    "a key twice": (b'{"a":1,"a":1}', "the answer has the key a twice in one object"),
    "a key twice, once escaped": (b'{"b":{"a":1,"\\u0061":1}}', "the answer has the key a twice in one object"),
    "a long key twice": (b'{"' + b"k" * 10**5 + b'":1,"' + b"k" * 10**5 + b'":1}', "… (100000 characters) twice in one object"),
    "no UTF-8": (b'{"a":"\xff"}', "the answer is not UTF-8 at byte 6"),
    "a surrogate in UTF-8": (b'{"a":"\xed\xa0\x80"}', "the answer is not UTF-8 at byte 6"),
    "UTF-16": ('{"a":1}'.encode("utf-16"), "the answer is not a JSON object"),
    "a byte order mark": (b'\xef\xbb\xbf{"a":1}', "the answer is not a JSON object"),
    "a NUL": (b'{"a":"\0"}', "the answer is not a JSON object (Invalid control character"),
    "NULs": (b"\0" * 10**6, "the answer is not a JSON object"),
    "a list": (b'[{"a":1}]', "the answer is not a JSON object"),
    "two objects": (b"{}{}", "the answer is not a JSON object (Extra data"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_is_none(name):
    line, said = ANSWERS[name]
    begin = time.process_time()
    with pytest.raises(ValueError, match=re.escape(said)):
        parsed(line)
    assert time.process_time() - begin < 2  # milliseconds are usual; what is tried twice takes hours


def test_an_answer_at_the_limits():
    deep = b'{"a":' + b"[" * (DEEPEST - 1) + b"]" * (DEEPEST - 1) + b"}"
    many = b'{"a":[' + b"1," * (MOST - 3) + b"1]}"
    text = json.dumps({"a": '[{"\\\ud800' * 1000}).encode()
    for line in (deep, many, text, b' {"a":1e-400,"b":-0,"c":' + b"1" * 32 + b"} "):
        assert parsed(line)["a"] is not None


def test_an_answer_is_asked_through_a_process():
    """A nesting that would end the runner is a failed request, and the implementation is asked on."""
    assert "deeper than 16" in asked("reply = '{\"keys\":' + '[' * 10**5")
    assert asked("os.write(1, b'\\xff\\n'); continue") == r"the answer is not a JSON object: b'\xff'"


NAMES = {
    "all that steers": (
        "[bold]x[/nothing] \x1b]8;;file:///\x07\n\r\x9b31m\ud800\u202eabc\u2028θ",
        r"[bold]x[/nothing] \x1b]8;;file:///\x07\n\r\x9b31m\ud800\u202eabc\u2028\u03b8",
    ),
    "a megabyte": ("x" * 2**20, "x" * 80 + r" \u2026 (1048576 characters)"),
    "nothing": ("", ""),
}


@pytest.mark.parametrize("name", NAMES)
def test_any_name(tmp_path, name):
    """It is one line of what is printed, in a terminal of ASCII too, and whole in the report."""
    given, said = NAMES[name]
    described = DESCRIBED | {"name": given, "version": given, "kinds": ["balanced", given], "requests": ["keys", given]}
    path = tmp_path / "report.json"
    implementation = script(
        tmp_path,
        "reply = json.dumps({'refused': request['seed'] and '\\x1b[1m\\ud800', 'message': ['[red]']})",
        described,
    )
    call = ["--impl", implementation, "--rule", "2.2", "--json", path, "--examples", 2]
    done = command(*call, environment={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 1 and done.stdout.splitlines()[0] == f"{said} {said} against SPEC.md, version 1"
    assert "refused with rule \\x1b[1m\\ud800: ['[red]']" in done.stdout and "\x1b" not in done.stdout
    assert json.loads(path.read_text())["implementation"]["name"] == given


@pytest.mark.parametrize(
    "change", [{"name": 5}, {"name": None}, {"version": ["1"]}, {"requests": [["keys"]]}, {"requests": {}}, {"kinds": [1]}, {"kinds": None}]
)  # fmt: skip
def test_a_description_that_is_none(tmp_path, change):
    done = command("--impl", script(tmp_path, described=DESCRIBED | change))
    (field,) = change
    assert done.returncode == 1 and done.stderr.endswith(f"the answer has no {field} as PROTOCOL.md asks for\n")


def judged(reply, ask, requests=("keys", "mix", "permutation", "read", "merge", "adjoint")):
    """What a judge says of an implementation that gives this reply to all but describe."""
    keys = f"reply = json.dumps({reply!r})"
    implementation = Implementation(words(keys, DESCRIBED | {"requests": list(requests)}))
    try:
        with pytest.raises(Failed) as caught:
            ask(Judge(implementation))
    finally:
        implementation.close()
    return caught.value.message


@pytest.mark.parametrize("value", [None, True, 5, [], {}, [[]], "é", "\ud800", "AAA", ["AAAA"]])
@pytest.mark.parametrize("request_", ["permutation", "read", "merge"])
def test_fields_of_other_types(value, request_):
    field = {"permutation": "y", "read": "tensors", "merge": "weights"}[request_]
    inner = {"theta": value} if request_ != "permutation" and value != {} else value
    judged({field: inner}, lambda judge: judge.array(field, 3, request_))
    judged({}, lambda judge: judge.ask(request_)[field])
