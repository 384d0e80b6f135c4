"""The doors: what each seed of doors/ ends in, and that the attack sees what it looks for; what is shown of a stranger's text."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import attack
import pytest
from rich.console import Console

from unilora_spec import UniLoraError
from unilora_spec.base_model import read_config
from unilora_spec.canonical_json import decode
from unilora_spec.command import printable
from unilora_spec.documents import check_json, read_json
from unilora_spec.nesting import Nesting, nesting
from unilora_spec.patterns import matches

ROOT = Path(__file__).parents[1]
LINUX = pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux counts its memory")


@LINUX
def test_every_seed_of_every_door_ends_in_one_sentence(tmp_path):
    call = [sys.executable, ROOT / "tests/attack.py", "--inputs", "0", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, check=False, env=environment, capture_output=True, text=True, timeout=290, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(done.stdout)
    assert len({row["door"] for row in rows}) == len(rows) > 25
    assert all(row["tried"] == row["refused"] + row["accepted"] > 0 for row in rows)
    assert sum(row["accepted"] for row in rows) >= 8  # a door that refuses all would pass as well


@pytest.mark.parametrize(
    ("status", "errors", "how"),
    [
        (0, "", "accepted"),
        (2, "error: no\n", "refused"),
        (1, "warning: so\nerror: no\n", "refused"),
        (1, "error: unexpected KeyError: 'd' (--debug shows where)\n", "FINDING: status 1"),
        (70, "traceback: KeyError('d')\n", "FINDING: status 70"),
        (-11, "", "FINDING: status -11"),
        (1, "error: no\nerror: all fine\n", "FINDING: status 1"),
        (1, "error: no\nmore of it\n", "FINDING: more than a sentence"),
    ],
)
def test_what_the_attack_looks_for(status, errors, how):
    assert attack._judged(status, errors).startswith(how)


# JSON, before it is parsed


def depth(text: str) -> int:
    return nesting(text.encode()).deepest


def test_nesting():
    assert depth("[[],[[]]]") == 3 and depth('{"a":{"b":[]}}') == 3
    assert depth(r'["[[[\"[[[", "\\", [1]]') == 2  # brackets in strings, an escaped quote and an escaped escape
    assert (
        depth("]]]][[") == 2 and depth('"[[[\n[[') == 2
    )  # what is malformed: closed before it was opened, a string without an end
    found = nesting(b'{"a": [1, 2], "b": {}}')
    assert found.values >= 7 and found.opened == 3  # four values in three lists and objects, and two keys


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_nesting_in_pieces(size):
    text = rb'["[\\\"[", {"\\": [[]]}, "\\\\", [[[1]]]]' * 3
    found = Nesting()
    for at in range(0, len(text), size):
        found.feed(text[at : at + size])
    whole = nesting(text)
    assert (found.deepest, found.values, found.opened) == (whole.deepest, whole.values, whole.opened) == (4, 34, 21)


def test_json_files(tmp_path):
    path = tmp_path / "a.json"
    for content, words in (
        (b"[" * 65, "nested deeper than 64"),
        (b"[" + b"1," * 300_000 + b"1]", "300,002 values"),
        (b" " * (2**22 + 1), "such a file has at most 4,194,304"),
    ):
        path.write_bytes(content)
        for read in (read_json, check_json):
            with pytest.raises(UniLoraError, match=words):
                read(path)
    path.write_bytes(b"[1]")
    with pytest.raises(UniLoraError, match="holds no JSON object"):
        read_json(path)
    path.write_text('{"a": ' + "[" * 60 + "]" * 60 + "}")
    assert list(read_json(path)) == ["a"]
    with pytest.raises(UniLoraError, match="2,097,152 is the limit"):
        decode(b"[" + b"1," * 2**21 + b"1]")


@pytest.mark.parametrize(
    ("name", "most"),
    [("num_hidden_layers", 400), ("depths", 400), ("max_position_embeddings", 2**25), ("vocab_size", 2**31)],
)
def test_numbers_of_a_configuration(tmp_path, name, most):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"text_config": {name: [most]}}))
    read_config(path)
    path.write_text(json.dumps({"text_config": {name: [1, most + 1]}}))
    with pytest.raises(UniLoraError, match=rf"{name}' is {most + 1}; no model has more than {most:,}"):
        read_config(path)


# Patterns


def test_patterns_are_those_of_re():
    names = ["h.0.query", "h.10.key", "query", "a\nb"]
    for expressions in ([r".*\.(\d+)\.(query|key)", "query|h.0.query"], ["query"], [r"(?s).*", r"(?P<a>.)\.?.*"]):
        for how in ("match", "fullmatch"):
            found = matches(expressions, names, how)
            for expression, row in zip(expressions, found, strict=True):
                expected = (getattr(re.compile(expression), how)(name) for name in names)
                assert row == [match and [match[0], *match.groups()] for match in expected]
    assert matches([], names) == []


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("(a+)+$", r"'\(a\+\)\+\$' takes too long to match 2 names"),
        ("(", "'\\(' is no regular expression: missing"),
        ("(?:" * 600, "has 1,800 characters|no regular expression|takes too long"),
        ("x*" * 2000, "has 4,000 characters; give one of at most 2000"),
    ],
)
def test_patterns_that_are_refused(expression, words):
    with pytest.raises(UniLoraError, match=words):
        matches(["sound.*", expression], ["a" * 60 + "b", "x"])


# One line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe ΔW · 𝔸", "größe ΔW · 𝔸"),
        ("a\nerror: b\r\x1b[2J\t", r"a\nerror: b\r\x1b[2J\t"),
        ("a\u202eb\u200bc\u2028d\ufeff", r"a\u202eb\u200bc\u2028d\ufeff"),
        ("a\ufe0fb\u3164c\u2800", r"a\ufe0fb\u3164c\u2800"),
        ("\udcff\U000e0041", r"\udcff\U000e0041"),
    ],
)
def test_text_is_shown_as_one_line(text, shown):
    assert printable(text) == shown


def test_a_plan_shows_markup_as_it_is(monkeypatch):
    from backends.torch import planning

    name = "[bold]x[/bold] :smile:\n[link=file:///etc]"
    base = {"class": name, "parameters": 1, "dtype": "float32", "bytes": 4}
    size = {
        "P": {"computed": 0, "cached": 1, "PEFT": 2},
        "theta_D": 1,
        "gradient of theta_D": 1,
        "file": 1,
        "optimizer": 1,
    }
    ranks = {"planner": "x", "budget": 2, "targets": [{"target": name, "rank": 2}]}
    report = {
        "base": base,
        "bytes": size,
        "segments": 1,
        "D": 9,
        "d": 2,
        "kind": "balanced",
        "layers": [{"name": name}],
        "ranks": ranks,
    }
    out = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **options: Console(file=out, width=200, **options))
    planning.show(report)
    assert out.getvalue().count(r"[bold]x[/bold] :smile:\n[link=file:///etc]") == 3


def test_a_terminal_of_any_encoding():
    program = "from unilora_spec.command import run\ndef main():\n    print('ΔW ×', flush=True)\n    raise ValueError('größe \\n𝔸')\nrun(main)"
    for encoding, said in (("ascii", rb"\u0394W \xd7"), ("latin-1", b"\\u0394W \xd7"), ("utf-8", "ΔW ×".encode())):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, env=environment)
        assert done.returncode == 1 and done.stdout == said + b"\n" and done.stderr.count(b"\n") == 1


def test_a_plan_of_a_small_model_shows_figures_of_some_d(tmp_path, capsys):
    from backends.settings import AdapterSettings
    from backends.torch.planning import planned, show

    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 20,
    }
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **sizes}))
    for kind, expected in (("balanced", [1, 10, 100]), ("chain", [10, 100]), ("nonuniform", [10])):
        report = planned(AdapterSettings(base=str(tmp_path), targets="query", kind=kind))
        assert [choice["d"] for choice in report["choices"]] == expected
    show(planned(AdapterSettings(base=str(tmp_path), targets="query")))
    assert "d = 100" in capsys.readouterr().out
