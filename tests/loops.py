"""Small bases that the loop trains."""

import json

import pytest
import torch
from runs import base, gpt2, own_cache, sentence  # noqa: F401  fixtures

import unilora_spec
from backends.settings import TrainSettings
from backends.torch.training.train import train


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Questions and answers of some lengths, so that a mean over texts is none over tokens."""
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    rows = [{"prompt": sentence(n)[0][: 5 + n % 7], "completion": " good" * (1 + n % 3 * 2)} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def language(gpt2, questions, tmp_path):
    run = {"base": gpt2, "data": questions, "task": "causal-lm", "output": tmp_path / "vec.safetensors", "dropout": 0}
    return run | {"rank": 2, "dim": 100, "batch_size": 16, "max_length": 40, "targets": "c_attn", "holdout": 0.2}


def theta_of(run):
    report = train(TrainSettings(**run, overwrite=True))
    return torch.from_numpy(unilora_spec.load_adapter(run["output"]).theta), report
