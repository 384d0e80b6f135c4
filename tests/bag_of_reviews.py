"""A graph of a step that is written by hand, and rows for it."""

import json
import shutil
from pathlib import Path

import pytest
from bag_of_words import adapter_for, write_graph
from runs import base, own_cache, reviews  # noqa: F401  fixtures

from backends.onnx.settings import TrainSettings
from backends.onnx.training import train
from unilora_spec import UniLoraError, save_adapter


@pytest.fixture(scope="session")
def folder(base, tmp_path_factory):
    """A base's folder without a weight, and a graph with the adapter that it was made of."""
    work = tmp_path_factory.mktemp("step")
    shutil.copytree(base, work / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    words = json.loads((base / "config.json").read_text())["vocab_size"]
    adapter = adapter_for(words, str(work / "base"))
    save_adapter(adapter, work / "step.safetensors")
    write_graph(work / "step.onnx", adapter)
    return work


@pytest.fixture
def small(folder, reviews, tmp_path):
    """Settings of a run of half a second."""
    run = {
        "graph": folder / "step.onnx",
        "data": reviews,
        "output": tmp_path / "vec.safetensors",
        "lr": 0.05,
        "epochs": 3,
    }
    return run | {"batch_size": 16, "max_length": 16, "threads": 1}


def refusal(error_type=UniLoraError, **settings):
    with pytest.raises(error_type) as caught:
        train(TrainSettings(**settings))
    assert "\n" not in str(caught.value) and not Path(settings["output"]).exists()
    return str(caught.value)
