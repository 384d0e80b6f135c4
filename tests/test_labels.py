"""What a column of labels says: classes of any type, cells that are missing, and several labels of one text."""

import json

import pytest

datasets = pytest.importorskip("datasets")

from backends.rows.labels import value_of
from backends.settings import TrainSettings
from backends.torch.tasks import rows_and_task
from unilora_spec import UniLoraError


def settings_of(path, **options):
    return TrainSettings(**{"base": "b", "data": path, "output": "v", **options})


def test_missing_labels_are_dropped_and_counted(tmp_path):
    """In a file of texts, as pandas has them; where cells have types, null and NaN, and a text is a label whatever it says."""
    missing = ["", "  ", "nan", "NaN", "NA", "N/A", "n/a", "null", "NULL", "None", "<NA>", "#N/A"]
    rows = "".join(f"t{number},{label}\n" for number, label in enumerate([*missing, "yes", "no", "none", "Nan"]))
    for name in ("a.csv", "a.tsv"):
        (tmp_path / name).write_text(
            "text,label\n".replace(",", "\t" * 1 if name == "a.tsv" else ",")
            + (rows.replace(",", "\t") if name == "a.tsv" else rows)
        )
        data, task = rows_and_task(settings_of(tmp_path / name, holdout=0))
        assert task.labels == ("Nan", "no", "none", "yes") and data.dropped.total() == len(missing)
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"t{n}", "label": v}) + "\n" for n, v in enumerate([None, "", "NA", "x"]))
    )
    data, task = rows_and_task(settings_of(tmp_path / "a.jsonl", holdout=0))
    assert task.labels == ("NA", "x") and data.dropped.total() == 2


def test_missing_numbers_are_dropped_in_classification_and_regression(tmp_path):
    """A column of whole numbers with gaps is one of floats: its classes are 0 and 1 all the same."""
    labels = [0.0, 1.0, None, float("nan"), 1.0, 0.0]
    datasets.Dataset.from_dict({"text": list("abcdef"), "label": labels}).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("text,label\na,0.0\nb,1.0\nc,\nd,nan\ne,1\nf,0\n")
    for name in ("a.parquet", "a.csv"):
        data, task = rows_and_task(settings_of(tmp_path / name, holdout=0))
        assert task.labels == ("0", "1") and data.dropped.total() == 2
        assert {str(row["label"]): task.numbers[str(row["label"])] for row in data.train} == {
            text: int(float(text)) for text in (("0.0", "1.0") if name == "a.parquet" else ("0.0", "1.0", "0", "1"))
        }
        assert rows_and_task(settings_of(tmp_path / name, holdout=0, task="regression"))[0].dropped.total() == 2


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        ([1, 0, 2], ("0", "1", "2")),
        ([True, False, True], ("False", "True")),
        ([1.0, 0.0, 10.0], ("0", "1", "10")),
        ([" yes", "yes ", "no"], ("no", "yes")),
        (["007", "8"], ("007", "8")),
        (["1.0", "beta", "2.0"], ("1.0", "2.0", "beta")),
        (["[UNK]", "(a)", "[b]"], ("(a)", "[UNK]", "[b]")),
    ],
)
def test_labels_of_any_type_are_classes(tmp_path, cells, labels):
    rows = [{"text": f"t{number}", "label": cell} for number, cell in enumerate(cells)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, task = rows_and_task(settings_of(tmp_path / "a.jsonl", holdout=0))
    assert task.labels == labels
    assert [labels[task.numbers[value_of(cell)]] for cell in cells] == [
        str(int(cell)) if isinstance(cell, float) else str(cell).strip() for cell in cells
    ]


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("cell", [[1, 0], ["a", "b"], [], {"a": 1}, "[1, 0]", "['a', 'b']", "[0.5 1.]", "[]"])
def test_several_labels_of_a_text_are_refused(tmp_path, cell, task):
    path = tmp_path / "a.jsonl"
    first = {} if isinstance(cell, dict) else cell[:0]
    path.write_text("".join(json.dumps({"text": t, "stars": c}) + "\n" for t, c in (("", first), ("b", cell))))
    with pytest.raises(
        UniLoraError, match=r"a\.jsonl: stars of row 2 is .* one label is learned.*; give a column with one"
    ):
        rows_and_task(settings_of(path, label="stars", task=task, holdout=0))


def test_held_out_labels_may_be_written_otherwise(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,0\nb,1\n")
    (tmp_path / "e.csv").write_text("text,label\nc,1.0\nd, 0\n")
    _, task = rows_and_task(settings_of(tmp_path / "a.csv", eval=tmp_path / "e.csv"))
    assert task.labels == ("0", "1") and task.numbers == {"0": 0, "1": 1, "1.0": 1}
    (tmp_path / "e.csv").write_text("text,label\nc,0.5\n")
    with pytest.raises(
        UniLoraError, match="label has the value '0.5' in row 1, which .*a.csv does not have; leave such rows out"
    ):
        rows_and_task(settings_of(tmp_path / "a.csv", eval=tmp_path / "e.csv"))


# Spellings


def classified(tmp_path, cells, name="a.jsonl", **options):
    if name.endswith("csv"):
        (tmp_path / name).write_text("text,label\n" + "".join(f't{n},"{cell}"\n' for n, cell in enumerate(cells)))
    else:
        (tmp_path / name).write_text(
            "".join(json.dumps({"text": f"t{n}", "label": c}) + "\n" for n, c in enumerate(cells))
        )
    return rows_and_task(settings_of(tmp_path / name, **{"holdout": 0} | options))


@pytest.mark.parametrize(
    "other",
    [
        " pos",
        "pos ",
        "\tpos\n",
        "pos\u00a0",
        "\u3000pos",
        "\ufeffpos",
        "p\u200bos",
        "pos\u200e",
        "po\u00ads",
        "\u2060pos",
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_what_cannot_be_seen_makes_no_class(tmp_path, other, name):
    data, task = classified(tmp_path, ["pos", other, "neg"], name)
    assert task.labels == ("neg", "pos") and data.said == ()
    assert [task.label(row["label"]) for row in data.train] == [1, 1, 0]


def test_blanks_within_and_composed_letters(tmp_path):
    _, task = classified(tmp_path, ["very  good", "very\u00a0good", "caf\u00e9", "cafe\u0301", "neg"])
    assert task.labels == ("caf\u00e9", "neg", "very good")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("pos", "Pos"), ("true", "TRUE"), ("True", "true"), ("straße", "STRASSE"), ("it's", "it\u2019s"), ("a-b", "a\u2013b"),
        ('say \'so\'', "say \u201cso\u201d".replace("\u201c", "\u2018").replace("\u201d", "\u2019")), ("pos", "\uff50\uff4f\uff53"), ("fine", "\ufb01ne"),
        ("k\u200cp", "kp"), ("7", "007"), ("+1", "1"), ("0", "-0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_two_spellings_of_a_class_are_refused(tmp_path, one, other, name):
    with pytest.raises(UniLoraError) as error:
        classified(tmp_path, [one, "3", one, other], name)
    words = f"label is {one!r} in row 1 and {other!r} in row 4; write one class one way, and give two classes names that differ"
    assert str(error.value).startswith(f"{tmp_path / name}: {words}")


def test_spellings_of_numbers_beside_names_are_refused(tmp_path):
    with pytest.raises(UniLoraError, match=r"label is '1' in row 1 and '1.0' in row 2"):
        classified(tmp_path, ["1", "1.0", "many"])
    _, task = classified(tmp_path, ["12345678901234567890", "12345678901234567891"])  # equal as floats
    assert len(task.labels) == 2


def test_held_out_labels_in_another_spelling_are_refused(tmp_path):
    (tmp_path / "e.csv").write_text("text,label\nc,pos\nd,Neg\n")
    with pytest.raises(UniLoraError, match=r"label is 'Neg' in row 2 of .*e\.csv and 'neg' in row 2; write one class"):
        classified(tmp_path, ["pos", "neg"], "a.csv", eval=tmp_path / "e.csv")


# A word


def said(data):
    return [line.partition(": ")[2] for line in data.said]


def test_what_is_read_as_no_label_is_said(tmp_path):
    data, _ = classified(tmp_path, ["a", "b", "nan", "N/A", "nan", ""], "a.csv")
    assert said(data) == ["label 'N/A', 'nan' is read as no label"] and data.dropped == {"label": 4}


def test_a_name_as_if_a_value_was_missing_is_said(tmp_path):
    """In a file with types a text is a class; in one of texts, what pandas does not read as missing is."""
    words = "is taken for the name of a class, of {} rows; leave the cell empty where it means none"
    data, task = classified(tmp_path, ["N/A", "a", None, "N/A"])
    assert task.labels == ("N/A", "a") and said(data) == [f"label 'N/A' {words.format(2)}"]
    data, task = classified(tmp_path, ["none", "a", "b"], "a.csv")
    assert task.labels == ("a", "b", "none") and said(data) == [f"label 'none' {words.format(1)}"]


def test_a_class_without_a_row_to_train_on_is_said(tmp_path):
    data, task = classified(tmp_path, ["x", "y"] * 40, holdout=0.3)
    assert said(data) == []
    held_out = next(n for n in range(80) if f"t{n}" in data.held_out["text"])
    cells = ["x", "y"] * 40
    cells[held_out] = "rare"
    data, task = classified(tmp_path, cells, holdout=0.3)
    assert (
        said(data) == ["no row to train on is of label 'rare', so that it cannot be learned"] and "rare" in task.labels
    )


def test_a_class_for_each_row_is_the_wrong_column(tmp_path):
    with pytest.raises(
        UniLoraError, match="each of its 60 rows has a label of its own.*; give --label the column of the labels"
    ):
        classified(tmp_path, [f"text {n}" for n in range(60)])
    data, _ = classified(tmp_path, [f"text {n}" for n in range(60)] * 1 + ["x"] * 20)
    assert said(data) == ["60 of 61 classes have one row each; is label the column of the labels?"]
    data, _ = classified(tmp_path, [f"{n}" for n in range(60)] * 3)
    assert said(data) == []


def test_held_out_rows_that_number_other_classes_are_refused(tmp_path):
    """The number 1 would be another class there."""
    for name, classes in (("a", ["bad", "fair", "good"]), ("b", ["bad", "good"])):
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=classes)})
        rows = {"text": ["x", "y"], "label": [0, 1]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{name}.parquet")
    settings = TrainSettings(base="b", output="v", data=tmp_path / "a.parquet", eval=tmp_path / "b.parquet")
    with pytest.raises(
        UniLoraError, match="b.parquet: the classes of label are 'bad', 'good', and those of .*a.parquet 'bad', 'fair'"
    ):
        rows_and_task(settings)
