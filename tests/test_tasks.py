"""Tasks of several labels a text and of a tag a word: what is read of rows, what a model is given, what is measured, what is exported."""

import json

import numpy as np
import pytest

datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")

from runs import bert, one_thread, own_cache  # noqa: F401  fixtures

from backends.settings import TrainSettings
from backends.tasks.token_classification import entities, entity_f1
from backends.torch.tasks import rows_and_task
from backends.torch.training.train import train
from export.folders.merge import merge
from export.torch_base.base import load_base
from unilora_spec import UniLoraError, load_adapter

WORDS = ["ada", "rome", "saw", "the", "old", "in", "film", "loud", "dark"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A BERT of one layer without a head, and its tokenizer, which takes a digit as a piece of its own."""
    return bert(tmp_path_factory.mktemp("bert"), WORDS, num_hidden_layers=1, intermediate_size=32)


def settings_of(path, task, **options):
    return TrainSettings(**{"base": "b", "data": path, "output": "v", "holdout": 0, "task": task, **options})


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labelled(tmp_path, cells, **options):
    path = write(tmp_path / "a.jsonl", [{"text": f"t{n}", "label": cell} for n, cell in enumerate(cells)])
    return rows_and_task(settings_of(path, "multi-label", **options))


# Several labels


@pytest.mark.parametrize(
    ("cells", "labels", "bits"),
    [
        ([["b", "a"], ["a"], []], ("a", "b"), [[1, 1], [1, 0], [0, 0]]),
        ([[10], [2, 10], [2, 2]], ("2", "10"), [[0, 1], [1, 1], [1, 0]]),
        ([[1, 0, 1], [0, 0, 0]], ("0", "1", "2"), [[1, 0, 1], [0, 0, 0]]),
        ([[True, False], [False, False]], ("0", "1"), [[1, 0], [0, 0]]),
        ([[0], [1], [0]], ("0", "1"), [[1, 0], [0, 1], [1, 0]]),  # one number each: a class, as no list of bits has one
        ([[0, 1], [1]], ("0", "1"), [[1, 1], [0, 1]]),
        (["x;y", " y", "z ; x"], ("x", "y", "z"), [[1, 1, 0], [0, 1, 0], [1, 0, 1]]),
        (["x, y", "y"], ("x", "y"), [[1, 1], [0, 1]]),
        (["[1, 0]", "[0 1]", "[0.0, 1.0]"], ("0", "1"), [[1, 0], [0, 1], [0, 1]]),
        (["['a', 'b']", "[]", '["b"]'], ("a", "b"), [[1, 1], [0, 0], [0, 1]]),
    ],
)
def test_cells_of_several_labels(tmp_path, cells, labels, bits):
    data, task = labelled(tmp_path, cells)
    assert task.labels == labels
    assert [task.label(row["label"]) for row in data.train] == bits


def test_a_vector_keeps_the_names_of_the_base_or_of_the_data_set(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "a", "label": [1, 0]}, {"text": "b", "label": [0, 1]}])
    for base_labels, labels in ((("x", "y"), ("x", "y")), (("LABEL_0", "LABEL_1"), ("0", "1"))):
        assert rows_and_task(settings_of(path, "multi-label"), base_labels)[1].labels == labels
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.List(datasets.ClassLabel(names=["low", "mid", "high"]))}
    )
    rows = {"text": ["a", "b"], "label": [[0, 1], [1, 0]]}  # classes, not bits: there are three
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    _, task = rows_and_task(settings_of(tmp_path / "a.parquet", "multi-label"))
    assert task.labels == ("low", "mid", "high") and task.label([0, 1]) == [1, 1, 0]


def test_what_separates_labels_is_found_said_or_asked_for(tmp_path):
    data, task = labelled(tmp_path, ["x|y", "z"])
    assert any("label is split at each '|'; --label-separator says otherwise" in line for line in data.said)
    with pytest.raises(
        UniLoraError, match=r"more than one of ; \| , in it, .*'x;y' \(row 1\).*; give --label-separator"
    ):
        labelled(tmp_path, ["x;y", "Paris, France"])
    data, task = labelled(tmp_path, ["x;y", "Paris, France"], label_separator="semicolon")
    assert task.labels == ("Paris, France", "x", "y") and not data.said


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([[["a"]], [["b"]]], r"label of row 1 of|label of row 1 is .*give a list of names"),
        ([{"a": 1}, {"a": 0}], "label of row 1 is .*give a list of names"),
        ([["pos"], ["Pos"]], "label is 'pos' in row 1 and 'Pos' in row 2; write one class one way"),
        ([[], []], "no row has a label in label"),
        ([None, None], "no row can be used: 2 have no label"),
    ],
)
def test_several_labels_refused(tmp_path, cells, words):
    with pytest.raises(UniLoraError, match=words):
        labelled(tmp_path, cells)


def test_measures_of_several_labels(tmp_path):
    """F1 by hand: of class 0 one hit, one missed; of class 1 one hit, one too many; class 2 occurs nowhere."""
    _, task = labelled(tmp_path, [["a", "b", "c"]])
    predicted, true = np.array([[1, 1, 0], [0, 1, 0]]), np.array([[1, 1, 0], [1, 0, 0]])
    found = task.metrics(predicted, np.float32([1, 2]), true)
    assert found == {"loss": 1.5, "micro_f1": 2 * 2 / 6, "macro_f1": (2 / 3 + 2 / 3) / 2, "exact_match": 0.5}
    zeros = np.zeros((2, 3), int)
    assert task.metrics(zeros, np.float32([1, 2]), zeros) == {
        "loss": 1.5,
        "micro_f1": 0,
        "macro_f1": 0,
        "exact_match": 1,
    }


# A tag for each word


def sentence(number):
    words, tags = [], []
    for place, (word, tag) in enumerate(
        [("ada", "B-PER"), ("saw", "O"), ("old", "B-LOC"), ("rome", "I-LOC"), ("film", "O")]
    ):
        if (number >> place) % 2 or place == 1:
            words.append(f"{word}{number % 10}" if place == 4 else word)
            tags.append(tag)
    return {"tokens": words, "ner_tags": tags, "id": number}


def tagged(tmp_path, rows, **options):
    return rows_and_task(settings_of(write(tmp_path / "a.jsonl", rows), "token-classification", **options))


def test_the_first_piece_of_a_word_has_its_tag(tmp_path, base):
    rows = [
        {"tokens": ["ada12", "saw", "rome"], "ner_tags": ["B-PER", "O", "B-LOC"]},
        {"tokens": ["film"], "ner_tags": ["O"]},
    ]
    data, task = tagged(tmp_path, rows)
    assert task.labels == ("B-LOC", "B-PER", "O") and task.main == "f1"
    assert any("the words are those of the column 'tokens', the tags of 'ner_tags'" in line for line in data.said)
    model = transformers.AutoModelForTokenClassification.from_pretrained(base)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    task.read_by(model, tokenizer)
    batch = task.batch(list(data.train))
    pieces = [tokenizer.convert_ids_to_tokens(row) for row in batch["input_ids"]]
    assert pieces[0] == ["[CLS]", "ada", "##1", "##2", "saw", "rome", "[SEP]"]
    assert batch["labels"].tolist() == [[-100, 1, -100, -100, 2, 0, -100], [-100, 2, *[-100] * 5]]
    assert task.items(batch["labels"]) == 4
    task.max_length = 4  # what is cut off is not learned
    assert task.batch(list(data.train))["labels"].tolist() == [[-100, 1, -100, -100], [-100, 2, -100, -100]]


@pytest.mark.parametrize("left", [False, True])
def test_words_of_a_byte_tokenizer(tmp_path, left):
    """GPT-2's, whose words begin with their blank, padded on either side."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocab = {letter: n for n, letter in enumerate(["<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    made = Tokenizer(models.BPE(vocab | {"Ġc": len(vocab)}, [("Ġ", "c")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = transformers.GPT2TokenizerFast(
        tokenizer_object=made, pad_token="<pad>", padding_side="left" if left else "right"
    )
    data, task = tagged(
        tmp_path, [{"tokens": ["ab", "c"], "ner_tags": ["N", "V"]}, {"tokens": ["d"], "ner_tags": ["N"]}]
    )
    config = transformers.GPT2Config(vocab_size=len(vocab) + 1, n_embd=8, n_layer=1, n_head=1, n_positions=32)
    task.read_by(transformers.GPT2ForTokenClassification(config), tokenizer)
    labels, none = task.batch(list(data.train))["labels"].tolist(), -100  # the pieces are a, b, and c with its blank; d
    assert labels == [[0, none, 1], [none, none, 0] if left else [0, none, none]]
    assert task.main == "accuracy"


def test_numbers_of_tags_have_the_names_of_the_data_set(tmp_path):
    tags = datasets.List(datasets.ClassLabel(names=["O", "B-X", "I-X"]))
    rows = {"tokens": [["a", "b"], ["c"]], "ner_tags": [[1, 2], [0]]}
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner_tags": tags})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    _, task = rows_and_task(settings_of(tmp_path / "a.parquet", "token-classification"))
    assert task.labels == ("O", "B-X", "I-X") and task.numbers == {"0": 0, "1": 1, "2": 2}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"tokens": ["a", "b"], "ner_tags": ["O"]},
            "ner_tags of row 3 has 1 tags, and there are 2 words; give each word its tag",
        ),
        ({"tokens": ["a"], "ner_tags": [None]}, "ner_tags of row 3 has a word without a tag"),
        ({"tokens": ["a", None], "ner_tags": ["O", "O"]}, "tokens of row 3 holds None; give words"),
        (
            {"tokens": ["a"], "ner_tags": ["o"]},
            "a.jsonl: ner_tags is 'O' in row 1 and 'o' in row 3; write one class one way",
        ),
    ],
)
def test_wrong_rows_of_words(tmp_path, row, words):
    with pytest.raises(UniLoraError, match=words):
        tagged(tmp_path, [sentence(1), sentence(2), row])


def test_words_in_a_csv_file_are_refused_with_the_mend(tmp_path):
    for content, words in (
        (
            "EU B-ORG\nrejects O\n\nGerman B-MISC\n",
            r"no column 'tokens'.*reads a list of words and a list of tags: give rows",
        ),
        (
            "tokens,ner_tags\na b,O O\n",
            r"tokens of row 1 is 'a b', and a list is needed; give rows of a .jsonl file such as",
        ),
    ):
        (tmp_path / "a.csv").write_text(content)
        with pytest.raises(UniLoraError, match=words):
            rows_and_task(settings_of(tmp_path / "a.csv", "token-classification"))


def test_empty_rows_of_words_are_counted(tmp_path):
    data, _ = tagged(
        tmp_path, [sentence(1), sentence(5), {"tokens": [], "ner_tags": []}, {"tokens": ["a"], "ner_tags": None}]
    )
    assert data.dropped == {"words": 1, "tags": 1}


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O O", []),
        ("B-A I-A O B-A", [("A", 0, 2), ("A", 3, 4)]),
        ("B-A B-A I-A", [("A", 0, 1), ("A", 1, 3)]),
        ("B-A I-B I-B", [("A", 0, 1), ("B", 1, 3)]),  # an I- of another class begins one, as conlleval has it
        ("I-A I-A O I-A", [("A", 0, 2), ("A", 3, 4)]),
        ("B-PER-x I-PER-x", [("PER-x", 0, 2)]),
    ],
)
def test_entities(tags, found):
    assert sorted(entities(tags.split())) == found


def test_f1_of_entities():
    """By hand: three true, two predicted, of which one has its bounds and its class."""
    true = [["B-A", "I-A", "O", "B-B"], ["B-A"]]
    predicted = [["B-A", "I-A", "O", "B-A"], ["O"]]
    assert entity_f1(predicted, true) == {"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5}
    assert entity_f1([["O"]], [["O"]]) == {"precision": 0, "recall": 0, "f1": 0}


# Runs, and what becomes of their files


def run(base, path, task, tmp_path, **options):
    output = tmp_path / "vec.safetensors"
    settings = {
        "base": base,
        "data": path,
        "output": output,
        "task": task,
        "rank": 2,
        "dim": 100,
        "batch_size": 8,
        "max_length": 16,
    }
    return train(
        TrainSettings(**settings | {"epochs": 10, "lr": 0.05, "head_lr": 0.05, "warmup": 0, "holdout": 0.2} | options)
    ), output


def several(number):
    labels = [name for place, name in enumerate(("loud", "dark")) if (number >> place) % 2]
    return {"text": " ".join(["the", *labels, "film", str(number)]), "label": labels}


RUNS = {
    "multi-label": (several, "micro_f1", "BertForSequenceClassification", "multi_label_classification"),
    "token-classification": (sentence, "f1", "BertForTokenClassification", None),
}


@pytest.mark.parametrize("task", RUNS)
def test_a_run_learns_and_its_file_says_what_its_outputs_are(base, tmp_path, task):
    """And what is merged, and what is exported, is of the class that was trained."""
    make, main, architecture, problem = RUNS[task]
    path = write(tmp_path / "a.jsonl", [make(number) for number in range(120)])
    report, output = run(base, path, task, tmp_path)
    assert report["after"][main] > 0.9 and report["after"]["loss"] < report["before"]["loss"], report
    adapter = load_adapter(output)
    assert (adapter.base.architecture, adapter.base.problem_type) == (architecture, problem)
    assert set(adapter.saved) == {"classifier.weight", "classifier.bias"}
    model, _, warnings = load_base(adapter)
    assert type(model).__name__ == architecture and not warnings
    assert tuple(model.config.id2label.values()) == adapter.base.labels
    merge(output, tmp_path / "merged")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "merged")
    assert config.architectures == [architecture] and tuple(config.id2label.values()) == adapter.base.labels
    assert config.problem_type == problem
    before = output.read_bytes()
    output.unlink()
    run(base, path, task, tmp_path)
    assert output.read_bytes() == before


@pytest.mark.parametrize("task", RUNS)
def test_what_was_trained_is_exported_and_checked(base, tmp_path, task):
    """The class of the base follows from the adapter's record: its folder holds a BERT without a head."""
    from export.check import check_with_torch
    from export.torch_base.from_torch import export_onnx
    from export.torch_base.inputs import real_inputs

    make, *_ = RUNS[task]
    _, output = run(base, write(tmp_path / "a.jsonl", [make(n) for n in range(40)]), task, tmp_path, epochs=1)
    adapter = load_adapter(output)
    model, tokenizer, _ = load_base(adapter)
    first, *more = real_inputs(model, tokenizer)
    report = export_onnx(model, adapter, first, tmp_path / "a.onnx", more_inputs=more)
    assert report["adapter_moves_outputs_by"] > 0
    found = check_with_torch(tmp_path / "a.onnx", [adapter], None, None, lambda step: None)
    assert found["reference"] == "PyTorch" and found["comparison"]["within"], found
