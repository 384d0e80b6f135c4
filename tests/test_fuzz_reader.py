"""The fuzzer of the reader: a short run of it, and that each of its checks can fail."""

import os
import subprocess
import sys
import time
from pathlib import Path

import fuzz_reader
import numpy as np
import pytest
from adapter_files import DATA, same
from test_spec_text import TINY

from unilora_spec import Adapter, FileError
from unilora_spec.serialization import decode

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux counts its memory")


def test_a_short_run():
    call = [sys.executable, ROOT / "tests/fuzz_reader.py", "--inputs", "1000", "--seed", "5"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, check=False, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("1,000 inputs of seed 5") and ", 0 findings; " in last
    assert int(last.partition("second): ")[2].split(" accepted")[0]) > 30  # the mutations leave enough of a file sound
    for rule in ("7.2", "7.6", "7.8", "8.2", "8.3", "8.4", "8.5", "8.6", "8.8"):
        assert f"refused by {rule}" in done.stdout


def test_the_same_seed_gives_the_same_inputs():
    code = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1]); import fuzz_reader; c = fuzz_reader.Corpus(3);"
        "print(hashlib.sha256(b''.join(c[i] for i in range(800))).hexdigest())"
    )
    found = set()
    for hashed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hashed, "PYTHONPATH": str(ROOT)}
        found.add(subprocess.check_output([sys.executable, "-c", code, ROOT / "tests"], env=environment))
    assert len(found) == 1


def raising(error):
    def read(data):
        raise error

    return read


def sleeping(data):
    time.sleep(0.2)
    return decode(data)


def endless(data):
    while True:
        pass


def allocating(data):
    bytearray(60 * 2**20)
    return decode(data)


def allocating_by_numpy(data):
    np.ones(60 * 2**17)
    raise FileError("no", "8.2")


def unlike(data):
    """Another θ than a writer can store."""
    return Adapter(TINY.projection, TINY.layer_map, np.array([1, 2**-149 / 3], np.float64))


@pytest.mark.parametrize(
    ("read", "finding"),
    [
        (raising(KeyError("theta")), "KeyError: 'theta'"),
        (raising(RecursionError("deep")), "RecursionError: deep"),
        (raising(FileError("no reason")), "a refusal without a rule"),
        (raising(FileError("x" * 3000, "8.2")), "of 3011 characters"),
        (sleeping, "the reading took 0.2 seconds; 0.1 is the most"),
        (endless, "no end after 0.3 seconds"),
        (allocating, "took 60.0 MiB of memory"),
        (allocating_by_numpy, "took 60.0 MiB of memory"),
        (raising(MemoryError()), "MemoryError"),
        (
            lambda data: Adapter(TINY.projection, TINY.layer_map, np.full(2, np.nan)),
            "accepted cannot be written: theta",
        ),
        (unlike, "accepted reads back as another adapter"),
    ],
)
def test_each_check_can_fail(read, finding, monkeypatch):
    if read is sleeping:
        monkeypatch.setattr(fuzz_reader, "MOST_SECONDS", 0.1)
    monkeypatch.setattr(fuzz_reader, "HANG", 0.3)
    with pytest.raises(fuzz_reader.Finding) as found:
        fuzz_reader.Checker(read).check(DATA)
    assert finding in str(found.value)


def test_an_input_that_is_sound_passes():
    checker = fuzz_reader.Checker()
    assert checker.check(DATA) == "accepted" and checker.check(DATA[:-1]) == "8.2"
    assert checker.grown < 2**23 and checker.seconds < 1
    same(decode(DATA), TINY)


def test_the_command_says_what_it_found_and_how_to_see_it_again(tmp_path, monkeypatch, capsys):
    path = tmp_path / "input"
    path.write_bytes(DATA)
    assert fuzz_reader.main(["--file", str(path)]) == 0 and "accepted" in capsys.readouterr().out
    monkeypatch.setattr(fuzz_reader, "MOST_TEXT", 10)
    path.write_bytes(DATA[:-1])
    assert fuzz_reader.main(["--file", str(path)]) == 1 and "a refusal" in capsys.readouterr().out
    total = fuzz_reader.Result(1, findings=[(0, "a fault")])
    monkeypatch.setattr(fuzz_reader, "FOLDER", tmp_path / "found")
    fuzz_reader._report(total, 5, 1.0, fuzz_reader.Console())
    assert (tmp_path / "found/input-5-0").read_bytes() == fuzz_reader.Corpus(5)[0]
    assert "1 findings" in capsys.readouterr().out
