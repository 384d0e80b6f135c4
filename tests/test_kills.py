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
    call += [f"--only={name}" for name in ("export onnx, data beside", "export onnx, factored", "merge")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, check=False, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert not any(row.get("broken") for row in rows.values())
    assert all(row["again"] == row["again and clean"] for row in rows.values())
    # The kills after each rename were there: of the graph's data, of what lies beside it, and then of the graph.
    beside, factored, merge = rows.values()
    assert (beside["kills"], factored["kills"], merge["kills"]) == (4, 5, 3)
    assert beside["new"] >= 1 and factored["new"] >= 1 and merge["new"] >= 1
    assert factored["mixed, and refused"] == 2
