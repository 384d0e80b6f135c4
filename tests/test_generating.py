"""After the training of a language model: what it is worth, what it says, and whether an answer is right."""

import json

import pytest
import torch
import transformers
from after_training import called, refused, sums, table, trained, work  # noqa: F401  fixtures
from runs import base, gpt2, one_thread, own_cache  # noqa: F401  fixtures
from talks import bases  # noqa: F401  a fixture
from test_chat_loss import t5
from typer.testing import CliRunner

from backends.settings import EvaluateSettings, GenerateSettings, PredictSettings
from backends.torch.__main__ import app
from backends.torch.adapter.attach import load_adapter
from backends.torch.tasks.templates import Template
from backends.torch.using.answers import Comparison, formula, last_boxed
from backends.torch.using.conversation import Speaker, prompts_of
from backends.torch.using.evaluation import evaluate
from backends.torch.using.generation import Generator
from backends.torch.using.prediction import predict

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
