"""Implementations of a few lines, good in all but what a test says, and runs of the conformance tests on them."""

import os
import sys
from pathlib import Path

from warmed import module as run_of
from warmed import warmed

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


IMPORTS = "import hypothesis.strategies, rich.progress; import conformance_tests.run, conformance_tests.report, conformance_tests.strategies; import conformance_tests.boundaries, conformance_tests.hostile"


def started(*arguments, module="conformance_tests", **options):
    """A run of the command, to its end."""
    return warmed(IMPORTS).run(run_of(module), *arguments, **options)


def command(*arguments, **options):
    """A run of the command on all that is asked with `keys`, where nothing else is said."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **options.pop("environment", {})}
    done = started(*arguments, env=environment, timeout=120, **options)
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done


def script(folder, keys="pass", described=DESCRIBED) -> str:
    path = folder / "implementation.py"
    path.write_text(TINY.format(described=described, keys=keys))
    return f"{sys.executable} {path}"


def words(keys="pass", described=DESCRIBED) -> list[str]:
    return [sys.executable, "-c", TINY.format(described=described, keys=keys)]
