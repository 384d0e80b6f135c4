"""Checkpoints of a trainer: the record and the state of a run that goes on, and a state that becomes an adapter."""

import io
import pickle
import zipfile

import safetensors.torch
import torch

from .door import DEEP, LONG, Door, Seed, pipe, text
from .small_base import BASE, TRAIN, WEIGHT

RECORD = {
    "projection": {"kind": "balanced", "seed": "0", "d": 4, "D": 128}, "alpha": 2, "scaling": "lora", "trained": [],
    "layers": [{"name": WEIGHT, "in": 32, "out": 32, "rank": 2}],
}  # fmt: skip


def _state(record=RECORD, form="safetensors", **more) -> bytes:
    said = record if isinstance(record, bytes) else text(record)
    state = {
        "unilora_theta": torch.ones(4),
        "unilora_record": torch.frombuffer(bytearray(said), dtype=torch.uint8),
        **more,
    }
    if form == "safetensors":
        return safetensors.torch.save(state)
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def _unfolding() -> bytes:
    """A state of torch's whose entries are compressed: a gigabyte of zeros in a megabyte."""
    file, state = io.BytesIO(), io.BytesIO(_state(form="pt", more=torch.zeros(2**22)))
    with zipfile.ZipFile(state) as plain, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in plain.infolist():
            archive.writestr(entry.filename, plain.read(entry))
    return file.getvalue()


STATES = {
    "safetensors": {
        "sound": Seed(_state(), None),
        "a header of 70 MB": LONG,
        "a record that nests": Seed(_state(b"[" * 10**5), "nested deeper"),
        "a record of a megabyte": Seed(_state(b" " * 2**20), "and is up to"),
        "a layer map of 2^40 segments": Seed(
            _state(RECORD | {"layers": [RECORD["layers"][0] | {"name": "x.{i}.w", "layers": [0, 2**40]}]}), ""
        ),
        "a kind without its tensor": Seed(
            _state(RECORD | {"projection": RECORD["projection"] | {"kind": "table"}}), "which kind table needs"
        ),
        "a pipe": Seed(pipe, "no such file"),
    },
    "pt": {
        "sound": Seed(_state(form="pt"), None),
        "that unfolds": Seed(_unfolding(), "its entries are compressed"),
        "a program": Seed(pickle.dumps(print), "no file of torch's"),
        "a pipe": Seed(pipe, "no such file"),
    },
}

DOORS = [
    Door(
        "record of a checkpoint",
        (*TRAIN, "--data", "rows.csv", "--resume"),
        "out.checkpoints/checkpoint-1/whole.json",
        BASE | {"rows.csv": b"text,label\na,1\nb,0\n", "out.checkpoints/checkpoint-1/trainer_state.json": b"{}"},
        {name: Seed(seed.content, "") for name, seed in DEEP.items()},  # a checkpoint that is not whole is passed over
    ),
    Door(
        "state of a run",
        (*TRAIN, "--data", "rows.csv", "--resume"),
        "out.checkpoints/checkpoint-1/trainer_state.json",
        BASE | {"rows.csv": b"text,label\na,1\nb,0\n"},
        {name: Seed(seed.content, "") for name, seed in DEEP.items()},
    ),
    *(
        Door(
            f"state of a checkpoint, {form}",
            ("backends.torch", "adapter", "--checkpoint", f"model.{form}", "-o", "out.safetensors"),
            f"model.{form}",
            {},
            seeds,
        )
        for form, seeds in STATES.items()
    ),
]
