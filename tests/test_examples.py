"""What the two examples refuse that the conformance tests do not ask: patterns that people copy keep these promises too."""

import base64
import json
import shlex
import shutil
import subprocess

import pytest
from test_conformance import EXAMPLES, compiled

from conformance_tests import hostile

DESCRIPTION = {"request": "write", "description": hostile.TEXT}
HOSTILE = "2\n\x1b[31m\u202e\x00" + "é" * 5000


@pytest.fixture(scope="module", params=["c", "javascript"])
def ask(request, tmp_path_factory):
    """The answers of one of the examples to a list of requests."""
    if request.param == "c":
        folder = tmp_path_factory.mktemp("example")
        shutil.copy(EXAMPLES / "unilora.c", folder)
        command = compiled(folder)
    elif shutil.which("node"):
        command = f"node {shlex.quote(str(EXAMPLES / 'unilora.mjs'))}"
    else:
        pytest.skip("the JavaScript example needs node")

    def answers(requests):
        lines = "".join(json.dumps(fields) + "\n" for fields in requests)
        done = subprocess.run(shlex.split(command), input=lines, capture_output=True, text=True, check=True, timeout=60)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return answers


def reading(text: dict) -> dict:
    """The request to read the tiny file with ``text`` in place of its metadata's fields of these names."""
    return {"request": "read", "file": base64.b64encode(hostile.metadata(**text)).decode()}


def test_a_rule_refuses_and_not_the_protocol(ask):
    """Of a kind without tensors of its own, one of dtype I32 is refused by its dtype, before its values are looked for."""
    index = {"dtype": "I32", "shape": [1], "index": base64.b64encode(bytes(8)).decode()}
    (answer,) = ask([DESCRIPTION | {"tensors": {"index": index}}])
    assert answer["refused"] in ("8.2", "8.3")


def test_a_seed_that_is_too_long_and_no_number(ask):
    """2^64 and more is refused by 1.2 only where all of it is a number."""
    answers = ask([{"request": "keys", "seed": seed} for seed in (f"{2**64}", f"{2**64}0", f"{2**64}0x")])
    assert [answer["refused"] for answer in answers] == ["1.2", "1.2", "8.6"]


def test_a_strangers_text_is_one_short_line(ask):
    """Whatever a file says for its version, its kind, or a name, a message shows as a line of a terminal."""
    kind = hostile.TEXT | {"projection": hostile.TEXT["projection"] | {"kind": HOSTILE}}
    twice = hostile.TEXT | {"layers": [hostile.TEXT["layers"][0] | {"name": HOSTILE[:200]}] * 2}
    tensor = {HOSTILE: {"dtype": "F32", "shape": [0], "values": ""}}
    requests = [
        reading({"version": HOSTILE}),
        reading({"unilora": json.dumps(kind)}),
        reading({"unilora": json.dumps(twice | {"projection": kind["projection"] | {"kind": "balanced", "D": 10}})}),
        DESCRIPTION | {"tensors": tensor},
    ]
    for rules, answer in zip(("8.4", "9.1", "7.6", "8.3"), ask(requests), strict=True):
        assert answer["refused"] == rules and answer["message"].isascii() and answer["message"].isprintable()
        assert len(answer["message"]) < 1000  # 100 characters of six each, and a sentence
