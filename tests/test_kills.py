"""The short form of `make kills`, of what needs no torch: a few kills by chance, and one after each rename. Training has its own in
test_nothing_lost.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the kills are of copies of a process")
def test_what_is_killed_leaves_old_or_new_or_nothing():
    call = [sys.executable, ROOT / "tests/kills.py", "--kills", "2", "--json"]
    call += [f"--only={name}" for name in ("export onnx, data beside", "export onnx, factored", "merge", "gguf")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, check=False, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert not any(row.get("broken") for row in rows.values())
    assert all(row["again"] == row["again and clean"] for row in rows.values())
    # Those after a rename were there too: beside the two by chance, one after the last rename at least, and two within the set.
    assert all(row["kills"] > 2 and row["new"] >= 1 for row in rows.values())
    assert rows["export onnx, factored"]["mixed, and refused"] >= 2
