"""Models that are trained already, and their files."""

import csv
import json

import pytest
from runs import (  # noqa: F401  fixtures
    base,
    gpt2,
    one_thread,
    own_cache,
    sentence,
)
from typer.testing import CliRunner

from backends.settings import TrainSettings
from backends.torch.__main__ import app
from backends.torch.training.train import train
from unilora_spec import UniLoraError

SMALL = {"rank": 2, "batch_size": 16, "max_length": 16}


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A folder with rows: reviews to train on and other ones, numbers, and sums whose answers are a word."""
    folder = tmp_path_factory.mktemp("after")
    rows = [(text, ("neg", "pos")[label]) for text, label in map(sentence, range(220))]
    for name, part in (("reviews", rows[:160]), ("test", rows[160:])):
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *map(",".join, part)]) + "\n")
    (folder / "numbers.csv").write_text("\n".join(["text,label", *(f"{t},{len(t) / 10}" for t, _ in rows[:60])]) + "\n")
    sums = [{"prompt": f"{a}+{b}=", "completion": "odd" if a % 2 else "even"} for a in range(8) for b in range(8)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
    return folder


def trained(work, base, name, **settings):
    """The file of a tiny adapter and the report of its training."""
    output = work / f"{name}.safetensors"
    return output, train(TrainSettings(**{"base": base, "output": output, **settings}))


@pytest.fixture(scope="session")
def classifier(work, base):
    settings = {"data": work / "reviews.csv", "dim": 100, "epochs": 5, "lr": 0.05, "head_lr": 0.02, "warmup": 0}
    return trained(work, base, "reviews", **SMALL, **settings)


@pytest.fixture(scope="session")
def sums(work, gpt2):
    settings = {
        "data": work / "sums.jsonl",
        "task": "causal-lm",
        "targets": "all-linear",
        "kind": "identity",
        "lr": 0.01,
    }
    return trained(work, gpt2, "sums", rank=8, batch_size=16, epochs=5, seed=1, **settings)


def called(*arguments, **options):
    """Exit status and standard output of a command."""
    options = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return CliRunner().invoke(app, [*map(str, arguments), *options])


def refused(call, *arguments, error=UniLoraError, **settings):
    with pytest.raises(error) as caught:
        call(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
