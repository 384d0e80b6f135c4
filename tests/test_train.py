"""Training: runs by the function, and the command."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from runs import base, command, gpt2, one_thread, own_cache, refusal, reviews, sentence, small  # noqa: F401  fixtures

import unilora_spec
from backends.rows.order import LikeLengths
from backends.settings import StartSettings, TrainSettings
from backends.torch import attach
from backends.torch.tasks import rows_and_task
from backends.torch.training import train as module
from backends.torch.training.checkpoints import Checkpoints
from backends.torch.training.start import start
from backends.torch.training.train import train
from unilora_spec import UniLoraError, WorkFailed

# Runs, by the function


def test_a_run_learns_and_two_runs_give_the_same_bytes(small, tmp_path):
    small |= {"epochs": 3, "lr": 0.05, "head_lr": 0.02, "warmup": 0}
    report = train(TrainSettings(**small))
    assert report["after"]["accuracy"] > 0.9 and report["after"]["loss"] < report["before"]["loss"]
    adapter = unilora_spec.load_adapter(small["output"])
    assert set(adapter.saved) == {"classifier.weight", "classifier.bias"} and adapter.base.labels == ("0", "1")
    assert report["parameters"]["theta"] == 100 and report["parameters"]["in_full"] == 2 * 32 + 2
    assert report["P"] == {"storage": "cached", "bytes": 2 * adapter.layer_map.D}
    computed = train(TrainSettings(**small | {"output": tmp_path / "computed.safetensors", "storage": "computed"}))
    assert computed["P"] == {"storage": "computed", "bytes": 0}
    assert (tmp_path / "computed.safetensors").read_bytes() == small["output"].read_bytes()
    (tmp_path / "computed.safetensors").unlink()
    (tmp_path / "computed.md").unlink()
    assert report["bytes"] == small["output"].stat().st_size
    assert sorted(tmp_path.iterdir()) == [tmp_path / "vec.md", small["output"]]  # no checkpoints, no leftovers
    first = small["output"].read_bytes()
    train(TrainSettings(**small))
    assert small["output"].read_bytes() == first
    train(TrainSettings(**small | {"seed": 1}))
    assert small["output"].read_bytes() != first


def test_what_is_reported_is_what_the_file_gives(small, base, reviews):
    report = train(TrainSettings(**small))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    attach(model, rank=2, d=100, targets=("query", "value"), train_in_full=("classifier",))
    model.load_adapter(small["output"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    held_out = rows_and_task(TrainSettings(**small))[0].held_out
    with torch.no_grad():
        batch = tokenizer(list(held_out["text"]), padding=True, truncation=True, max_length=16, return_tensors="pt")
        predicted = model(**batch).logits.argmax(-1).tolist()
    accuracy = sum(p == int(label) for p, label in zip(predicted, held_out["label"])) / len(predicted)
    assert accuracy == report["after"]["accuracy"]


# What a run learns


def test_a_run_that_diverges_says_so(small):
    assert "the loss is nan" in refusal(WorkFailed, **small | {"lr": 1e30, "head_lr": 1e30, "epochs": 3})
    assert not small["output"].exists()


def test_early_stop_keeps_the_best(small):
    report = train(TrainSettings(**small, epochs=20, lr=0, head_lr=0, patience=2))
    assert report["steps"] == 27  # the first evaluation is the best; two more without a better one
    small |= {"epochs": 3, "lr": 1.0, "eval_steps": 3, "seed": 2}
    last, best = train(TrainSettings(**small)), train(TrainSettings(**small, patience=9))
    assert last["steps"] == best["steps"] and best["after"]["accuracy"] > last["after"]["accuracy"]


def test_head_alone_leaves_the_base_as_it_is_and_writes_nothing(small, tmp_path):
    del small["output"]
    report = train(TrainSettings(**small, head_only=True, epochs=2))
    assert report["parameters"]["theta"] == 0 and report["parameters"]["in_full"] == 66
    assert "output" not in report and not list(tmp_path.iterdir())


def test_text_pairs_regression_bf16_and_gradient_checkpointing(small, tmp_path):
    rows = [f"{text},{text if label else 'not'},{label / 2}" for text, label in map(sentence, range(60))]
    (tmp_path / "pairs.tsv").write_text("\n".join(["a,b,score", *rows]).replace(",", "\t") + "\n")
    small |= {"data": tmp_path / "pairs.tsv", "text": "a,b", "label": "score", "task": "regression"}
    small |= {"epochs": 4, "lr": 0.02, "head_lr": 0.02, "holdout": 0.3}
    report = train(TrainSettings(**small, bf16=True, gradient_checkpointing=True))
    assert report["after"]["mse"] < report["before"]["mse"] and report["after"]["pearson"] > 0
    assert unilora_spec.load_adapter(small["output"]).saved["classifier.weight"].shape == (1, 32)


def test_causal_language_model_without_padding_token(gpt2, small, tmp_path):
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({"text": sentence(n)[0]}) + "\n" for n in range(60)))
    small |= {
        "base": gpt2,
        "data": tmp_path / "lines.jsonl",
        "task": "causal-lm",
        "targets": "c_attn",
        "max_length": 99,
    }
    report = train(TrainSettings(**small, lr=0.05))
    assert report["after"]["perplexity"] < report["before"]["perplexity"]
    assert report["parameters"]["in_full"] == 0 and not unilora_spec.load_adapter(small["output"]).saved


def test_base_with_another_head_gets_a_new_one(base, small, tmp_path):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=5)
    model.save_pretrained(tmp_path / "five")
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "five")
    train(TrainSettings(**small | {"base": tmp_path / "five", "limit": 20}))
    assert unilora_spec.load_adapter(small["output"]).saved["classifier.weight"].shape == (2, 32)


def test_runs_refused_before_they_start(base, gpt2, small, tmp_path):
    assert "there is no such folder, and no base model with this id can be loaded" in refusal(
        **small | {"base": "no-such/model"}
    )
    assert "there is no such folder" in refusal(**small | {"base": "./no-such"})
    assert "close names are" in refusal(**small | {"targets": "qurey"})
    assert "LoRA-RITE steps A and B themselves, which kind balanced" in refusal(**small | {"optimizer": "lora-rite"})
    assert "d is 99999" in refusal(**small | {"dim": 99999})
    assert "there is no folder" in refusal(**small | {"output": tmp_path / "none/vec"})
    assert "is a folder; give a file" in refusal(**small | {"output": tmp_path})
    shutil.copytree(base, tmp_path / "weightless", ignore=shutil.ignore_patterns("model.safetensors"))
    assert "the base model could not be loaded" in refusal(**small | {"base": tmp_path / "weightless"})
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (foreign / name).write_bytes(((gpt2 if name.startswith("m") else base) / name).read_bytes())
    (foreign / "config.json").write_text((base / "config.json").read_text())
    assert "its weights lack" in refusal(**small | {"base": foreign})
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("vec")] == []


# The command


def test_command_end_to_end_with_a_config_file(small, tmp_path, command):
    config = tmp_path / "run.yaml"
    config.write_text("".join(f"{name.replace('_', '-')}: {value}\n" for name, value in small.items()))
    status, output, errors = command("--config", str(config), "--head-lr", "1e-3")
    assert status == 0, errors
    size = small["output"].stat().st_size
    for line in (
        "trained    100 numbers of the vector, 66 in full",
        "P          cached, ",
        "held out   accuracy 0.",
        f"file       {small['output']}, {size:,} bytes",
        f"next       python -m export onnx --adapter {small['output']}",
    ):
        assert line in output
    assert "rows to train on" in errors and "error" not in errors


def test_command_in_json_and_with_wrong_calls(small, command):
    status, output, errors = command("--json", "--limit", "32", **small)
    assert status == 0 and json.loads(output)["rows"]["train"] == 32, errors
    for options, expected in (
        ({"label": "stars"}, "there is no column 'stars'; its columns are 'text', 'label', 'source'"),
        ({"rank": "x"}, "--rank is 'x'"),
    ):
        status, output, errors = command(**small | options)
        assert (status, output) == (2, "") and errors.startswith("error: ") and errors.count("\n") == 1
        assert expected in errors


def test_help_has_an_example_and_every_option(command):
    status, output, _ = command("--help")
    assert status == 0 and "Example: python -m backends.torch train" in output and "--head-lr" in output


def test_settings_of_a_run_stand_beside_its_checkpoints(small):
    settings = TrainSettings(**small)
    checkpoints = Checkpoints(settings)
    checkpoints.start()
    (checkpoints.folder / "notes.txt").write_text("mine")
    checkpoints.clear()
    assert [path.name for path in checkpoints.folder.iterdir()] == ["notes.txt"]  # what is not ours stays


def test_the_vector_and_the_head_have_learning_rates_of_their_own(small):
    def trained(**rates):
        train(TrainSettings(**small, **rates))
        adapter = unilora_spec.load_adapter(small["output"])
        return adapter.theta.tobytes(), adapter.saved["classifier.weight"].tobytes()

    start, vector, head = trained(lr=0, head_lr=0), trained(lr=0.1, head_lr=0), trained(lr=0, head_lr=0.1)
    assert start[0] == head[0] != vector[0] and start[1] == vector[1] != head[1]


def test_the_head_has_a_decay_of_its_own_on_its_matrices(small):
    seen, plain = {}, module.make_trainer
    for name, options in {"one": {"weight_decay": 0.5}, "own": {"head_weight_decay": 0.1}}.items():
        made = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "make_trainer", lambda *each, made=made: made.append(plain(*each)) or made[-1])
            train(TrainSettings(**small, **options))
        groups = made[0].optimizer.param_groups
        seen[name] = [(group["weight_decay"], [each.dim() for each in group["params"]]) for group in groups]
    assert seen == {"one": [(0.5, [1]), (0.5, [2, 1])], "own": [(0.0, [1]), (0.1, [2]), (0.0, [1])]}


def test_a_base_without_tokenizer_files_is_refused(small, base, tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*token*", "vocab*"))
    assert "it has no tokenizer" in refusal(UniLoraError, **small | {"base": folder})


def test_batches_are_of_like_length_and_each_row_comes_once():
    lengths = [(7 * i) % 101 for i in range(202)]
    sampler = LikeLengths(lengths, 8, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert all(sorted(order) == list(range(202)) for order in orders)
    assert orders[0] == orders[2] != orders[1]
    spread = [np.ptp([lengths[i] for i in orders[0][start : start + 8]]) for start in range(0, 200, 8)]
    assert np.median(spread) < 101 / 4  # of rows drawn at random, 8 would span most of the 101


def test_the_start_is_what_a_run_of_that_seed_begins_with(small, tmp_path):
    """A run whose rates are 0 leaves what it began with."""
    train(TrainSettings(**small, seed=3, lr=0, head_lr=0))
    report = start(StartSettings(**small | {"output": tmp_path / "start.safetensors"}, seed=3))
    assert (tmp_path / "start.safetensors").read_bytes() == small["output"].read_bytes()
    assert report["labels"] == ["0", "1"] and report["saved"] == ["classifier.bias", "classifier.weight"]
    with pytest.raises(UniLoraError, match="--output is missing"):
        StartSettings(base="b", data="d.csv")


@pytest.mark.parametrize("own", [None, "0"])
def test_torch_starts_with_large_pages_unless_the_environment_says_otherwise(tmp_path, own):
    (tmp_path / "torch.py").write_text("import os; raise SystemExit('pages: ' + os.environ['THP_MEM_ALLOC_ENABLE'])")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (tmp_path, Path(__file__).parents[1])))}
    environment |= {} if own is None else {"THP_MEM_ALLOC_ENABLE": own}
    call = [sys.executable, "-m", "backends.torch", "train", "--base", tmp_path, "--data", "rows.csv", "--output", "x"]
    done = subprocess.run(call, check=False, env=environment, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.stderr == f"pages: {own or 1}\n"
