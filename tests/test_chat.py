"""Rows for language models: their forms, what a template shows of them, what is learned, what is cut."""

import pytest
from runs import own_cache  # noqa: F401  fixtures
from talks import CHATML, bases, row, rows, says, tokenizer  # noqa: F401  fixtures

from backends.rows.forms import Example, Instruction, form_of
from backends.rows.split import LeftOut
from backends.settings import TrainSettings
from backends.tasks.causal_lm import fitted
from backends.tasks.tokenized import TooLong
from backends.torch.tasks import rows_and_task, templates
from backends.torch.tasks.templates import Template
from backends.torch.training.train import train
from backends.torch.using.generation import _ends
from unilora_spec import UniLoraError

MARKED = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
    "{% endgeneration %}{% else %}{{ m.content }}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# As templates of models that reason have it: a former answer is shown without what stands before "=>".
FORGETS = CHATML.replace("{{ m.content }}", "{{ m.content if loop.last else m.content.split('=>')[-1] }}")

NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)


def learned(tokens, tokenizer):
    """What is learned of a row, its parts with | between them."""
    parts, before = [], False
    for token, answer in zip(tokens.ids, tokens.answers):
        parts += ([] if before or not parts else ["|"]) + [tokenizer.decode([token])] if answer else []
        before = answer
    return "".join(parts)


# Forms of rows


@pytest.mark.parametrize(
    ("row", "what", "example"),
    [
        ({"messages": says("q", "a")}, "conversations in messages", Example([], says("q", "a"))),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "id": "x"},
            "conversations in conversations",
            Example([], says("q", "a")),
        ),
        ({"prompt": "q", "completion": "a"}, "prompt and completion", Example("q", "a")),
        (
            {"prompt": says("q"), "completion": says("q", "a")[1:]},
            "prompt and completion",
            Example(says("q"), says("q", "a")[1:]),
        ),
        (
            {"instruction": "do", "input": "x", "output": "y", "text": "all of it"},
            "instruction, input and output",
            Example(Instruction("do", "x"), "y"),
        ),
        ({"instruction": "do", "output": "y"}, "instruction and output", Example(Instruction("do"), "y")),
        ({"source": "q", "target": "a"}, "source and target", Example("q", "a")),
        ({"text": "t", "label": 1}, "texts in text", Example("", "t")),
    ],
)
def test_the_form_is_found_from_the_columns(row, what, example):
    form = form_of(list(row))
    assert form.what == what and form.read({column: row[column] for column in form.columns}) == example


def test_named_columns_go_before_what_is_there():
    row = {"messages": [], "query": "q", "response": "a", "body": "t"}
    assert form_of(list(row), ("body",)).read(row) == Example("", "t")
    assert form_of(list(row), ("query", "response")).read(row) == Example("q", "a")


@pytest.mark.parametrize(
    ("row", "lacks"),
    [
        ({"text": " "}, "text"),
        ({"text": None}, "text"),
        ({"prompt": "q", "completion": "\n"}, "answer"),
        ({"instruction": "", "output": "y"}, "instruction"),
        ({"instruction": "do", "output": None}, "answer"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": says("q")}, "answer"),
        ({"messages": says("q", "")}, "answer"),
    ],
)
def test_rows_that_lack_something_are_left_out_by_what_they_lack(row, lacks):
    with pytest.raises(LeftOut, match=f"^{lacks}$"):
        form_of(list(row)).read(row)


IMAGE = [{"type": "image", "url": "a.png"}, {"type": "text", "text": "what is it?"}]

WRONG = {
    "messages is 'hello' (str); give a list of messages": {"messages": "hello"},
    "message 2 of messages is 'a'": {"messages": [*says("q"), "a"]},
    "message 1 of messages has the role 'narrator'; give one of system, developer, user": {
        "messages": [{"role": "narrator", "content": "q"}, *says("q", "a")]
    },
    "message 1 of messages has the role None": {"messages": [{"content": "q"}]},
    "message 1 of messages has a list as its content, as messages with images": {
        "messages": [{"role": "user", "content": IMAGE}, *says("q", "a")[1:]]
    },
    "message 2 of messages has the content 'None'; give a text": {"messages": [*says("q"), {"role": "assistant", "content": None}]},
    "message 2 of messages calls a tool": {"messages": [*says("q"), {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}]},
    "message 1 of conversations has the role 'bing'": {"conversations": [{"from": "bing", "value": "q"}]},
    "prompt is 'q' (str); give a list of messages": {"prompt": "q", "completion": says("q", "a")[1:]},
    "completion is '5' (int); give a text": {"prompt": "q", "completion": 5},
}  # fmt: skip


@pytest.mark.parametrize("why", WRONG)
def test_a_wrong_row_is_told_by_file_row_and_mend(why, rows, tmp_path):
    path = rows(WRONG[why])
    with pytest.raises(UniLoraError) as error:
        rows_and_task(TrainSettings(base="b", output="v", data=str(path), task="causal-lm"))
    assert str(error.value).startswith(f"{path}: row 1: {why}") and "\n" not in str(error.value)


def test_columns_of_no_form_are_told_with_the_forms(rows):
    with pytest.raises(
        UniLoraError, match=r"rows.jsonl: of its columns \(question, answer\) none is messages, .*--text COLUMN"
    ):
        rows_and_task(
            TrainSettings(base="b", output="v", data=str(rows({"question": "q", "answer": "a"})), task="causal-lm")
        )


# What is shown, and what is learned of it


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_every_answer_is_learned_with_what_ends_it(template):
    tokens = tokenizer(template)
    messages = says("be kind", "one?", "1", "two?", "2 ab", system=True)
    example = Template(tokens).example(Example([], messages))
    end = "\n" if template == CHATML else ""  # the template says what is the answer's, where it has words for it
    assert learned(example, tokens) == f"1</s>{end}|2 ab</s>{end}"
    assert tokens.decode(example.ids) == tokens.apply_chat_template(messages, tokenize=False)
    asked = Template(tokens).prompt(messages[:4])
    assert (
        example.ids[: len(asked)] == asked
        and asked == tokens.apply_chat_template(messages[:4], add_generation_prompt=True)["input_ids"]
    )
    last = Template(tokens).example(Example(messages[:4], messages[4:]))
    assert last.ids == example.ids and learned(last, tokens) == f"2 ab</s>{end}"


def test_our_marks_are_those_of_transformers():
    tokens, messages = tokenizer(MARKED), says("one?", "1", "two?", "ab")
    theirs = tokens.apply_chat_template(messages, return_assistant_tokens_mask=True)
    ours = Template(tokens).example(Example([], messages))
    assert ours.ids == theirs["input_ids"] and ours.answers == list(map(bool, theirs["assistant_masks"]))


def test_a_token_never_reaches_from_the_prompt_into_the_answer():
    tokens = tokenizer()
    example = Template(tokens).example(Example("xa", "bc"))
    assert tokens.convert_ids_to_tokens(example.ids) == ["x", "a", "b", "c", "</s>"]  # "xabc" has the token "ab"
    assert example.ids[:2] == Template(tokens).prompt("xa") and learned(example, tokens) == "bc</s>"
    whole = Template(tokens).example(Example("x", "abc"))
    assert tokens.convert_ids_to_tokens(whole.ids) == ["x", "ab", "c", "</s>"]


def test_texts_begin_and_end_once():
    tokens = tokenizer(bos=True)
    template = Template(tokens)
    assert tokens.decode(template.example(Example("", "t")).ids) == "<s>t</s>"
    assert tokens.decode(template.example(Example("<s>q", "a</s>")).ids) == "<s>qa</s>"
    assert tokens.decode(template.prompt("q")) == "<s>q"
    assert learned(template.example(Example("q", "a")), tokens) == "a</s>"


def test_what_instructions_and_prompts_are_shown_as(tmp_path):
    """By default instructions by the tokenizer's template, else Alpaca's; texts as they are; both as --chat-template says."""
    do, text = Example(Instruction("Do it.", "x"), "y"), Example("Do it.", "y")

    def shown(template, chosen, example):
        tokens = tokenizer(template)
        return tokens.decode(Template(tokens, chosen).example(example).ids)

    alpaca = (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that "
        "appropriately completes the request.\n\n### Instruction:\nDo it.\n\n### Input:\nx\n\n### Response:y</s>"
    )
    assert shown(None, None, do) == shown(CHATML, "alpaca", do) == alpaca
    assert "### Instruction:\nDo it.\n\n### Response:y</s>" in shown(None, "alpaca", text)
    assert shown(CHATML, None, do) == "<|user|>Do it.\n\nx</s>\n<|assistant|>y</s>\n"
    assert shown(None, None, text) == shown(CHATML, None, text) == "Do it.y</s>"
    assert shown(CHATML, "own", text) == "<|user|>Do it.</s>\n<|assistant|>y</s>\n"
    (tmp_path / "my.jinja").write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    assert shown(CHATML, str(tmp_path / "my.jinja"), text) == "[Do it.][y]"


@pytest.mark.parametrize(
    ("template", "messages", "why"),
    [
        (None, says("q", "a"), "has no chat template, which conversations need; give --chat-template a file of Jinja"),
        (
            NO_SYSTEM,
            says("s", "q", "a", system=True),
            "refuses a conversation of system, user, assistant: System role not supported",
        ),
        (FORGETS, says("q", "so=>1", "q", "2"), "shows a turn differently once another follows"),
        ("{% for %}", says("q", "a"), "the chat template refuses a conversation of user, assistant: "),
        ("{% for m in messages %}{{ m.name.first }}{% endfor %}", says("q", "a"), "refuses a conversation"),
    ],
)
def test_a_template_that_does_not_serve_is_told(template, messages, why):
    with pytest.raises(UniLoraError) as error:
        Template(tokenizer(template)).example(Example([], messages))
    assert why in str(error.value) and "\n" not in str(error.value)


LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


def test_a_template_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr(templates, "SECONDS", 0.2)
    with pytest.raises(UniLoraError, match=r"refuses a conversation of user: it takes more than 0.2 seconds"):
        Template(tokenizer(LOOPS)).prompt(says("q")[:1])


def test_a_template_that_does_not_end_is_waited_for_once(monkeypatch):
    """Not where the end of an answer is looked for and then for each prompt."""
    monkeypatch.setattr(templates, "SECONDS", 0.05)
    with pytest.raises(UniLoraError, match="more than 0.05 seconds"):
        _ends(Template(tokenizer(LOOPS)), None)
    assert _ends(Template(tokenizer("{{ messages.none.such }}")), None)


def test_a_template_that_forgets_serves_one_turn_and_all_tokens():
    tokens = tokenizer(FORGETS)
    assert learned(Template(tokens).example(Example([], says("q", "so=>1"))), tokens) == "so=>1</s>\n"
    assert all(Template(tokens).example(Example([], says("q", "so=>1", "q", "2")), all_tokens=True).answers)


def test_choices_of_a_template_are_refused_by_name(tmp_path):
    with pytest.raises(UniLoraError, match="tokenizer has no chat template"):
        Template(tokenizer(), "own")
    with pytest.raises(
        UniLoraError, match=r"--chat-template: .*no.jinja is no file; give a file of Jinja, own or alpaca"
    ):
        Template(tokenizer(), str(tmp_path / "no.jinja"))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe{")
    with pytest.raises(UniLoraError, match="is not UTF-8"):
        Template(tokenizer(), str(tmp_path / "bytes"))


# What is cut


@pytest.mark.parametrize(
    ("tokens", "ids"),
    [
        (row(1, 9, kept=1), [0, 1, 2, 3, 4, 5]),  # a text
        (row(2, 4), [0, 1, 2, 3, 4, 5]),
        (row(2, 2, 1, 1, 3), [0, 1, 2, 3, 4, 5]),  # an answer that fits to the token
        (row(2, 2, 1, 2), [0, 1, 2, 3]),  # a conversation's last turn
        (row(5, 3, kept=1), [0, 3, 4, 5, 6, 7]),  # a prompt's start, but for what the text begins with
        (row(9, 4, kept=1), [0, 8, 9, 10, 11, 12]),
    ],
)
def test_an_answer_is_whole(tokens, ids):
    assert fitted(tokens, 6).ids == ids


@pytest.mark.parametrize(
    ("tokens", "needs"), [(row(5, 3), 8), (row(1, 7, 1, 2), 8), (row(2, 5, kept=1), 7), (row(3, 6, kept=0), 7)]
)
def test_a_row_whose_answer_does_not_fit_says_what_it_needs(tokens, needs):
    with pytest.raises(TooLong) as error:
        fitted(tokens, 6)
    assert error.value.needs == needs


def test_cut_and_left_out_rows_are_counted_and_said(bases, rows, tmp_path, capfd):
    asked = [{"prompt": "q" * 5, "completion": "a" * (3 + number % 3)} for number in range(20)]
    path = rows(
        *asked,
        {"prompt": "q" * 90, "completion": "long"},
        {"prompt": "q", "completion": "a" * 90},
        {"prompt": "q", "completion": ""},
    )
    options = {
        "base": bases(),
        "data": path,
        "output": tmp_path / "v",
        "task": "causal-lm",
        "holdout": 0,
        "rank": 2,
        "dim": 50,
    }
    report = train(TrainSettings(**options, max_length=20, batch_size=8), progress=True)
    assert report["rows"] == {
        "train": 21, "held_out": 0, "dropped": {"answer": 1, "answer within 20 tokens": 1}, "cut": 1,
    }  # fmt: skip
    said = capfd.readouterr().err
    assert (
        "21 rows to train on; left out: 1 has no answer, 1 has no answer within 20 tokens; prompt and completion, 1 cut to 20 tokens"
        in said
    )
    with pytest.raises(
        UniLoraError,
        match=r"rows.jsonl: no answer fits in 3 tokens; the shortest row takes 5; give a larger --max-length",
    ):
        train(TrainSettings(**options, max_length=3, overwrite=True))
