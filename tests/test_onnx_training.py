"""Training in ONNX Runtime, on a graph that is written by hand: steps, the optimizer, states, the command."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from bag_of_reviews import folder, refusal, small  # noqa: F401  fixtures
from bag_of_words import adapter_for
from runs import (  # noqa: F401  fixtures
    base,
    gpt2,
    own_cache,
    reviews,
)

from backends.onnx.evaluation import evaluate
from backends.onnx.optimizer import AdamW, clipped, share_of_rate
from backends.onnx.settings import EvaluateSettings, TrainSettings
from backends.onnx.training import train
from backends.runs.ending import Diverged, Stopped
from backends.runs.state import State, load_state, save_state
from backends.settings.options import SCHEDULES
from unilora_spec import UniLoraError, load_adapter


def losses(settings) -> list[float]:
    found = []
    train(settings, on_step=lambda step, loss: found.append(loss))
    return found


def stopping_at(number):
    """Sends SIGTERM to this process behind a step, as a user or a machine that is shut down does."""
    return lambda step, loss: os.kill(os.getpid(), signal.SIGTERM) if step == number else None


# A run


def test_a_run_learns_and_two_runs_give_the_same_bytes(small):
    report = train(TrainSettings(**small | {"epochs": 8}))
    assert report["after"]["accuracy"] > 0.9 > report["before"]["accuracy"]
    assert set(report["after"]) == {"loss", "accuracy", "macro_f1", "matthews"}
    once = small["output"].read_bytes()
    train(TrainSettings(**small | {"epochs": 8}))
    assert small["output"].read_bytes() == once
    assert not small["output"].with_suffix(".checkpoints").exists()
    found = evaluate(
        EvaluateSettings(graph=small["graph"], adapter=small["output"], data=small["data"], holdout=0.1, max_length=16)
    )
    # The metrics of the training, up to the order in which the losses are summed; the rows are in other batches.
    assert found["metrics"] == pytest.approx(report["after"], rel=1e-6)
    assert found["mistakes"]["wrong"] == round((1 - found["metrics"]["accuracy"]) * found["rows"]["used"])


WITHOUT = '''
import sys

class Without:
    """Finds modules, but for some that are not there."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        there = name.partition(".")[0] not in ("torch", "transformers", "onnx", "export")
        return self.finder.find_spec(name, path, target) if there else None

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
import backends.onnx
from backends.onnx import EvaluateSettings, TrainSettings
graph, data, output = sys.argv[1:]
print(backends.onnx.train(TrainSettings(graph=graph, data=data, output=output, lr=0.05))["steps"])
backends.onnx.evaluate(EvaluateSettings(graph=graph, data=data, adapter=output))
import backends.onnx.__main__
there = sorted({name.split(".")[0] for name in sys.modules})
assert not {"torch", "transformers", "onnx", "export"} & set(there), there
'''


def test_no_torch_and_no_transformers_are_there(small):
    call = [sys.executable, "-c", WITHOUT, *(str(small[name]) for name in ("graph", "data", "output"))]
    done = subprocess.run(call, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "5", done.stderr


def test_the_import_takes_less_than_half_a_second():
    """Of processor time, the best of three: others may be at work on this machine."""
    program = "import time; start = time.process_time(); import backends.onnx; print(time.process_time() - start)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True).stdout)
        for _ in range(3)
    ]
    assert min(seconds) < 0.5


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(small):
    train(TrainSettings(**small))
    whole, checkpoints = small["output"].read_bytes(), small["output"].with_suffix(".checkpoints")
    small["output"].unlink()
    for step in (4, 9, 20):  # within an epoch, at the end of one, and once more
        with pytest.raises(Stopped, match=f"stopped at step {step} of 27"):
            train(TrainSettings(**small, resume=step > 4), on_step=stopping_at(step))
        assert not small["output"].exists()
    assert "give --resume to go on or --overwrite" in refusal(**small)
    assert "--lr is 0.1, but the interrupted run had 0.05" in refusal(**small | {"lr": 0.1, "resume": True})
    train(TrainSettings(**small, resume=True))
    assert small["output"].read_bytes() == whole and not checkpoints.exists()


def test_early_stop_keeps_the_best(small, tmp_path):
    report = train(TrainSettings(**small | {"epochs": 20, "lr": 0, "head_lr": 0, "patience": 2}))
    assert report["steps"] == 27  # the first evaluation is the best; two more without a better one
    noise = tmp_path / "noise.csv"  # labels that cannot be learned: the loss of rows held out rises
    noise.write_text("text,label\n" + "".join(f"film {7 * n % 97} plot {n},{n * n % 11 % 2}\n" for n in range(120)))
    small |= {"data": noise, "epochs": 12, "eval_steps": 3, "metric": "loss"}
    last, best = train(TrainSettings(**small)), train(TrainSettings(**small, patience=40))
    assert last["steps"] == best["steps"] and best["after"]["loss"] < last["after"]["loss"]
    found = evaluate(
        EvaluateSettings(graph=small["graph"], adapter=small["output"], data=small["data"], holdout=0.1, max_length=16)
    )
    assert found["metrics"]["loss"] == pytest.approx(best["after"]["loss"], rel=1e-6)  # as above


def test_a_micro_batch_changes_what_is_in_the_model_at_once_and_nothing_else(small):
    whole, parts = losses(TrainSettings(**small)), losses(TrainSettings(**small, micro_batch=5))
    assert whole == pytest.approx(parts, rel=1e-5)  # sums of float32 in another order, over 27 steps


def test_a_loss_that_is_no_number_ends_the_run(small):
    said = refusal(Diverged, **small | {"lr": 1e38, "warmup": 0})
    assert "the loss is nan at step" in said and "a lower --lr or --head-lr" in said


# The optimizer


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adamw_is_that_of_torch(decay):
    numbers = np.random.default_rng(0)
    adapter = adapter_for(50, "b")
    state = State.of(adapter)
    rates = {"theta": (1e-2, decay), "saved.classifier.weight": (2e-3, 0.0), "saved.classifier.bias": (2e-3, decay)}
    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in state.values.items()}
    torchs = torch.optim.AdamW(
        [{"params": [theirs[name]], "lr": rate, "weight_decay": decay} for name, (rate, decay) in rates.items()]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(torchs, lambda step: share_of_rate("linear", step, 50, 0.1))
    own = AdamW(state, rates)
    for step in range(50):
        gradients = {
            n: numbers.normal(size=v.shape).astype(np.float32) * 10.0 ** (step % 5 - 2) for n, v in state.values.items()
        }
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(gradients[name])
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        torchs.step()
        own.step(clipped(gradients, 1.0), share_of_rate("linear", step, 50, 0.1))
        schedule.step()
    for name, parameter in theirs.items():
        # 50 steps of 1e-2 at most, each rounded to float32 two or three times: 50 · 3 · 6e-8 of values around 0.5.
        np.testing.assert_allclose(state.values[name], parameter.detach().numpy(), rtol=0, atol=5e-6)
        for moment in ("exp_avg", "exp_avg_sq"):
            np.testing.assert_allclose(
                getattr(state, moment)[name], torchs.state[parameter][moment], rtol=1e-4, atol=1e-7
            )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("steps", "warmup"), [(53, 0.06), (7, 0.0), (100, 0.5)])
def test_schedules_are_those_of_transformers(schedule, steps, warmup):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    rising = transformers.TrainingArguments(warmup_steps=warmup).get_warmup_steps(steps)
    theirs = transformers.get_scheduler(schedule, optimizer, rising, steps)
    for step in range(steps):
        assert share_of_rate(schedule, step, steps, warmup) == pytest.approx(
            optimizer.param_groups[0]["lr"], rel=1e-12, abs=1e-15
        )
        optimizer.step()
        theirs.step()


# States


def test_a_state_goes_on_to_the_same_bytes_and_is_refused_elsewhere(small, folder, tmp_path):
    train(TrainSettings(**small))
    whole, state = small["output"].read_bytes(), tmp_path / "run.state"
    with pytest.raises(Stopped):
        train(TrainSettings(**small, state=state), on_step=stopping_at(11))
    written = state.read_bytes()
    small |= {"output": tmp_path / "on.safetensors", "from_state": state}
    assert len(losses(TrainSettings(**small))) == 27 - 11
    assert small["output"].read_bytes() == whole and state.read_bytes() == written
    small["output"].unlink()
    assert "is of a run with seed '0', and this run has '1'; give the same --seed" in refusal(**small, seed=1)
    assert "with steps 27, and this run has 18; give the same --epochs" in refusal(**small | {"epochs": 2})
    state.write_bytes(folder.joinpath("step.safetensors").read_bytes())
    assert "holds no state of a training" in refusal(**small)
    state.write_bytes(written[:-4])
    assert "[SPEC 8.2]" in refusal(**small)
    adapter, run = load_adapter(folder / "step.safetensors"), {"steps": 1}
    save_state(State.of(adapter), replace(adapter, base=replace(adapter.base, contents="2" * 32)), run, state)
    with pytest.raises(UniLoraError, match="of another adapter.s training: its base differs"):
        load_state(state, adapter, run)
    broken = State.of(adapter)
    broken.exp_avg["theta"][3] = np.nan
    save_state(broken, adapter, run, state)
    with pytest.raises(UniLoraError, match="exp_avg of theta holds NaN"):
        load_state(state, adapter, run)


# The command


def test_the_command_is_stopped_and_goes_on_as_it_says(small, tmp_path):
    call = [sys.executable, "-m", "backends.onnx", "train"]
    for name, value in small.items():
        call += [f"--{name.replace('_', '-')}", str(value)]
    shown = subprocess.run([*call, "--json"], check=False, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    report = json.loads(shown.stdout)
    assert report["steps"] == 27 and report["bytes"] == small["output"].stat().st_size
    assert (
        "160 rows" not in shown.stdout
        and "held-out accuracy" in shown.stderr
        and "by default: --seed 0" in shown.stderr
    )
    wrong = subprocess.run(
        [*call, "--graph", "none.onnx", "--adapter", str(small["graph"].with_suffix(".safetensors"))],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (
        wrong.returncode == 2
        and wrong.stderr.count("\n") <= 2
        and "error: none.onnx: there is no such file" in wrong.stderr
    )
