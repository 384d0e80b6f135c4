"""Training on bases of fewer bits: quantized_training.py in a process of its own, which sees torchao."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TORCHAO = ROOT / "build/torchao"


@pytest.mark.skipif(not TORCHAO.exists(), reason="make build/torchao has not put torchao into a folder of its own")
def test_bases_of_fewer_bits(tmp_path):
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", TORCHAO)))
    options = ["-p", "no:cacheprovider", "--basetemp", str(tmp_path / "own"), "-W", "ignore"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "tests/quantized_training.py"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    assert "." in done.stdout.splitlines()[0], "all are skipped"
