"""The command `python -m backends.torch train`, its data and its settings, on models that train in a second."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import unilora_spec
from backends.rows.order import LikeLengths
from backends.rows.split import share
from backends.runs.ending import Stopped
from backends.settings import StartSettings, TrainSettings
from backends.torch import attach
from backends.torch.__main__ import app
from backends.torch.tasks import rows_and_task
from backends.torch.training import train as module
from backends.torch.training.checkpoints import Checkpoints
from backends.torch.training.start import start
from backends.torch.training.train import train
from unilora_spec import UniLoraError, WorkFailed
from unilora_spec.command import run

GOOD, BAD = ("good", "great", "fine"), ("bad", "dull", "poor")
WORDS = ["a", "the", "film", "movie", "plot", "and", "very", "not", "is", *GOOD, *BAD]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Models this small gain nothing from a second thread, and wait for it where the machine is busy."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sentence(number):
    """A sentence and its label: what it says of the film, after some words that say nothing."""
    words = [WORDS[(number * step) % 8] for step in (3, 5, 7)]
    label = number % 2
    return " ".join([*words, "is", (BAD, GOOD)[label][number // 2 % 3], str(number)]), label


def bert(folder, words, **sizes):
    """A BERT without a head in ``folder``, and its tokenizer of these words, which takes a digit as a piece of its own."""
    torch.manual_seed(0)
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *map(str, range(10)), *(f"##{i}" for i in range(10))]
    config = transformers.BertConfig(
        vocab_size=len(names), hidden_size=32, num_attention_heads=2, max_position_embeddings=32, initializer_range=0.2, **sizes
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizer(vocab={name: number for number, name in enumerate(names)}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A BERT of two layers without a head, and its tokenizer."""
    return bert(tmp_path_factory.mktemp("bert"), WORDS, num_hidden_layers=2, intermediate_size=64)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory):
    """A GPT-2 of two layers with its head, and a tokenizer of bytes without a padding token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate(["<|endoftext|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, bos_token=end).save_pretrained(
        folder
    )
    config = transformers.GPT2Config(
        vocab_size=len(vocab), n_embd=32, n_layer=2, n_head=2, n_positions=48, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reviews(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    rows = [f"{text},{label},{'ab'[number // 2 % 2]}" for number, (text, label) in enumerate(map(sentence, range(160)))]
    path.write_text("\n".join(["text,label,source", *rows]) + "\n")
    return path


@pytest.fixture
def small(base, reviews, tmp_path):
    """Settings of a run of a second or two."""
    run = {"base": base, "data": reviews, "output": tmp_path / "vec.safetensors"}
    return run | {"rank": 2, "dim": 100, "batch_size": 16, "max_length": 16}


@pytest.fixture
def command(monkeypatch, capfd):
    """The command's exit status, output and errors, for options as they are and as keywords; within this process."""

    def call(*options, **keywords):
        monkeypatch.setattr(sys, "argv", ["backends.torch", "train", *options, *as_options(keywords)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            run(app)
        return end.value.code or 0, *capfd.readouterr()

    return call


def as_options(settings):
    return [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def refusal(error_type=UniLoraError, **settings):
    with pytest.raises(error_type) as caught:
        train(TrainSettings(**settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Settings


def test_settings_convert_what_a_command_line_and_a_yaml_file_hold(tmp_path):
    common = {"base": "b", "data": "d.csv", "output": "v"}
    texts = TrainSettings(
        **common, targets="query, value", ranks="query=8,value=2", lr="5e-3", rank="8", where="source=a=b, c"
    )
    values = TrainSettings(
        **common, targets=["query", "value"], ranks={"query": 8, "value": 2}, lr=5e-3, rank=8,
        where={"source": "a=b, c"},
    )  # fmt: skip
    assert texts == values
    assert texts.where == ("source", "a=b, c") and texts.output == Path("v") and texts.dim is None


def test_the_command_line_goes_before_the_yaml_file(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("base: b\ndata: d.csv\nhead-lr: 1e-3\nbatch_size: 8\noutput: v\nbf16: true\nlr: null\n")
    settings = TrainSettings.from_options({"batch_size": "16", "bf16": False, "lr": None}, config)
    assert (settings.batch_size, settings.bf16, settings.head_lr, settings.lr) == (16, False, 1e-3, None)


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"data": None}, "--data is missing"),
        ({"output": None}, "--output is missing"),
        ({"head_only": True}, "--head-only writes no file"),
        ({"rank": "four"}, "--rank is 'four'; give a whole number from 0"),
        ({"rank": -1}, "--rank is -1"),
        ({"lr": "fast"}, "--lr is 'fast'; give a number"),
        ({"holdout": 1}, "--holdout is 1; give a number from 0 to below 1"),
        ({"task": "translation"}, "give classification, regression, multi-label, "),
        ({"where": "source"}, "--where is 'source'; give COLUMN=VALUE"),
        ({"optimizer": "sgd"}, "give adamw, lora-rite, lora-pro or lora-pro-efficient"),
        ({"head_only": True, "output": None, "noise": 0.1}, "--head-only trains no vector"),
        ({"text": "a,b,c"}, "--text names 3 columns"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"bf16": "yes"}, "--bf16 is 'yes'; give true or false"),
        ({"targets": ""}, "--targets is ''"),
        ({"holdout": 0, "patience": 1}, "--patience needs held-out data"),
        ({"resume": True, "overwrite": True}, "give one of them"),
        ({"links": 1}, "--links is 1; give a whole number from 2"),
        ({"links": 2, "kind": "identity"}, "--links makes a chain, whose links are balanced, and --kind is identity"),
        ({"links": 2, "patience": 1}, "--patience and a chain do not go together"),
        ({"kind": "chain", "weight_decay": 0.1}, "--weight-decay and a chain do not go together"),
        ({"links": 2, "optimizer": "lora-pro"}, "--optimizer lora-pro steps all links"),
    ],
)
def test_settings_refuse(options, expected):
    with pytest.raises(UniLoraError, match="^--") as error:
        TrainSettings(**{"base": "b", "data": "d.csv", "output": "v", **options})
    assert expected in str(error.value)


@pytest.mark.parametrize(
    "content, expected",
    [
        ("bathc-size: 3", "the closest is 'batch-size'"),
        ("- 3", "has lines such as"),
        ("a: [", "this is no YAML"),
    ],
)
def test_config_refuses(tmp_path, content, expected):
    config = tmp_path / "run.yaml"
    config.write_text(content)
    with pytest.raises(UniLoraError) as error:
        TrainSettings.from_options({}, config)
    assert str(error.value).startswith(f"{config}: ") and expected in str(error.value)


# Data


def settings_of(path, **options):
    return TrainSettings(**{"base": "b", "data": path, "output": "v", **options})


def test_split_is_by_the_hash_of_the_text_alone(tmp_path):
    assert share([""]) == 0xE3B0C44298FC1C14 / 2**64 and share(["a"]) == 0xCA978112CA1BBDCA / 2**64  # SHA-256 of both
    lines = [f"sentence {number % 70},{number % 2}" for number in range(210)]  # each sentence three times
    sides = []
    for name, order in (("one", lines), ("other", lines[::-1])):
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(["text,label", *order]) + "\n")
        data, _ = rows_and_task(settings_of(path, holdout=0.3))
        sides.append((set(data.train["text"]), set(data.held_out["text"])))
        assert len(data.train) + len(data.held_out) == 210
    assert sides[0] == sides[1]
    train, held_out = sides[0]
    assert not train & held_out and held_out == {text for text in train | held_out if share([text]) < 0.3}


def test_formats_give_the_same_rows(tmp_path):
    rows = [{"text": text, "label": label} for text, label in map(sentence, range(40))]
    table = datasets.Dataset.from_list(rows)
    table.to_csv(tmp_path / "a.csv")
    table.to_csv(tmp_path / "a.tsv", sep="\t")
    table.to_json(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text(json.dumps(rows))
    table.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "folder").mkdir()
    table.to_csv(tmp_path / "folder/test.csv")
    sources = ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "folder:test"]
    loaded = [rows_and_task(settings_of(str(tmp_path / source))) for source in sources]
    assert {task.labels for _, task in loaded} == {("0", "1")}
    assert len({(tuple(data.train["text"]), tuple(data.held_out["text"])) for data, _ in loaded}) == 1
    assert all(task.numbers[str(row["label"])] == int(row["label"]) for data, task in loaded for row in data.train)


def test_texts_that_look_like_nothing_stay_and_empty_rows_are_counted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\nnull,yes\nNA,no\n,yes\n  ,no\nfine,\n007,yes\ngood,no\n")
    data, task = rows_and_task(settings_of(path, holdout=0))
    assert data.train["text"] == ["null", "NA", "007", "good"] and data.dropped.total() == 3 and data.held_out is None
    assert task.labels == ("no", "yes")


def test_labels_sort_as_numbers_or_keep_the_order_of_the_base(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"t{number},{number % 11}\n" for number in range(40)))
    assert rows_and_task(settings_of(path))[1].labels == tuple(map(str, range(11)))
    path.write_text("text,label\n" + "".join(f"t{number},{'pn'[number % 2]}\n" for number in range(40)))
    _, task = rows_and_task(settings_of(path), ("p", "n"))
    assert task.labels == ("p", "n") and task.numbers == {"p": 0, "n": 1}


def test_class_labels_of_a_data_set_keep_their_names(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["low", "high"])}
    )
    rows = {"text": [f"t{number}" for number in range(30)], "label": [-1, 0, 1] * 10}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    data, task = rows_and_task(settings_of(tmp_path / "a.parquet"))
    assert task.labels == ("low", "high") and task.numbers == {"0": 0, "1": 1} and data.dropped.total() == 10


def test_where_limit_and_eval(reviews):
    data, _ = rows_and_task(settings_of(reviews, where="source=a", limit=20))
    assert len(data.train) == 20 and set(data.train["source"]) == {"a"}
    whole, _ = rows_and_task(settings_of(reviews, eval=reviews, where="source=b"))
    assert len(whole.train) == len(whole.held_out) == 80


@pytest.mark.parametrize(
    "content, options, expected",
    [
        (
            "text,label\na,1\nb,0\n",
            {"text": "body"},
            "there is no column 'body'; its columns are 'text', 'label'; where its first line is a row",
        ),
        ("text,label\na,1\nb,0\n", {"where": "label=7"}, "no row has label=7; values there are 1, 0"),
        ("text,label\na,1\nb,1\n", {"holdout": 0}, "has only the value '1'"),
        ("text,label\na,0.5\nb,1.5\n", {"holdout": 0}, "use --task regression"),
        ("text,label\na,x\nb,2\n", {"task": "regression"}, "regression needs numbers"),
        ("text,label\n", {}, "there are no rows"),
        ("text,label\n,1\n", {}, "no row can be used: 1 has no text"),
        ("text,label\na,0\nb,1\n", {"holdout": 1e-9}, "0 held out"),
        ('text,label\n"a,0\nb,1\n', {}, "could not be read"),
        (b"text,label\n\xff\xfe\xfa,1\n", {}, "give --encoding"),
        ("", {}, "it is empty"),
    ],
)
def test_data_refuses(tmp_path, content, options, expected):
    path = tmp_path / "a.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UniLoraError) as error:
        rows_and_task(settings_of(path, **options))
    assert str(error.value).startswith(f"{path}: ") and expected in str(error.value)


@pytest.mark.parametrize(
    "source, expected",
    [
        ("nowhere.csv", "there is no such file"),
        (__file__, "must end in one of .csv"),
        ("no-such/data-set", "nor a data set that can be loaded here"),
    ],
)
def test_sources_that_are_none(source, expected):
    with pytest.raises(UniLoraError, match=expected):
        rows_and_task(settings_of(source))


def test_eval_file_with_a_label_of_its_own(tmp_path, reviews):
    (tmp_path / "e.csv").write_text("text,label\na film,2\n")
    with pytest.raises(
        UniLoraError, match="label has the value '2' in row 1, which .*reviews.csv does not have; leave such rows out"
    ):
        rows_and_task(settings_of(reviews, eval=tmp_path / "e.csv"))


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


class Halt(transformers.TrainerCallback):
    """A signal at the end of one step."""

    def __init__(self, step, number=signal.SIGTERM):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def halt_at(monkeypatch):
    """Makes the next runs end at a step by SIGTERM, or go through for None."""
    from backends.torch.training import train as module

    plain = module.make_trainer

    def set_step(step):
        def trainer(*arguments):
            built = plain(*arguments)
            if step is not None:
                built.add_callback(Halt(step))
            return built

        monkeypatch.setattr(module, "make_trainer", trainer)

    return set_step


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"patience": 2, "eval_steps": 4, "lr": 0.5, "epochs": 3},
        {"optimizer": "lora-pro", "noise": 0.1},
        {"optimizer": "lora-rite", "noise": 0.1, "kind": "identity", "dim": None},
    ],
)
def test_stopped_and_resumed_run_gives_the_same_bytes(small, halt_at, extra):
    small |= extra
    train(TrainSettings(**small))
    whole = small["output"].read_bytes()
    small["output"].unlink()
    halt_at(5)
    with pytest.raises(Stopped, match="stopped at step 6 of"):
        train(TrainSettings(**small))
    folder = small["output"].with_suffix(".checkpoints")
    assert not small["output"].exists() and (folder / "checkpoint-6").is_dir()
    assert (folder / "checkpoint-6/model.safetensors").stat().st_size < 4000  # θ, the head and the record
    halt_at(None)
    assert "give --resume to go on or --overwrite" in refusal(**small)
    assert "--lr is 0.1, but the interrupted run had" in refusal(**small | {"lr": 0.1, "resume": True})
    (folder / "checkpoint-7").mkdir()  # one that a crash left half written
    train(TrainSettings(**small, resume=True))
    assert small["output"].read_bytes() == whole and not folder.exists()


def test_what_is_not_whole_is_passed_over(small, halt_at):
    """A file that is cut, gone, or another run's: the checkpoint before goes on, to the bytes of a run that was never stopped."""
    small |= {"eval_steps": 2}
    train(TrainSettings(**small))
    whole = small["output"].read_bytes()
    small["output"].unlink()
    halt_at(5)
    with pytest.raises(Stopped, match="stopped at step 6 of"):
        train(TrainSettings(**small))
    halt_at(None)
    checkpoints = Checkpoints(TrainSettings(**small, resume=True))
    folder = checkpoints.folder
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-4", "checkpoint-6", "settings.json"]
    newest, before = folder / "checkpoint-6", folder / "checkpoint-4"
    assert checkpoints.last() == newest
    record = json.loads((newest / "whole.json").read_text())
    assert (
        set(record["sha256"]) == {path.name for path in newest.iterdir()} - {"whole.json"} and len(record["sha256"]) > 4
    )
    for name in (*record["sha256"], "whole.json"):
        data = (newest / name).read_bytes()
        for damaged in (data[:-1], data[: len(data) // 2], b"", b"\0" * len(data), b"[" * 100_000):
            (newest / name).write_bytes(damaged)
            assert checkpoints.last() == before, name
        (newest / name).unlink()
        assert checkpoints.last() == before, name
        (newest / name).write_bytes(data)
        assert checkpoints.last() == newest
    # Others' checkpoints: of other settings, of another step than the name says, of no number, and no folder.
    shutil.copytree(newest, folder / "checkpoint-8")
    shutil.copytree(newest, folder / "checkpoint-best")
    (folder / "checkpoint-10").write_text("mine")
    assert checkpoints.last() == newest
    (newest / "whole.json").write_text(json.dumps(record | {"settings": record["settings"] | {"lr": 0.5}}))
    assert checkpoints.last() == before
    (folder / "settings.json").write_text('{"lr"')
    train(TrainSettings(**small, resume=True))
    assert small["output"].read_bytes() == whole
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-10", "checkpoint-best"]


def test_the_last_whole_checkpoint_is_never_deleted(small, halt_at, monkeypatch):
    """A disk that is full when the third is written leaves two; one that is full for the first leaves nothing."""
    complete, room = Checkpoints.complete, 2

    def completing(self, *rest):
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(28, "No space left on device")
        complete(self, *rest)

    monkeypatch.setattr(Checkpoints, "complete", completing)
    small |= {"eval_steps": 2}
    (folder := small["output"].with_suffix(".checkpoints")).mkdir()
    (folder / "checkpoint-999").mkdir()  # what another run left half written
    assert "No space left on device; those before it are kept, for --resume" in refusal(WorkFailed, **small)
    assert sorted(path.name for path in folder.glob("c*")) == ["checkpoint-2", "checkpoint-4"]
    room = 0
    assert "No space left" in refusal(WorkFailed, **small, overwrite=True)
    assert not folder.exists() and not small["output"].exists()


def test_a_chain_is_trained_link_by_link_also_when_it_goes_on(small, halt_at):
    """Nine steps a link. It is stopped with link 0, in the middle of link 1, and where nothing but link 2 is left."""
    small |= {"links": 3, "dim": 99, "lr": 0.05, "head_lr": 0.02}
    report = train(TrainSettings(**small))
    assert report["steps"] == 27 and report["after"]["loss"] < report["before"]["loss"]
    adapter = unilora_spec.load_adapter(small["output"])
    assert adapter.projection.kind == "chain" and adapter.projection.links == 3
    assert {segment.rank for segment in adapter.layer_map.segments} == {6} and adapter.layer_map.alpha == 6
    whole, theta = small["output"].read_bytes(), adapter.theta.reshape(3, 33)
    small["output"].unlink()
    folder = small["output"].with_suffix(".checkpoints")
    for step, done in ((9, 1), (14, 1), (18, 2)):
        halt_at(step - 1)
        with pytest.raises(Stopped, match=f"stopped at step {step} of 27"):
            train(TrainSettings(**small, resume=step > 9))
        saved = load_file(folder / f"checkpoint-{step}/model.safetensors")["unilora_theta"].numpy().reshape(3, 33)
        assert np.array_equal(saved[:done], theta[:done]) and not saved[2].any()
        assert saved[1].any() == (step > 9)
    halt_at(None)
    assert "--links is 2, but the interrupted run had 3" in refusal(**small | {"links": 2, "resume": True})
    train(TrainSettings(**small, resume=True))
    assert small["output"].read_bytes() == whole and not folder.exists()
    assert "2 steps for 3 links" in refusal(**small | {"limit": 10, "epochs": 0.5})


def test_optimizer_and_noise_are_those_of_the_call(small):
    def trained(**options):
        train(TrainSettings(**small, **options))
        return small["output"].read_bytes()

    options = {}, {"noise": 0.1}, {"optimizer": "lora-pro"}, {"optimizer": "lora-pro-efficient"}
    assert len({trained(**each) for each in options}) == len(options)


def test_overwrite_starts_anew(small, halt_at):
    halt_at(2)
    with pytest.raises(Stopped):
        train(TrainSettings(**small))
    halt_at(None)
    refusal(**small | {"base": "no-such/model", "overwrite": True})
    assert Checkpoints(TrainSettings(**small, resume=True)).last()  # a wrong call costs nothing
    report = train(TrainSettings(**small, overwrite=True))
    assert report["steps"] == 9


def test_a_full_disk_keeps_the_checkpoints_before(small, monkeypatch):
    from backends.torch.training import trainer as module

    save, written = module.save_file, []

    def full(tensors, path):
        written.append(path)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(module, "save_file", full)
    small["eval_steps"] = 3
    assert "No space left on device; those before it are kept, for --resume" in refusal(WorkFailed, **small)
    assert [path.name for path in small["output"].with_suffix(".checkpoints").glob("c*")] == ["checkpoint-3"]
    assert not small["output"].exists()


@pytest.mark.parametrize("extra", [{}, {"epochs": 9, "patience": 1, "lr": 0, "head_lr": 0}])
def test_a_full_disk_at_the_end_costs_no_training(small, monkeypatch, extra):
    small |= extra
    train(TrainSettings(**small))
    whole = small["output"].read_bytes()

    def full(path):
        raise WorkFailed(f"{path} could not be written: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("backends.torch.training.train.placing", full)
        assert "No space left on device; the checkpoints are kept, for --resume" in refusal(WorkFailed, **small)
    assert small["output"].read_bytes() == whole
    small["output"].unlink()
    steps = train(TrainSettings(**small, resume=True))["steps"]
    assert small["output"].read_bytes() == whole and steps == (18 if extra else 9)


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
