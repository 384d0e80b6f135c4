"""What a column of labels says: classes of any type, cells that are missing, and several labels of one text."""

import json

import pytest

datasets = pytest.importorskip("datasets")

from backends.torch.settings import TrainSettings
from backends.torch.rows.labels import value_of
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
    data, task = rows_and_task(settings_of(tmp_path / "a.jsonl", holdout=0))
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
    data, task = rows_and_task(settings_of(tmp_path / "a.csv", eval=tmp_path / "e.csv"))
    assert task.labels == ("0", "1") and task.numbers == {"0": 0, "1": 1, "1.0": 1}
    (tmp_path / "e.csv").write_text("text,label\nc,0.5\n")
    with pytest.raises(UniLoraError, match="label has the value '0.5' in row 1, which .*a.csv has not"):
        rows_and_task(settings_of(tmp_path / "a.csv", eval=tmp_path / "e.csv"))
