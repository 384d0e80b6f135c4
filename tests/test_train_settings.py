"""The settings of a training, and its data."""

import json
from pathlib import Path

import datasets
import pytest
from runs import base, one_thread, own_cache, reviews, sentence  # noqa: F401  fixtures

from backends.rows.split import share
from backends.settings import TrainSettings
from backends.torch.tasks import rows_and_task
from unilora_spec import UniLoraError

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
