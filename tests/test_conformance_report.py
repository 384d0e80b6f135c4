"""What the conformance runner says: failures in full, requests to ask again, what is asked and what is not."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from implementations import DESCRIBED, ROOT, command, words

from conformance_tests import header, hostile, report
from conformance_tests.__main__ import main
from conformance_tests.client import WAYS, Failed, Implementation, NotAsked
from conformance_tests.failed_requests import write_requests
from conformance_tests.judge import Judge
from conformance_tests.oracle import files
from conformance_tests.rules import KINDS, LEVELS, TOGETHER, Selection, level_of, refusing, spec_rules
from conformance_tests.run import FAILED, Result, Way, checks
from unilora_spec.errors import UniLoraError

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
    assert re.search(r"\d failed \(of rule", rows["8"]) and re.search(r"\d failed \(of rule", rows["1"])
    for check in report["checks"]:
        shown_in_full = f"rule {', '.join(check['rules'])}: {check['says']}" in lines
        assert shown_in_full or check["outcome"] != "failed"
    assert lines[-1].startswith("Read from the top")
    assert report["level"] is None and "Level reached" not in done.stdout  # not all was asked


def test_every_way_in_which_a_check_fails_is_shown(failing):
    """One run shows each D of the table that is accepted."""
    done, report, _ = failing
    found = [
        check for check in report["checks"] if any(way["request"]["request"] == "permutation" for way in check["ways"])
    ]
    check = max(found, key=lambda check: len(check["ways"]))
    assert (
        len({json.dumps(way["request"]) for way in check["ways"]}) == len(check["ways"]) > 2 and check["further"] == 0
    )
    for way in check["ways"]:
        assert "rule" in way["message"] and way["answer"] == '{"y": "", "x": ""}'
        assert json.dumps(way["request"]) in done.stdout


def test_a_request_that_failed_is_a_file_to_ask_again(failing):
    done, report, folder = failing
    ways = [way for check in report["checks"] for way in check["ways"]]
    assert len({way["kept"] for way in ways}) == len(ways) > 5
    for way in ways:
        path = Path(way["kept"])
        assert path.parent == folder / "my kept" / "1" and path.read_bytes().count(b"\n") == 1
        assert json.loads(path.read_text()) == way["request"]
    kept = next(way["kept"] for way in ways if way["request"]["request"] == "permutation")
    line = next(line for line in done.stdout.splitlines() if "to ask again: " in line and kept in line)
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
    made = write_requests(
        [Result("a/../b", ("1.1",), ("keys",), "", ways=[Way("", {"k": "\ud800"}), Way("", {"k": 2})])] * 2, kept
    )
    assert made == kept / "3" and mine.read_text() == "mine" and not (tmp_path / "nowhere").exists()
    assert sorted(path.name for path in made.iterdir()) == ["a-b-2.json", "a-b-3.json", "a-b-4.json", "a-b.json"]
    assert write_requests([Result("a", ("1.1",), ("keys",), "")], kept) is None and not (kept / "4").exists()
    assert write_requests([Result("a", ("1.1",), ("keys",), "", ways=[Way("", {})])], kept) == kept / "4"


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
    assert len(lines) == len(checks(Selection(chapters=frozenset("34")))) and all(
        re.search(r"\b[34]\.\d", line) for line in lines
    )


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
