"""The same training in PyTorch and, by the graph that is exported for it, in ONNX Runtime: the same losses, the same file but for rounding,
and a training that begins in one and goes on in the other."""

import json
import os
import signal

import numpy as np
import pytest
import transformers
from runs import (  # noqa: F401  fixtures
    WORDS,
    bert,
    gpt2,
    one_thread,
    own_cache,
    sentence,
)

from backends import onnx
from backends.onnx.training import train as train_onnx
from backends.runs.ending import Stopped
from backends.settings import EvaluateSettings, StartSettings, TrainSettings
from backends.torch.training import train as module
from backends.torch.training import trainer
from backends.torch.training.start import start
from backends.torch.training.train import train as train_torch
from backends.torch.using.evaluation import evaluate as evaluate_torch
from export.__main__ import app
from unilora_spec import load_adapter

STEPS = 20


def rows(task, number):
    text, label = sentence(number)
    if task == "token-classification":
        words = text.split()
        return {"tokens": words, "tags": ["B-X" if len(word) > 3 else "O" for word in words]}
    if task == "causal-lm":
        return {"prompt": f"{number % 13}+{number % 7}=", "completion": "odd" if number % 2 else "even"}
    return {"text": text, "label": ("bad", "good")[label]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A BERT of one layer without a head, and its tokenizer."""
    return bert(tmp_path_factory.mktemp("bert"), WORDS, num_hidden_layers=1, intermediate_size=32)


@pytest.fixture(scope="module")
def decoder(gpt2, tmp_path_factory):
    """A GPT-2 of one layer, and its tokenizer."""
    folder = tmp_path_factory.mktemp("decoder")
    transformers.AutoTokenizer.from_pretrained(gpt2).save_pretrained(folder)
    transformers.AutoModelForCausalLM.from_pretrained(gpt2, n_layer=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def begun(base, decoder, tmp_path_factory):
    """Of a task the settings that both trainings have in common, the base, and the graph."""
    made = {}

    def of(task):
        if task not in made:
            made[task] = _begun(task, decoder if task == "causal-lm" else base, tmp_path_factory.mktemp("begun"))
        return made[task]

    return of


def _begun(task, base, folder):
    lines = [json.dumps(rows(task, number)) for number in range(120)]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    common = {"data": str(folder / "rows.jsonl"), "batch_size": 16, "max_length": 24, "seed": 3}
    adapter = {"base": str(base), "task": task, "rank": 2, "dim": 100}
    start(StartSettings(**common, **adapter, output=folder / "start.safetensors"))
    call = [
        "onnx",
        "--mode",
        "step",
        "--adapter",
        folder / "start.safetensors",
        "--base",
        base,
        "-o",
        folder / "step.onnx",
    ]
    app(list(map(str, call)), standalone_mode=False)
    common |= {"max_steps": STEPS, "lr": 0.05, "head_lr": 5e-3, "weight_decay": 0.01, "eval_steps": 10}
    return common, adapter, folder


def in_torch(common, adapter, output, stop=None, **options):
    """The losses of the steps in PyTorch, without dropout; up to ``stop`` where it is given."""
    found, step = [], trainer._Trainer.training_step

    def recorded(self, *arguments, **named):
        loss = step(self, *arguments, **named)
        found.append(float(loss))
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer._Trainer, "training_step", recorded)
        settings = TrainSettings(**common, **adapter, **options, dropout=0, card=False, output=output)
        if not stop:
            return found, train_torch(settings)
        with pytest.raises(Stopped):
            patch.setattr(module, "Interruption", _stopping(module.Interruption, stop))
            train_torch(settings)
    return found, None


def _stopping(interruption, stop):
    class AfterStep(interruption):
        def on_step_end(self, args, state, control, **named):
            self.asked = state.global_step == stop
            super().on_step_end(args, state, control, **named)

    return AfterStep


def in_onnx(common, folder, output, **options):
    found = []
    settings = onnx.TrainSettings(
        **common, graph=folder / "step.onnx", adapter=folder / "start.safetensors", output=output, threads=1, **options
    )
    report = train_onnx(settings, on_step=lambda step, loss: found.append(loss))
    return found, report


@pytest.mark.parametrize(
    "task", ["classification", pytest.param("token-classification", marks=pytest.mark.thorough), "causal-lm"]
)
def test_both_have_the_same_losses_and_the_same_file_but_for_rounding(task, begun, tmp_path):
    common, adapter, folder = begun(task)
    torchs, theirs = in_torch(common, adapter, tmp_path / "torch.safetensors")
    onnxs, own = in_onnx(common, folder, tmp_path / "onnx.safetensors")
    assert len(onnxs) == len(torchs) == STEPS and onnxs[-1] < 0.95 * onnxs[0]
    # A loss is rounded to 6e-8 of itself, and a step's rounding goes on to the next: 1e-5 is what 20 steps may make of it.
    np.testing.assert_allclose(onnxs, torchs, rtol=1e-5, atol=1e-5)
    for when in ("before", "after"):
        assert own[when] == pytest.approx(theirs[when], rel=1e-4, abs=1e-4)
    first, second = (load_adapter(tmp_path / f"{name}.safetensors") for name in ("torch", "onnx"))
    assert (first.projection, first.layer_map, first.base) == (second.projection, second.layer_map, second.base)
    assert sorted(first.saved) == sorted(second.saved)
    # Adam divides by the gradient's size, so that a gradient near 0 may step otherwise: by 2e-3 of the 20 steps of 0.05 that θ has made.
    np.testing.assert_allclose(second.theta, first.theta, rtol=0, atol=2e-3)
    if task != "classification":
        return
    found = onnx.evaluate(
        onnx.EvaluateSettings(
            graph=folder / "step.onnx",
            adapter=tmp_path / "torch.safetensors",
            data=common["data"],
            max_length=24,
            threads=1,
        )
    )
    beside = evaluate_torch(
        EvaluateSettings(adapter=tmp_path / "torch.safetensors", data=common["data"], max_length=24)
    )
    assert found["metrics"] == pytest.approx(
        beside["metrics"], rel=1e-5, abs=1e-6
    )  # losses of the same values, to their rounding


@pytest.mark.parametrize("task", ["classification", pytest.param("causal-lm", marks=pytest.mark.thorough)])
def test_a_training_begun_in_one_goes_on_in_the_other(task, begun, tmp_path):
    common, adapter, folder = begun(task)
    whole, _ = in_torch(common, adapter, tmp_path / "whole.safetensors")
    state = tmp_path / "run.state"
    begins, _ = in_torch(common, adapter, tmp_path / "first.safetensors", stop=8, state=state)
    assert begins == whole[:8]
    ends, report = in_onnx(
        common, folder, tmp_path / "second.safetensors", from_state=state, state=tmp_path / "end.state"
    )
    assert report["steps"] == STEPS and len(ends) == STEPS - 8
    np.testing.assert_allclose(ends, whole[8:], rtol=1e-5, atol=1e-5)  # as above
    with pytest.raises(Stopped):
        in_onnx_until(13, common, folder, tmp_path / "third.safetensors", state)
    back, _ = in_torch(common, adapter, tmp_path / "fourth.safetensors", from_state=state)
    np.testing.assert_allclose(back, whole[13:], rtol=1e-5, atol=1e-5)


def in_onnx_until(stop, common, folder, output, state):
    settings = onnx.TrainSettings(
        **common,
        graph=folder / "step.onnx",
        adapter=folder / "start.safetensors",
        output=output,
        threads=1,
        state=state,
    )
    train_onnx(settings, on_step=lambda step, loss: os.kill(os.getpid(), signal.SIGINT) if step == stop else None)
