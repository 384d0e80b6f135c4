"""After training: what adapters are measured by, predict and generate, their cards, and the way to the hub; on tiny models."""

import csv
import hashlib
import http.server
import json
import os
import re
import threading
from base64 import b64decode

import pytest
import torch
import transformers
import yaml
from talks import bases  # noqa: F401  a fixture
from test_chat_loss import t5
from test_train import base, gpt2, one_thread, own_cache, sentence  # noqa: F401  fixtures
from typer.testing import CliRunner
from warmed import module, warmed

import unilora_spec
from backends.settings import EvaluateSettings, GenerateSettings, PredictSettings, TrainSettings
from backends.torch.__main__ import app
from backends.torch.adapter.attach import load_adapter
from backends.torch.tasks.templates import Template
from backends.torch.training.train import train
from backends.torch.using.answers import Comparison, formula, last_boxed
from backends.torch.using.card import card_beside, is_unchanged
from backends.torch.using.conversation import Speaker, prompts_of
from backends.torch.using.evaluation import evaluate
from backends.torch.using.generation import Generator
from backends.torch.using.hub import pull, push
from backends.torch.using.prediction import predict
from unilora_spec import UniLoraError, WorkFailed

SMALL = {"rank": 2, "batch_size": 16, "max_length": 16}


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A folder with rows: reviews to train on and other ones, numbers, and sums whose answers are a word."""
    folder = tmp_path_factory.mktemp("after")
    rows = [(text, ("neg", "pos")[label]) for text, label in map(sentence, range(220))]
    for name, part in (("reviews", rows[:160]), ("test", rows[160:])):
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *map(",".join, part)]) + "\n")
    (folder / "numbers.csv").write_text("\n".join(["text,label", *(f"{t},{len(t) / 10}" for t, _ in rows[:60])]) + "\n")
    sums = [{"prompt": f"{a}+{b}=", "completion": "odd" if a % 2 else "even"} for a in range(8) for b in range(8)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
    return folder


def trained(work, base, name, **settings):
    """The file of a tiny adapter and the report of its training."""
    output = work / f"{name}.safetensors"
    return output, train(TrainSettings(**{"base": base, "output": output, **settings}))


@pytest.fixture(scope="session")
def classifier(work, base):
    settings = {"data": work / "reviews.csv", "dim": 100, "epochs": 5, "lr": 0.05, "head_lr": 0.02, "warmup": 0}
    return trained(work, base, "reviews", **SMALL, **settings)


@pytest.fixture(scope="session")
def sums(work, gpt2):
    settings = {
        "data": work / "sums.jsonl",
        "task": "causal-lm",
        "targets": "all-linear",
        "kind": "identity",
        "lr": 0.01,
    }
    return trained(work, gpt2, "sums", rank=8, batch_size=16, epochs=5, seed=1, **settings)


def called(*arguments, **options):
    """Exit status and standard output of a command."""
    options = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return CliRunner().invoke(app, [*map(str, arguments), *options])


def refused(call, *arguments, error=UniLoraError, **settings):
    with pytest.raises(error) as caught:
        call(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


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


# Language models


def test_generated_answers_are_compared(sums, work, tmp_path):
    vector, report = sums
    settings = {"adapter": vector, "data": work / "sums.jsonl", "batch_size": 7}
    found = evaluate(
        EvaluateSettings(**settings, generate=True, answer="choice", max_new_tokens=8, mistakes=tmp_path / "m.csv")
    )
    assert found["metrics"]["perplexity"] < found["base_metrics"]["perplexity"]
    generated = found["generated"]
    assert generated["answer"] == "choice" and generated["exact_match"] > generated["base_exact_match"]
    wrong = round((1 - generated["exact_match"]) * 64)
    assert found["mistakes"]["wrong"] == wrong == len(table(tmp_path / "m.csv"))
    held = evaluate(EvaluateSettings(**settings, holdout=0.1))
    assert held["metrics"] == pytest.approx(report["after"], rel=1e-4)  # batches of other sizes
    assert held["base_metrics"] == pytest.approx(report["before"], rel=1e-4)


def test_answers_begin_and_end_as_they_are_told_to(sums, gpt2, work, tmp_path, monkeypatch):
    """The tokens of prompt and beginning are those of one text; an answer ends before the first text that stops it."""
    options = {"adapter": sums[0], "data": tmp_path / "p.jsonl", "output": tmp_path / "o.jsonl", "max_new_tokens": 6}
    (tmp_path / "p.jsonl").write_text('{"prompt": "1+1="}\n{"prompt": "22+3="}\n{"prompt": "4+"}\n')

    def answers(**more):
        predict(PredictSettings(**options, **more))
        return [json.loads(line)["prediction"] for line in (tmp_path / "o.jsonl").read_text().splitlines()]

    model = transformers.AutoModelForCausalLM.from_pretrained(gpt2).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(gpt2)
    load_adapter(model, sums[0])
    begun = [Template(tokenizer).prompt(prompt + "o") for prompt in ("1+1=", "22+3=", "4+")]
    wanted = [tokenizer.decode(_greedy(model, ids, 6, 0), skip_special_tokens=True).strip() for ids in begun]
    assert answers(begin="o") == wanted != answers()
    plain = answers()
    stop = plain[0][1]
    assert answers(stop=f"zz,{stop}") == [text.partition(stop)[0].strip() for text in plain]
    lengths, text_of = [], Generator._text
    with monkeypatch.context() as patch:
        patch.setattr(Generator, "_text", lambda self, ids: lengths.append(len(ids)) or text_of(self, ids))
        answers(stop=stop, batch_size=1)
    assert 2 in lengths  # generated until it stops, and no token more
    (tmp_path / "c.yaml").write_text(
        f"adapter: {sums[0]}\ngenerate: true\nanswer: whole\nmax-new-tokens: 4\nlimit: 3\n"
    )
    found = called("evaluate", "--json", config=tmp_path / "c.yaml", data=work / "sums.jsonl")
    assert found.exit_code == 0 and json.loads(found.stdout)["generated"]["answer"] == "whole"
    (tmp_path / "c.yaml").write_text("task: causal-lm\n")
    found = called("evaluate", config=tmp_path / "c.yaml", adapter=sums[0])
    assert "the option 'task' is unknown" in str(found.exception)
    for option in ("begin", "stop", "answer_after"):
        call = {"adapter": sums[0], "data": "d", option: "a"}
        assert f"--{option.replace('_', '-')} is for generated answers" in refused(EvaluateSettings, **call)


def test_an_encoder_decoder_is_measured_and_answers(bases, tmp_path):
    """T5: each of the three commands, and what it generates is what a decoder does without cache and padding."""
    pairs = [{"source": f"say {word} {number}", "target": word} for number in range(20) for word in ("yes", "no")]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    options = {"data": data, "task": "seq2seq", "epochs": 6, "lr": 0.05, "dim": 100, "targets": "q,v", "rank": 2}
    folder = bases(None, t5)
    vector, report = trained(tmp_path, folder, "words", **options)
    held = evaluate(EvaluateSettings(adapter=vector, data=data, holdout=0.1))
    assert held["task"] == "seq2seq" and held["metrics"] == pytest.approx(report["after"], rel=1e-4)  # other batches
    settings = {"adapter": vector, "data": data, "max_new_tokens": 5, "batch_size": 7}
    found = evaluate(EvaluateSettings(**settings, generate=True, answer="choice", limit=9))
    assert 0 <= found["generated"]["exact_match"] <= 1 and found["rows"]["used"] == 9
    predict(PredictSettings(**settings, output=tmp_path / "out.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["source"] for row in rows] == [pair["source"] for pair in pairs]
    assert any(row["prediction"] for row in rows)
    speaker = Speaker(GenerateSettings(adapter=vector, max_new_tokens=5))
    assert [each["generated"] for each in speaker.answers([row["source"] for row in rows])] == [
        row["prediction"] for row in rows
    ]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    load_adapter(model, vector)
    for row in rows[:4]:
        ids, said = tokenizer(row["source"], return_tensors="pt")["input_ids"], [[0]]
        with torch.no_grad():
            for _ in range(5):
                said[0].append(int(model(input_ids=ids, decoder_input_ids=torch.tensor(said)).logits[0, -1].argmax()))
        end = said[0].index(1) if 1 in said[0] else None
        assert row["prediction"] == tokenizer.decode(said[0][1:end], skip_special_tokens=True).strip()
    assert "--begin is for causal-lm" in refused(
        predict, PredictSettings(**settings, output=tmp_path / "o.csv", begin="a")
    )


def test_a_batch_generates_what_each_prompt_does_alone(sums, work, tmp_path):
    """Prompts of unlike lengths, padded to the left, with a cache."""
    vector, _ = sums
    prompts = ["1+1=", "", "2", "x" * 60, "3+4=5+6="]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    report = predict(
        PredictSettings(adapter=vector, data=tmp_path / "p.jsonl", output=tmp_path / "o.jsonl", max_new_tokens=6)
    )
    assert report["empty"] == {"prompt": 1, "too long": 1}
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == prompts
    assert ["prediction" in row for row in rows] == [True, False, True, False, True]
    model = transformers.AutoModelForCausalLM.from_pretrained(report["base"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(report["base"])
    load_adapter(model, vector)
    for row in rows:
        if "prediction" in row:
            ids = Template(tokenizer).prompt(row["prompt"])
            wanted = _greedy(model, ids, 6, tokenizer.eos_token_id)
            assert row["prediction"] == tokenizer.decode(wanted, skip_special_tokens=True).strip()


@torch.no_grad()
def _greedy(model, ids, count, end):
    """The likeliest tokens, by a whole forward for each: no cache, no padding."""
    for _ in range(count):
        token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token == end:
            return ids[-_:] if _ else []
        ids = [*ids, token]
    return ids[-count:]


CHATML = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def test_a_conversation_is_kept_and_shown_as_training_shows_it(sums, gpt2, tmp_path, monkeypatch, capsys):
    (tmp_path / "chat.jinja").write_text(CHATML)
    settings = GenerateSettings(
        adapter=sums[0], base=gpt2, chat_template=str(tmp_path / "chat.jinja"), max_new_tokens=4
    )
    speaker = Speaker(settings)
    asked = []
    stream = speaker.generator.stream
    monkeypatch.setattr(speaker.generator, "stream", lambda ids: asked.append(ids) or stream(ids))
    speaker.converse(["1+1=\n", "\n", "2\n"])
    decode = speaker.trained.tokenizer.decode
    first = "<user>1+1=\n<assistant>"
    assert decode(asked[0]).endswith(first)
    answer = stream(asked[0])
    assert decode(asked[1]).endswith(f"<user>1+1=\n<assistant>{answer}\n<user>2\n<assistant>")
    speaker.converse(["0123456789\n"] * 3)  # of 48 positions, 44 are for the prompt
    assert "its first 1 turns are left out" in capsys.readouterr().err


def test_the_chat_reads_lines_and_ends_with_them_or_by_ctrl_c(sums, monkeypatch):
    found = CliRunner().invoke(
        app, ["generate", "--adapter", str(sums[0]), "--max-new-tokens", "4"], input="1+1=\n2+2=\n"
    )
    assert found.exit_code == 0 and len(found.stdout.splitlines()) >= 2

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Speaker, "converse", interrupted)
    found = CliRunner().invoke(app, ["generate", "--adapter", str(sums[0])], input="")
    assert found.exit_code == 0


def test_prompts_beside_the_base(sums, work, gpt2, tmp_path):
    (tmp_path / "p.txt").write_text("1+1=\n\n2+2=\n")
    call = ("generate", "--beside-base", "--json")
    found = json.loads(called(*call, adapter=sums[0], prompts=tmp_path / "p.txt", max_new_tokens=5).stdout)["answers"]
    assert [each["prompt"] for each in found] == ["1+1=", "2+2="]
    model = transformers.AutoModelForCausalLM.from_pretrained(gpt2).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(gpt2)
    ids = Template(tokenizer).prompt("1+1=")
    alone = tokenizer.decode(_greedy(model, ids, 5, tokenizer.eos_token_id), skip_special_tokens=True).strip()
    assert found[0]["base"] == alone and found[0]["generated"] != alone
    drawn = [called(*call, adapter=sums[0], prompt="1+1=", temperature=2, seed=seed).stdout for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_files_of_prompts(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n\n{"messages": [{"role": "user", "content": "b"}]}\n')
    assert list(prompts_of(tmp_path / "p.jsonl")) == ["a", [{"role": "user", "content": "b"}]]
    for name, content, said in (
        ("a.jsonl", b"{}\n", "line 1 is no object with a prompt"),
        ("b.jsonl", b"[" * 100_000, "nested deeper than 64"),
        ("e.jsonl", b"[1]\n", "line 1 is no object"),
        ("c.txt", b"\n", "has no prompt in it"),
        ("d.txt", b"\xff", "is not UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        assert said in refused(lambda path: list(prompts_of(path)), tmp_path / name)
    assert "give one of them" in refused(GenerateSettings, adapter="v", prompt="a", prompts="p.txt")


# Whether an answer is right


@pytest.mark.parametrize(
    ("how", "text", "answer", "same"),
    [
        ("whole", "a  b\n", "a b", True),
        ("whole", "a b.", "a b", False),
        ("last-number", "3 + 4 is 7, so the answer is 1,007.", "… #### 1007", True),
        ("last-number", "-2.50", "#### -2.5", True),
        ("last-number", "18 dollars of 20", "#### 18", False),
        ("last-number", "no idea", "#### 18", False),
        ("number", "He makes 9 * 2 = $18 every day", "9 * 2 = <<9*2=18>>18.\n#### 18", False),
        ("number", "1,234,567 dollars of 20", "#### 1234567", True),
        ("number", "$70,000.4", "#### 70,000", True),
        ("number", "It is 7/2, so -4", "#### 4", True),  # 3.5 is rounded to the even 4
        ("number", "18/0", "#### 18", True),
        ("number", "-3", "#### 3", False),
        ("number", "none", "#### 0", False),
        ("boxed", "10,000.\nDone. It is 7", r"\boxed{10000}", True),
        ("boxed", r"The answer is: \frac{2}{4}.", r"\boxed{0.5}", True),
        ("boxed", r"The answer is: -\frac34", r"\boxed{-3/4}", True),
        ("boxed", "The answer is: 1,2", r"\boxed{12}", False),
        ("boxed", "The answer is: x=1,y=2", r"\boxed{1,y=2}", False),
        ("boxed", r"so \boxed{\frac{1}{2}}.", r"\boxed{\dfrac12}", True),
        ("boxed", r"The answer is: x = 0.5", r"\boxed{1/2}", True),
        ("boxed", r"\boxed{1} and then \boxed{\left(2, 3\right)}", r"\boxed{(2,3)}", True),
        ("boxed", r"\boxed{3\text{ cm}}", r"\boxed{3}", True),
        ("boxed", r"\boxed{-1}", r"\boxed{1}", False),
        ("choice", "Yes, it is not bad.", "yes", True),
        ("choice", "No. Yes.", "yes", False),
        ("choice", "yesterday", "yes", False),
    ],
)
def test_answers(how, text, answer, same):
    assert Comparison(how, [answer, *(["yes", "no"] if how == "choice" else [])]).same(text, answer) is same


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("The answer is: 5 of 7. No. The answer is: 18.", True),
        ("18 The answer is: 5", False),
        ("The answer is 18", False),  # as the authors' script has it: without the colon nothing is found
        ("", False),
        (None, False),
    ],
)
def test_what_is_compared_stands_behind_a_text(text, same):
    comparison = Comparison("number", ["#### 18"], "The answer is: ")
    assert comparison.same(text, "#### 18") is same


def test_an_answer_that_has_none_of_the_kind_is_told():
    assert "--answer last-number: the right answer 'seven' has nothing to compare" in refused(
        Comparison, "last-number", ["seven"]
    )
    assert last_boxed(r"\boxed{never closed") is None and formula(r"\sqrt2") == formula(r"\sqrt{2}")


# The card


def test_the_card_says_what_was_done_and_is_the_same_for_the_same_run(classifier, work, tmp_path):
    vector, report = classifier
    card = card_beside(vector).read_text()
    assert report["card"] == str(card_beside(vector))
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "unilora" and front["pipeline_tag"] == "text-classification"
    values = {each["type"]: each["value"] for each in front["model-index"][0]["results"][0]["metrics"]}
    assert values == pytest.approx(report["after"], rel=1e-5)  # six digits are written
    assert hashlib.sha256(vector.read_bytes()).hexdigest() in card
    assert hashlib.sha256((work / "reviews.csv").read_bytes()).hexdigest() in card
    command = re.search(r"python -m backends.torch (train .*)", card)[1].replace(
        str(vector), str(tmp_path / "reviews.safetensors")
    )
    assert called(*command.split()).exit_code == 0
    assert (tmp_path / "reviews.safetensors").read_bytes() == vector.read_bytes()
    assert (tmp_path / "reviews.md").read_text().replace(str(tmp_path), str(work)).split("<!--")[0] == card.split(
        "<!--"
    )[0]


def test_a_card_that_somebody_changed_stays(base, work, tmp_path):
    output = tmp_path / "vec.safetensors"
    settings = {"base": base, "data": work / "numbers.csv", "task": "regression", "dim": 20, "output": output, **SMALL}
    train(TrainSettings(**settings))
    card = card_beside(output)
    assert is_unchanged(card.read_bytes())
    train(TrainSettings(**settings))  # its own card is replaced
    card.write_text(changed := card.read_text().replace("# vec", "# My adapter"))
    assert "somebody has changed it; move it away, or give --no-card" in refused(train, TrainSettings(**settings))
    report = train(TrainSettings(**settings, card=False))
    assert card.read_text() == changed and report["card"] is None


def test_settings_are_written_as_the_options_that_give_them():
    settings = TrainSettings(
        base="b c", data="d", output="v", targets="query,value", ranks="query=2,value=3", where="source=a,b", dim=7, bf16=True,
        holdout=0.2, card=False,
    )  # fmt: skip
    options = settings.as_options()
    assert "--resume" not in options and "--no-card" not in options
    pairs, rest = {}, iter(options)
    for option in rest:
        name = option.removeprefix("--").replace("-", "_")
        pairs[name] = True if name == "bf16" else next(rest)
    assert TrainSettings.from_options(pairs) == settings


# The hub


@pytest.fixture
def online(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def test_what_cannot_be_pushed(classifier, work, tmp_path, monkeypatch):
    vector = tmp_path / "vec.safetensors"
    vector.write_bytes(classifier[0].read_bytes())
    assert "no safetensors file" in refused(push, work / "reviews.csv", "a/b")
    assert "'a//b' is no id of the hub" in refused(push, vector, "a//b")
    assert "HF_HUB_OFFLINE is set" in refused(push, vector, "a/b", error=WorkFailed)
    card_beside(vector).write_text(card_beside(classifier[0]).read_text().replace("SHA-256 ", "SHA-256 " + "0" * 64))
    assert "is the card of another file" in refused(push, vector, "a/b")


def test_nobody_is_logged_in(classifier, online, monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "nobody is logged in to the hub" in refused(push, classifier[0], "a/b")


def test_what_cannot_be_pulled(tmp_path):
    assert "is no id of the hub" in refused(pull, "a b", tmp_path / "v.safetensors")
    assert "HF_HUB_OFFLINE is set" in refused(pull, "a/b", tmp_path / "v.safetensors", error=WorkFailed)
    assert "there is no folder" in refused(pull, "a/b", tmp_path / "no" / "v.safetensors")
    assert list(tmp_path.iterdir()) == []


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a push and a pull ask for."""

    files: dict[str, bytes] = {}  # noqa: RUF012  of one test

    def do_HEAD(self):
        name = self.path.partition("/resolve/main/")[2]
        if name not in self.files:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.files[name])))
            self.send_header("ETag", f'"{hashlib.sha256(self.files[name]).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.files.get(self.path.partition("/resolve/")[2].partition("/")[2], b""))

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if "/preupload/" in self.path:
            asked = json.loads(content)["files"]
            answer = {
                "files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in asked]
            }
        elif "/commit/" in self.path:
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = b64decode(line["value"]["content"])
            answer = {"commitOid": "0" * 40, "commitUrl": "https://huggingface.co/a/b/commit/0"}
        else:
            answer = {"url": "https://huggingface.co/a/b", "repoUrl": "https://huggingface.co/a/b"}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_what_is_pushed_is_pulled_and_nothing_else_takes_its_place(classifier, tmp_path):
    """Through the hub's own library, in a process whose hub is a server here."""
    Hub.files = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_x", "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    program = warmed("import huggingface_hub.constants, backends.torch.commands.hub", **environment)

    def command(*arguments):
        return program.run(module("backends.torch"), *arguments, env=os.environ | environment, timeout=120)

    vector, got = classifier[0], tmp_path / "got.safetensors"
    try:
        done = command("push", "--adapter", vector, "--to", "a/b")
        assert done.returncode == 0, done.stderr
        assert Hub.files == {"unilora.safetensors": vector.read_bytes(), "README.md": card_beside(vector).read_bytes()}
        done = command("pull", "--from", "a/b", "-o", got)
        assert done.returncode == 0, done.stderr
        assert got.read_bytes() == vector.read_bytes()
        assert card_beside(got).read_bytes() == card_beside(vector).read_bytes()
        Hub.files["other.safetensors"] = b"no adapter"
        done = command("pull", "--from", "a/b", "-o", got, "--file", "other.safetensors")
        assert done.returncode == 2 and "other.safetensors is no adapter" in done.stderr
        assert got.read_bytes() == vector.read_bytes()
        done = command("pull", "--from", "a/b", "-o", got, "--file", "none.safetensors")
        assert done.returncode == 2 and "there is no file none.safetensors in it" in done.stderr
    finally:
        server.shutdown()
        server.server_close()
