"""After training: what an adapter is worth, what it says of rows, and adapters and bases that do not fit."""

import json

import pytest
import torch
import transformers
from after_training import SMALL, called, classifier, refused, sums, table, trained, work  # noqa: F401  fixtures
from runs import (  # noqa: F401  fixtures
    base,
    gpt2,
    one_thread,
    own_cache,
    sentence,
)

import unilora_spec
from backends.settings import EvaluateSettings, GenerateSettings, PredictSettings
from backends.torch.adapter.attach import load_adapter
from backends.torch.using.conversation import Speaker
from backends.torch.using.evaluation import evaluate
from backends.torch.using.prediction import predict

# Evaluating


def test_evaluation_gives_what_training_measured(classifier, work):
    vector, report = classifier
    found = evaluate(EvaluateSettings(adapter=vector, data=work / "reviews.csv", holdout=0.1, **_read()))
    assert found["rows"]["used"] == report["rows"]["held_out"]
    # The same rows in batches of other sizes, so that sums are rounded otherwise.
    assert found["metrics"] == pytest.approx(report["after"], rel=1e-4)
    assert found["base_metrics"] is None and found["task"] == "classification"  # the base has no head


def _read():
    return {"max_length": 16, "batch_size": 7}


def test_mistakes_are_the_wrong_rows_the_most_certain_first(classifier, work, tmp_path):
    vector, _ = classifier
    file = tmp_path / "mistakes.csv"
    predictions = tmp_path / "predictions.csv"
    rows = table(work / "test.csv")
    for row in rows[::3]:  # so that there are mistakes, whatever was learned
        row["label"] = {"pos": "neg", "neg": "pos"}[row["label"]]
    data = tmp_path / "wrong.csv"
    data.write_text("\n".join(["text,label", *(f"{row['text']},{row['label']}" for row in rows)]) + "\n")
    found = evaluate(EvaluateSettings(adapter=vector, data=data, mistakes=file, **_read()))
    predict(PredictSettings(adapter=vector, data=data, output=predictions, **_read()))
    wrong = {number: row for number, row in enumerate(table(predictions), 1) if row["prediction"] != row["label"]}
    told = table(file)
    assert {int(row["row"]) for row in told} == wrong.keys() and len(told) >= 10
    assert all(row["text"] == wrong[int(row["row"])]["text"] for row in told)
    certain = [float(row["probability"]) for row in told]
    assert certain == sorted(certain, reverse=True)
    assert found["mistakes"]["wrong"] == len(wrong) and found["mistakes"]["of"] == len(rows)
    assert sum(each["count"] for each in found["mistakes"]["confusion"]) == len(wrong)
    assert found["metrics"]["accuracy"] == pytest.approx(1 - len(wrong) / len(rows))


def test_some_of_the_classes_are_enough(classifier, work, tmp_path):
    rows = [row for row in table(work / "test.csv") if row["label"] == "pos"]
    (tmp_path / "one.csv").write_text("\n".join(["text,label", *(f"{row['text']},pos" for row in rows)]) + "\n")
    found = evaluate(EvaluateSettings(adapter=classifier[0], data=tmp_path / "one.csv", **_read()))
    assert found["mistakes"]["of"] == len(rows)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace(",pos", ",meh", 1), "has the value 'meh' in row 2"),
        (lambda text: text.replace(",pos", ",Pos", 1), "'Pos' in row 2"),
        (lambda text: text.replace("label", "mark", 1), "there is no column 'label'"),
        (lambda text: text.replace("text", "said", 1), "there is no column 'text'"),
    ],
)
def test_rows_that_an_adapter_does_not_know(classifier, work, tmp_path, change, said):
    (tmp_path / "other.csv").write_text(change((work / "test.csv").read_text()))
    assert said in refused(evaluate, EvaluateSettings(adapter=classifier[0], data=tmp_path / "other.csv"))


def test_a_base_with_a_head_is_measured_too(work, base, tmp_path, classifier):
    """An adapter on a base that has been trained before, whose head it trains on."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        base, id2label={0: "neg", 1: "pos"}, label2id={"neg": 0, "pos": 1}
    )
    model.save_pretrained(tmp_path / "headed")
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "headed")
    vector, report = trained(
        tmp_path,
        tmp_path / "headed",
        "more",
        data=work / "reviews.csv",
        dim=100,
        train_in_full="classifier",
        lr=0.05,
        **SMALL,
    )
    found = evaluate(EvaluateSettings(adapter=vector, data=work / "reviews.csv", holdout=0.1, **_read()))
    assert found["base_metrics"] == pytest.approx(report["before"], rel=1e-4)  # rounding, as above
    assert found["metrics"] == pytest.approx(report["after"], rel=1e-4)
    assert found["base_metrics"]["loss"] != pytest.approx(found["metrics"]["loss"], rel=1e-3)


def test_numbers(work, base, tmp_path):
    vector, report = trained(tmp_path, base, "numbers", data=work / "numbers.csv", task="regression", dim=50, **SMALL)
    found = evaluate(EvaluateSettings(adapter=vector, data=work / "numbers.csv", holdout=0.1, **_read()))
    assert found["metrics"] == pytest.approx(report["after"], rel=1e-4)
    errors = [each["error"] for each in found["mistakes"]["examples"]]
    assert errors == sorted(errors, reverse=True) and found["mistakes"]["by"] == "error"
    predict(PredictSettings(adapter=vector, data=work / "numbers.csv", output=tmp_path / "out.jsonl", **_read()))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(rows) == 60 and all(isinstance(row["prediction"], float) and "probability" not in row for row in rows)


def test_several_labels_and_a_label_a_word(work, base, tmp_path):
    films = [{"text": text, "label": ["long"] * (n % 3 == 0) + ["good"] * (n % 2)} for n, (text, _) in
             enumerate(map(sentence, range(80)))]  # fmt: skip
    words = [{"tokens": row["text"].split(), "ner_tags": ["B-X" if w in ("good", "great") else "O" for w in row["text"].split()]}
             for row in films]  # fmt: skip
    for name, rows in (("films", films), ("words", words)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, task in (("films", "multi-label"), ("words", "token-classification")):
        data = tmp_path / f"{name}.jsonl"
        vector, report = trained(tmp_path, base, name, data=data, task=task, dim=50, **SMALL)
        found = evaluate(EvaluateSettings(adapter=vector, data=data, holdout=0.1, **_read()))
        assert found["task"] == task and found["metrics"] == pytest.approx(report["after"], rel=1e-4)
        assert found["mistakes"]["confusion"]
        predict(PredictSettings(adapter=vector, data=data, output=tmp_path / "out.jsonl", **_read()))
        rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert len(rows) == 80 and all(set(row["prediction"]) <= {"long", "good", "O", "B-X"} for row in rows)
        if name == "words":
            assert all(len(row["prediction"]) == len(row["tokens"]) for row in rows)


# Predicting


def test_every_row_comes_out_in_its_order(classifier, work, tmp_path):
    vector, _ = classifier
    texts = ["the film is good", "", "the plot is dull", "   ", "is bad", "a very very very long film is great"]
    (tmp_path / "rows.csv").write_text("\n".join(["number,text", *(f"{n},{t}" for n, t in enumerate(texts))]) + "\n")
    settings = PredictSettings(
        adapter=vector, data=tmp_path / "rows.csv", output=tmp_path / "out.csv", probabilities=True, **_read()
    )
    report = predict(settings)
    assert report["rows"] == 6 and report["empty"] == {"text": 2}
    rows = table(tmp_path / "out.csv")
    assert [row["text"] for row in rows] == texts and [row["number"] for row in rows] == list("012345")
    assert [row["prediction"] == "" for row in rows] == [False, True, False, True, False, False]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(settings.base, num_labels=2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(settings.base)
    load_adapter(model.eval(), vector)
    for row in rows:
        if row["prediction"]:
            with torch.no_grad():
                wanted = model(**tokenizer(row["text"], return_tensors="pt")).logits.softmax(-1)[0]
            # Six digits are written, of batches with padding.
            assert float(row["probability of pos"]) == pytest.approx(float(wanted[1]), abs=1e-5)
            assert row["prediction"] == ("neg", "pos")[int(wanted.argmax())]
            assert float(row["probability"]) == pytest.approx(float(wanted.max()), abs=1e-5)
    before = (tmp_path / "out.csv").read_bytes()
    predict(settings)
    assert (tmp_path / "out.csv").read_bytes() == before


def test_a_cell_that_is_no_text_is_told_with_its_row(classifier, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": [{"role": "user"}]}\n')
    call = PredictSettings(adapter=classifier[0], data=tmp_path / "rows.jsonl", output=tmp_path / "out.csv")
    assert "rows.jsonl: text of row 1 is a list of objects" in refused(predict, call)


def test_places_and_columns_that_are_taken(classifier, work, tmp_path):
    vector, _ = classifier
    data = tmp_path / "rows.csv"
    data.write_bytes(before := (work / "test.csv").read_bytes())
    call = {"adapter": vector, "data": data}
    assert "in what --data reads" in refused(predict, PredictSettings(**call, output=data))
    assert data.read_bytes() == before
    assert "there is no folder" in refused(predict, PredictSettings(**call, output=tmp_path / "no" / "out.csv"))
    assert "--output is" in refused(PredictSettings, **call, output=tmp_path / "out.xlsx")
    predict(PredictSettings(**call, output=tmp_path / "out.csv"))
    again = PredictSettings(adapter=vector, data=tmp_path / "out.csv", output=tmp_path / "more.csv")
    assert "there is a column 'prediction' already" in refused(predict, again)
    assert "in what --adapter reads" in refused(predict, PredictSettings(adapter=_named(vector, tmp_path / "v.csv"), data=data,
                                                                        output=tmp_path / "v.csv"))  # fmt: skip


def _named(vector, path):
    path.write_bytes(vector.read_bytes())
    return path


# Adapters and bases that do not fit


def test_other_bases_and_files(classifier, sums, work, gpt2, base, tmp_path):
    vector, lm = classifier[0], sums[0]
    call = {"data": work / "test.csv"}
    assert "reviews.csv: this is no safetensors file" in refused(
        evaluate, EvaluateSettings(adapter=work / "reviews.csv", **call)
    )
    assert "no such folder" in refused(evaluate, EvaluateSettings(adapter=vector, base="nowhere", **call))
    assert "BertForSequenceClassification" in refused(evaluate, EvaluateSettings(adapter=vector, base=gpt2, **call))
    assert "is no adapter of a language model" in refused(Speaker, GenerateSettings(adapter=vector))
    assert "--generate is for language models" in refused(
        evaluate, EvaluateSettings(adapter=vector, generate=True, **call)
    )
    assert "none is messages" in refused(evaluate, EvaluateSettings(adapter=lm, data=_other(tmp_path)))
    other = tmp_path / "other"
    model = transformers.AutoModel.from_pretrained(base)
    model.encoder.layer[0].attention.self.query.weight.data += 1
    model.save_pretrained(other)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(other)
    found = evaluate(EvaluateSettings(adapter=vector, base=other, **call))
    assert "weights are not those" in found["warnings"][0]
    found = called("evaluate", adapter=vector, base=other, **call)
    assert found.exit_code == 0 and "warning: the model's weights are not those" in found.stderr


def _other(folder):
    (folder / "other.csv").write_text("a,b\n1,2\n")
    return folder / "other.csv"


def test_the_folder_of_the_record_is_taken_and_nothing_is_fetched(classifier, work, tmp_path):
    adapter = unilora_spec.load_adapter(classifier[0])
    object.__setattr__(adapter.base, "name", "somebody/model")
    unilora_spec.save_adapter(adapter, tmp_path / "far.safetensors")
    said = refused(evaluate, EvaluateSettings(adapter=tmp_path / "far.safetensors", data=work / "test.csv"))
    assert said.startswith(f"{tmp_path}/far.safetensors") and "nothing is fetched because a file names it" in said
