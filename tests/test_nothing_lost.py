"""What a kill leaves, or Ctrl-C: a file wholly old or wholly new (SPEC 8.11), and a run that goes on as if nothing had been."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import as_options, base, reviews, small  # noqa: F401  all but the first are fixtures
from warmed import module, warmed

ROOT = Path(__file__).parents[1]

# Kills 200 processes and more that save without end, each a copy of this one, so that no time goes into starting them.
SAVING = """
import json, os, random, signal, sys, time
from pathlib import Path
import numpy as np
from unilora_spec import Adapter, LayerMap, Projection, Segment, save_adapter
from unilora_spec.serialization import encode

def adapter(d):
    layer_map = LayerMap([Segment("w", 1000, 1000, 100)])
    return Adapter(Projection(D=layer_map.D, d=d, seed=d), layer_map, np.full(d, 1 / d, np.float32))

folder = Path(sys.argv[1])
path, adapters = folder / "vec.safetensors", [adapter(60_000), adapter(200_000)]
contents = [encode(adapter) for adapter in adapters]
save_adapter(adapters[0], path)
moments, found, litter = random.Random(0), [], []

def often_enough():  # on a busy machine few children come as far as the second save
    return len(found) >= 200 and min(found.count(0), found.count(1), sum(map(bool, litter))) >= 20

while not often_enough() and len(found) < 2000:
    child = os.fork()
    if not child:
        while True:
            for adapter in adapters:
                save_adapter(adapter, path)
    time.sleep(moments.uniform(0.002, 0.02))
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    found.append(contents.index(path.read_bytes()) if path.read_bytes() in contents else -1)
    litter.append(len(list(folder.iterdir())) - 1)
    if moments.random() < 0.5:  # at times several kills come before a save that succeeds
        number = len(found) % 2
        save_adapter(adapters[number], path)
        assert path.read_bytes() == contents[number]
        assert list(folder.iterdir()) == [path], "what a kill left is still there"
print(json.dumps([found, litter]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the kills are of copies of a process")
def test_a_killed_save_leaves_the_old_file_or_the_new_one(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-c", SAVING, tmp_path]
    done = subprocess.run(call, check=False, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found, litter = json.loads(done.stdout)
    assert len(found) >= 200 and found.count(-1) == 0  # neither the one nor the other
    # The kills did fall into writes, and between them: both files were found, and half-written ones beside them.
    assert min(found.count(0), found.count(1)) >= 20
    assert 20 <= sum(count > 0 for count in litter)
    assert max(litter) == 1  # the next save clears, even one that is killed in its turn


# Training

# `python -m backends.torch` with the batch of each step written down and its checkpoints kept at the end; where a number
# is given, it kills itself after so many files of checkpoints, the state of the optimizer among them.
TRAINING = """
import hashlib, os, runpy, signal, sys
import datasets, torch
from backends.torch.training import checkpoints, trainer

datasets.config.HF_DATASETS_CACHE = os.environ["HF_DATASETS_CACHE"]  # which it has read already
log, files = open(sys.argv.pop(1), "a", buffering=1), int(sys.argv.pop(1))
step, save = trainer._Trainer.training_step, torch.save

def training_step(self, model, inputs, *rest):
    rows = hashlib.sha256(b"".join(piece["input_ids"].numpy().tobytes() for piece in inputs)).hexdigest()[:16]
    log.write(f"{self.state.global_step} {rows}\\n")
    return step(self, model, inputs, *rest)

def saving(*arguments, **options):
    global files
    save(*arguments, **options)
    files -= 1
    if files == 0:
        os.kill(os.getpid(), signal.SIGKILL)

trainer._Trainer.training_step, torch.save = training_step, saving
checkpoints.Checkpoints.clear = lambda self: None
runpy.run_module("backends.torch", run_name="__main__")
"""
IMPORTS = (
    "import datasets, backends.torch.commands.training, backends.torch.training.train, backends.torch.training.trainer"
)
STEPS, EVERY = 72, 12


@pytest.fixture
def start(base, reviews, tmp_path):
    """Starts a run into a folder of its own: the process, and the path of its log."""

    def started(name, log, *options, files=0):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        settings = {"base": base, "data": reviews, "output": folder / "vec.safetensors", "rank": 2, "dim": 100}
        settings |= {"batch_size": 16, "max_length": 16, "epochs": STEPS // 9, "eval_steps": EVERY}
        call = [folder / log, files, "train", *as_options(settings), *options]
        environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
        return warmed(IMPORTS, HF_HUB_OFFLINE="1").start(TRAINING, *call, env=environment), folder / log

    return started


def seen(log):
    """{step: what its batch held} of one process, in the order of its steps."""
    lines = [line.split() for line in log.read_text().splitlines() if line.count(" ") == 1]
    return {int(step): rows for step, rows in lines}


def ended(process):
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors


def test_a_run_killed_twice_ends_as_one_that_never_was(start, tmp_path):
    moments = random.Random(0)
    process, log = start("whole", "log")
    ended(process)
    whole = seen(log)
    assert list(whole) == list(range(STEPS)) and len(set(whole.values())) == STEPS  # no batch comes twice
    vector = tmp_path / "killed/vec.safetensors"
    folder = vector.with_suffix(".checkpoints")

    # Killed at any moment between the first checkpoint and the end.
    process, log = start("killed", "first")
    last = moments.randint(EVERY + 1, STEPS // 2)
    while process.poll() is None and not (log.exists() and len(seen(log)) > last):
        time.sleep(0.001)
    time.sleep(moments.uniform(0, 0.02))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not vector.exists()
    first = seen(log)
    assert last < len(first) < STEPS and first.items() <= whole.items()

    # Resumed, and killed within its second checkpoint, of which some files are there.
    process, log = start("killed", "second", "--resume", files=moments.randint(4, 6))
    process.communicate(timeout=200)
    assert process.returncode == -signal.SIGKILL and not vector.exists()
    second = seen(log)
    begin = min(second)
    assert 0 < begin <= len(first) and begin % EVERY == 0 and len(second) == 2 * EVERY
    assert second.items() <= whole.items()
    half = folder / f"checkpoint-{begin + 2 * EVERY}"
    assert (half / "optimizer.pt").exists() and not (half / "trainer_state.json").exists()

    # Resumed from the checkpoint before, to the end.
    process, log = start("killed", "third", "--resume")
    ended(process)
    third = seen(log)
    assert list(third) == list(range(begin + EVERY, STEPS)) and third.items() <= whole.items()
    assert vector.read_bytes() == (tmp_path / "whole/vec.safetensors").read_bytes()
    ends = [tmp_path / name / f"vec.checkpoints/checkpoint-{STEPS}" for name in ("whole", "killed")]
    assert len({(end / "model.safetensors").read_bytes() for end in ends}) == 1
    for file in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        a, b = (torch.load(end / file, weights_only=False) for end in ends)
        assert a and bits(a) == bits(b), file
    assert {"exp_avg", "exp_avg_sq", "step"} <= set(torch.load(ends[0] / "optimizer.pt")["state"][0])


def test_ctrl_c_says_how_to_resume_and_the_sentence_is_right(small):
    """The call that a stopped run prints, run as printed, ends in the file of a run that nobody stopped."""
    small |= {"epochs": 10, "eval_steps": 10}
    program, code = warmed(IMPORTS, HF_HUB_OFFLINE="1"), module("backends.torch")
    process = program.start(code, "train", *as_options(small))
    folder = small["output"].with_suffix(".checkpoints")
    while not list(folder.glob("checkpoint-*/trainer_state.json")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1 and "Traceback" not in errors
    sentence = errors.splitlines()[-1]
    assert sentence.startswith("error: stopped at step") and not small["output"].exists()
    again = shlex.split(sentence.partition("; to go on: ")[2])
    assert again[:3] == ["python", "-m", "backends.torch"]
    ended(program.start(code, *again[3:]))
    resumed = small["output"].read_bytes()
    small["output"].unlink()
    ended(program.start(code, "train", *as_options(small)))
    assert small["output"].read_bytes() == resumed


def bits(value):
    """A value in which equal means: the same bits."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    return value
