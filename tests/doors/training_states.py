"""The state that a training in ONNX Runtime goes on from."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.numpy
from fuzz_mutations import packed

from backends.runs.state import FIELD, State, save_state

from .door import LONG, Door, Seed, pipe
from .step_graphs import BAG, BAG_FILES, STEP_FILES, STEP_TRAIN

RUN = {"batch_size": 4, "rows": 16, "seed": "0", "steps": 2}


def _run_state(said=None, run=RUN, step=1, **tensors) -> bytes:
    """A state of a training of the bag; ``said`` goes in the place of its record."""
    with tempfile.TemporaryDirectory() as folder:
        save_state(replace(State.of(BAG), step=step), BAG, run, path := Path(folder, "run.state"))
        content = path.read_bytes()
    if said is None and not tensors:
        return content
    stored = safetensors.numpy.load(content) | tensors
    (record,) = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"].values()
    return safetensors.numpy.save(stored, {FIELD: record if said is None else said})


RUN_STATES = {
    "sound": Seed(_run_state(), None),
    "of another run": Seed(_run_state(run=RUN | {"rows": 7}), "is of a run with rows 7"),
    "behind the end": Seed(_run_state(step=2**60), ""),
    "before the start": Seed(_run_state(step=-1), "step -1"),
    "a record that nests": Seed(_run_state("[" * 10**5), "holds no state of a training"),
    "a record of a list": Seed(_run_state("[]"), "holds no state of a training"),
    "an adapter that is a list": Seed(
        _run_state('{"adapter":[],"run":[],"step":1,"version":"1"}'), "of another adapter"
    ),
    "a theta of another length": Seed(_run_state(theta=np.zeros(3, np.float32)), "has no values of theta"),
    "a mean that is no number": Seed(_run_state(**{"exp_avg.theta": np.full(16, np.nan, np.float32)}), "holds NaN"),
    "more than a state": Seed(_run_state(more=np.zeros(3, np.float32)), "which is no part of a state"),
    "a header of 70 MB": LONG,
    "a header that nests": Seed(packed(b'{"a":' * 10**5), "nested deeper"),
    "a pipe": Seed(pipe, "no such file"),
}

DOORS = [
    Door(
        "state of a training",
        ("backends.onnx", "train", *STEP_FILES, *STEP_TRAIN, "--from-state", "run.state"),
        "run.state",
        BAG_FILES,
        RUN_STATES,
    ),
]
