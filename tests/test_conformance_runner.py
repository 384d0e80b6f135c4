"""The conformance runner against implementations that do their worst: it bounds, ends, shows and keeps, and never breaks itself."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conformance_tests import header, hostile, report
from conformance_tests.__main__ import main
from conformance_tests.answers import DEEPEST, MOST, parsed
from conformance_tests.client import WAYS, Failed, GaveUp, Implementation, NotAsked
from conformance_tests.judge import Judge
from conformance_tests.keeping import keep
from conformance_tests.oracle import files
from conformance_tests.processes import LONGEST, REMEMBERED, Command, how
from conformance_tests.rules import KINDS, LEVELS, TOGETHER, Selection, level_of, refusing, spec_rules
from conformance_tests.run import FAILED, Result, Way, checks
from unilora_spec.errors import UniLoraError

ROOT = Path(__file__).parents[1]
DESCRIBED = {"name": "mine", "version": "1", "requests": ["keys", "mix"], "kinds": ["balanced"]}
TINY = """
import base64, json, os, signal, subprocess, sys, time
for line in sys.stdin:
    request = json.loads(line)
    if request["request"] == "describe":
        reply = json.dumps({described!r})
    else:
        reply = json.dumps({{"keys": base64.b64encode(bytes(40)).decode()}})
        {keys}
    print(reply, flush=True)
"""


def command(*arguments, **options):
    """A run of the command on all that is asked with `keys`, where nothing else is said."""
    call = [sys.executable, "-m", "conformance_tests", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **options.pop("environment", {})}
    done = subprocess.run(call, capture_output=True, text=True, env=environment, check=False, timeout=120, **options)
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done


def script(folder, keys="pass", described=DESCRIBED) -> str:
    path = folder / "implementation.py"
    path.write_text(TINY.format(described=described, keys=keys))
    return f"{sys.executable} {path}"


def words(keys="pass", described=DESCRIBED) -> list[str]:
    return [sys.executable, "-c", TINY.format(described=described, keys=keys)]


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
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
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
    runner.communicate(timeout=30)
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


@pytest.mark.parametrize(
    ("status", "said"),
    [(0, "exit status 0"), (255, "exit status 255"), (-11, "signal SIGSEGV"), (-34, "signal SIGRTMIN"), (-40, "signal 40"), (-64, "signal SIGRTMAX")],
)  # fmt: skip
def test_any_end_has_a_sentence(status, said):
    assert how(status).endswith(said)
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


# What it shows


def test_the_header_of_a_file_is_decoded():
    size, text, description, canonical = header.lines(hostile.TINY)
    assert size == "346 bytes: the header has 328 bytes, data begins at byte 336 (0x150) and has 10"
    assert text.startswith('header: {"__metadata__":{"format":"unilora"') and canonical == "canonical"
    assert description == "description in it: " + hostile.description_of(
        hostile.Case("", "", frozenset(), hostile.TINY)
    )
    assert header.lines(hostile.SOUND[1].file)[-1].startswith("sound, but not canonical")
    assert header.lines(b"\x05\0")[0] == "2 bytes, too few for the length of a header: 05 00"
    long = header.lines(b"\xff" * 8 + b"\x1b{\xff")
    assert long[0].endswith(
        "the header has 18446744073709551615 bytes by the first 8 (ff ff ff ff ff ff ff ff), and the file only 3 after them"
    )
    assert long[1] == r"header: \x1b{\xff" and "the reference refuses it" in long[2] and "[SPEC 8.2]" in long[2]


def test_the_header_of_any_file_is_shown():
    """Of each hostile one too: a few lines, each without control characters and of bounded length."""
    for case in (*hostile.CASES, *hostile.SOUND):
        found = header.lines(case.file)
        assert 1 < len(found) <= 4 or len(case.file) < 8
        assert all(line.isprintable() and len(line) < 6000 for line in found), case.name


FAILS = """
import json, sys
from unilora_spec.conformance import answer
for line in sys.stdin:
    request = json.loads(line)
    reply = answer(request)
    if request["request"] in ("permutation", "inverse") and "refused" in reply:
        reply = {"y": "", "x": ""}
    if request["request"] == "read" and request.get("file", "").startswith("/////"):
        reply = {"refused": "9.9", "message": "no"}
    print(json.dumps(reply), flush=True)
"""


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """A run on chapters 1 and 8 with an implementation that refuses no D and gives one file a rule that there is not."""
    folder = tmp_path_factory.mktemp("failing")
    (folder / "mine.py").write_text(FAILS)
    call = f"{sys.executable} {folder / 'mine.py'}"
    selection = ["--rule", "1.1", "--rule", "8.2", "--examples", 2, "--keep", folder / "my kept"]
    done = command("--impl", call, *selection, "--json", folder / "report.json", "--junit", folder / "report.xml")
    return done, json.loads((folder / "report.json").read_text()), folder


def test_passed_chapters_are_a_line_and_failures_stand_in_full(failing):
    done, report, _ = failing
    lines = done.stdout.splitlines()
    rows = {line.split()[0]: line for line in lines[2 : lines.index("", 2)]}
    assert re.fullmatch(r" 7 Layer map +passed +\d+ checks of \d rules", rows["7"]) and "failed" in rows["8"]
    assert "1 failed (of rule 8.2)" in rows["8"] and "1 failed (of rule 1.1)" in rows["1"]
    for check in report["checks"]:
        shown_in_full = f"rule {', '.join(check['rules'])}: {check['says']}" in lines
        assert shown_in_full or check["outcome"] != "failed"
    assert lines[-1].startswith("Read from the top")
    assert report["level"] is None and "Level reached" not in done.stdout  # not all was asked


def test_every_way_in_which_a_check_fails_is_shown(failing):
    """One run shows each D of the table that is accepted, and each of the two requests."""
    done, report, _ = failing
    check = next(check for check in report["checks"] if check["name"] == "limits_of_the_permutation")
    wrong = {(way["request"]["request"], way["request"]["D"]) for way in check["ways"]}
    assert len(check["ways"]) == 5 == len(wrong) and check["further"] == 0
    for way in check["ways"]:
        assert way["message"] == "accepted, but rule 1.1 refuses it" and way["answer"] == '{"y": "", "x": ""}'
        assert json.dumps(way["request"]) in done.stdout


def test_a_request_that_failed_is_a_file_to_ask_again(failing):
    done, report, folder = failing
    ways = [way for check in report["checks"] for way in check["ways"]]
    assert len({way["kept"] for way in ways}) == len(ways) > 5
    for way in ways:
        path = Path(way["kept"])
        assert path.parent == folder / "my kept" / "1" and path.read_bytes().count(b"\n") == 1
        assert json.loads(path.read_text()) == way["request"]
    line = next(line for line in done.stdout.splitlines() if "to ask again: " in line)
    again = subprocess.run(
        line.partition(": ")[2],
        shell=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert json.loads(again.stdout) == {"y": "", "x": ""}


def test_nothing_is_folded_where_there_is_no_terminal(failing):
    """Paths, requests and headers are whole lines, however long, and the file's header stands beside its request."""
    done, _, folder = failing
    assert f"The requests that failed are in {folder / 'my kept' / '1'}, a file each." in done.stdout.splitlines()
    assert "    file: the reference refuses it: " in done.stdout and max(map(len, done.stdout.splitlines())) > 300


def test_a_folder_of_kept_requests_writes_over_nothing(tmp_path):
    mine, kept = tmp_path / "mine", tmp_path / "kept"
    mine.write_text("mine")
    kept.mkdir()
    (kept / "1").symlink_to(mine)
    (kept / "2").symlink_to(tmp_path / "nowhere")
    made = keep(
        [Result("a/../b", ("1.1",), ("keys",), "", ways=[Way("", {"k": "\ud800"}), Way("", {"k": 2})])] * 2, kept
    )
    assert made == kept / "3" and mine.read_text() == "mine" and not (tmp_path / "nowhere").exists()
    assert sorted(path.name for path in made.iterdir()) == ["a-b-2.json", "a-b-3.json", "a-b-4.json", "a-b.json"]
    assert keep([Result("a", ("1.1",), ("keys",), "")], kept) is None and not (kept / "4").exists()


def test_ways_are_bounded():
    """Twenty ways of thirty are kept, the others counted, and the shortest request of each."""
    implementation = Implementation(words("request['seed'] < '2' and sys.exit(3)"))
    judge = Judge(implementation)
    with pytest.raises(Failed):
        judge.each(range(30), lambda k: judge.gives({"keys": [1] * 10}, "keys", seed=str(k)), lambda k: f"case {k}")
    assert len(implementation.ways) == WAYS and len(implementation.further) == 30 - WAYS
    messages = [failure.message for failure in implementation.ways.values()]
    assert messages[0] == "case 0: it ended with exit status 3" and messages[2].startswith("case 2: keys[0] is 0")
    implementation.new_check()
    for seed in ("999", "99", "6", "77"):  # one way, and of it the shortest request
        with pytest.raises(Failed):
            judge.gives({"keys": [1] * 10}, "keys", seed=seed)
    assert [failure.request["seed"] for failure in implementation.ways.values()] == ["6"]
    implementation.close()


def test_a_check_that_was_not_asked_has_not_failed():
    implementation = Implementation(words())
    implementation.hangs = 3
    with pytest.raises(NotAsked):
        implementation.ask("keys", seed="1")
    implementation.close()


def test_rules_that_refuse_together():
    """Either is taken for the requests and kinds with which they do, and for no others."""
    assert refusing({"8.2"}, "write") == {"8.2", "8.10"} and refusing({"8.2"}, "read") == {"8.2"}
    assert refusing({"10.3"}, "merge") == {"7.4", "10.3"} and refusing({"7.4"}, "read") == {"7.4"}
    assert refusing({"11.1"}, "expand", "vera") == {"11.1", "11.6"} and refusing({"11.6"}, "read", "tied") == {"11.6"}
    for one, other, where, why in TOGETHER:
        assert {one, other} <= set(spec_rules()) and where in {*KINDS, *sum(LEVELS.values(), ())} and why
    layers = [{"name": "w", "out": 2, "in": 3, "rank": 1}]
    vera = {"kind": "vera", "seed": "1", "d": 9, "D": 5, "layers": layers}
    described = DESCRIBED | {"requests": ["expand", "read"], "kinds": ["balanced", "vera"]}
    judge = Judge(Implementation(words('reply = \'{"refused": "11.6", "message": ""}\'', described)))
    judge.refuses("11.1", "expand", projection=vera, theta=[1.0], start=0, stop=5)
    file = files.write(hostile.TEXT | {"projection": {k: vera[k] for k in ("kind", "seed", "d", "D")}}, hostile.TENSORS)
    judge.refuses("11.1", "read", file=file)
    with pytest.raises(Failed, match=r"^refused with rule 11.6, but it is 11.1 that refuses it$"):
        judge.refuses("11.1", "expand", projection=vera | {"kind": "balanced"}, theta=[1.0], start=0, stop=5)
    judge.implementation.close()


# What is asked


def test_list_needs_no_implementation():
    done = command("--list", "--chapter", 4, "--chapter", 3)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[0].split() == ["3.1,", "3.2", "projection", "mix:", *lines[0].split()[4:]]
    assert len(lines) == 11 and all(line.startswith(("3.", "4.")) for line in lines)


def test_selections():
    some = checks(Selection(frozenset(["2.2"]), frozenset(["9"]), "projection"))
    assert {level_of(check.needs) for check in some} == {"projection"}
    assert all("2.2" in check.rules or any(rule.startswith("9.") for rule in check.rules) for check in some)
    counts = {level: len(checks(Selection(level=level))) for level in LEVELS}
    assert 0 < counts["projection"] < counts["file"] < counts["full"] == len(checks())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--list", "--chapter", "12"],
            "--chapter 12 is no chapter of SPEC.md; give one of 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11",
        ),
        ([], 'give --impl "COMMAND", or --list to see what is checked'),
        (["--impl", "true", "--timeout", "nan"], "--timeout must be above 0"),
        (["--impl", "true", "--timeout", "inf"], "--timeout at most 86400"),
        (["--impl", "true", "--keep", __file__], "is no folder; give one, or the name of a new one"),
    ],
)
def test_wrong_calls(monkeypatch, arguments, sentence):
    monkeypatch.setattr(sys, "argv", ["conformance_tests", *arguments])
    with pytest.raises(UniLoraError, match=re.escape(sentence)):
        main()


def test_a_call_that_leaves_no_check():
    done = command("--list", "--rule", "8.11")
    assert done.returncode == 2 and "rule 8.11 has none: how a file comes onto a disk is not visible" in done.stderr


def test_the_width_follows_the_terminal():
    """Sentences are folded between words where there is one, what is to be copied never."""
    way = Way("a sentence of several words", {"request": "keys", "seed": "1" * 90}, kept="/a folder/" + "x" * 90)
    result = Result("name", ("1.1",), ("keys",), "many words " * 10, FAILED, ways=[way])
    for width in (None, 60):
        lines = report.failures([result], "./mine", width)
        assert (len(lines) == 5) == (width is None)
        assert f'  {{"request": "keys", "seed": "{"1" * 90}"}}' in lines
        assert f"    to ask again: ./mine < '/a folder/{'x' * 90}'" in lines
        assert width is None or all(len(line) <= width for line in lines[: len(lines) - 4])
