"""Rows for language models: forms, templates, what is learned, what is cut, packing, seq2seq; on models that train in a second."""

import inspect
import json

import datasets
import pytest
import torch
import transformers as T
from test_train import own_cache  # noqa: F401  fixtures
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional

from backends.rows.forms import Example, Instruction, form_of
from backends.rows.split import LeftOut
from backends.settings import DataSettings, TrainSettings
from backends.tasks.causal_lm import fitted
from backends.tasks.losses import NOT_LEARNED
from backends.tasks.templates import Tokens
from backends.tasks.tokenized import TooLong
from backends.torch.tasks import rows_and_task, templates
from backends.torch.tasks.causal_lm import CausalLM
from backends.torch.tasks.packing import check_apart, packed
from backends.torch.tasks.templates import Template
from backends.torch.training.base import prepare, quiet
from backends.torch.training.train import train
from backends.torch.using.generation import _ends
from unilora_spec import UniLoraError, load_adapter

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
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


def tokenizer(template=None, bos=False):
    """A token each byte, and "ab" as one."""
    letters = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    tokens = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, [("a", "b")]))
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made = T.PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="</s>", bos_token="<s>", pad_token="<s>")
    if bos:
        from tokenizers.processors import TemplateProcessing

        made.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.chat_template = template
    return made


def llama(**options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return T.LlamaForCausalLM(
        T.LlamaConfig(vocab_size=260, **sizes, initializer_range=0.2, max_position_embeddings=512, **options)
    )


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Gives the folder of a base: of ``made``, a model, with a tokenizer of this chat template."""
    kept = {}

    def folder(template=None, make=llama):
        if (template, make) not in kept:
            path = kept[template, make] = tmp_path_factory.mktemp("base")
            make().save_pretrained(path)
            tokenizer(template).save_pretrained(path)
        return kept[template, make]

    return folder


@pytest.fixture
def rows(tmp_path):
    """Writes rows to a .jsonl file."""

    def write(*rows, name="rows.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    return write


def says(*contents, system=False):
    """Messages in turns: the user's, then the assistant's."""
    roles = (["system"] if system else []) + ["user", "assistant"] * len(contents)
    return [{"role": role, "content": content} for role, content in zip(roles, contents)]


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


def row(*lengths, kept=None):
    """Tokens 0, 1, … in runs of these lengths, every second of which is an answer."""
    answers = [bool(run % 2) for run, length in enumerate(lengths) for _ in range(length)]
    return Tokens(list(range(len(answers))), answers, kept)


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


# The loss, by our own arithmetic


def task_of(base, path, **options):
    with quiet():
        model, _, data, task = prepare(
            TrainSettings(base=base, data=path, output="v", task="causal-lm", holdout=0, **options)
        )
    return model.eval(), data.train, task


TALK = says("one?", "1", "and two, which comes after it?", "2 ab")


@pytest.mark.parametrize("loss_on", ["answers", "all"])
def test_the_loss_is_the_mean_over_what_is_learned(bases, rows, loss_on):
    model, data, task = task_of(
        bases(CHATML), rows({"messages": TALK}, {"messages": says("hm", "so")}), loss_on=loss_on
    )
    batch = task.batch(data)
    with torch.no_grad():
        loss, losses = task.loss(model, batch)
    total, tokens = 0.0, 0
    for messages in (TALK, says("hm", "so")):
        example = Template(tokenizer(CHATML)).example(Example([], messages))
        with torch.no_grad():
            logits = model(torch.tensor([example.ids])).logits[0]
        chosen = [place for place in range(1, len(example.ids)) if example.answers[place] or loss_on == "all"]
        total += functional.cross_entropy(
            logits[[place - 1 for place in chosen]], torch.tensor(example.ids)[chosen], reduction="sum"
        )
        tokens += len(chosen)
    assert task.items(batch["labels"]) == tokens
    assert torch.allclose(loss, total / tokens, rtol=1e-5)  # float32 sums of a hundred terms in another order
    measured = task.measure(losses, batch)
    assert task.metrics(*(each.detach().numpy() for each in measured))["loss"] == pytest.approx(loss.item(), rel=1e-5)


# Packing


def test_packs_are_full_and_hold_every_row_once():
    lengths = [7, 3, 5, 2, 2, 1, 9, 4, 6, 1]
    rows = datasets.Dataset.from_dict(
        {
            name: [[100 * row + place for place in range(length)] for row, length in enumerate(lengths)]
            for name in ("input_ids", "labels")
        }
    )
    packs = packed(rows, 10)
    assert len(packs) == 4 == sum(lengths) // 10  # 40 tokens
    found = []
    for pack in packs:
        start = 0
        for length in pack["lengths"]:
            ids, labels = (pack[name][start : start + length] for name in ("input_ids", "labels"))
            assert labels == [NOT_LEARNED, *ids[1:]]
            found.append(ids)
            start += length
        assert start == len(pack["input_ids"]) <= 10
    assert sorted(found) == sorted(rows["input_ids"])


def gpt2():
    torch.manual_seed(0)
    return T.GPT2LMHeadModel(
        T.GPT2Config(vocab_size=260, n_embd=32, n_layer=2, n_head=2, n_positions=256, initializer_range=0.2)
    )


def gemma():
    """Windows of attention, shorter than its rows."""
    torch.manual_seed(0)
    return T.Gemma3ForCausalLM(
        T.Gemma3TextConfig(
            vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
            sliding_window=8, layer_types=["sliding_attention", "full_attention"], initializer_range=0.2,
        )
    )  # fmt: skip


TALKS = [
    {"messages": says("a question of " + "many " * (number % 4) + "words", f"answer {number}" * (1 + number % 3))}
    for number in range(12)
]


@pytest.mark.parametrize("make", [llama, gpt2, gemma])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_loss_is_that_of_the_rows(bases, rows, make, attention):
    path, losses, lengths = rows(*TALKS), [], []
    for packing in (False, True):
        model, data, task = task_of(bases(CHATML, make), path, packing=packing, max_length=200)
        model.set_attn_implementation(attention)
        batch = task.batch(data)
        losses.append(task.loss(model, batch)[0])
        lengths.append(batch["input_ids"].shape)
    assert lengths[1][0] < 6 < lengths[0][0] == 12
    assert torch.allclose(*losses, rtol=1e-5)  # float32 sums in another order


def mamba():
    torch.manual_seed(0)
    return T.MambaForCausalLM(T.MambaConfig(vocab_size=260, hidden_size=32, num_hidden_layers=1, state_size=4))


def qwen3_next():
    """Attention and a recurrence by turns; it takes positions."""
    torch.manual_seed(0)
    return T.Qwen3NextForCausalLM(
        T.Qwen3NextConfig(
            vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            head_dim=16, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16, shared_expert_intermediate_size=16,
            linear_num_key_heads=1, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
            layer_types=["linear_attention", "full_attention"],
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (mamba, "MambaForCausalLM takes no positions, so that rows cannot be held apart"),
        (qwen3_next, "Qwen3NextForCausalLM cannot hold packed rows apart"),
    ],
)
def test_packing_is_refused_by_name_where_a_row_sees_those_before_it(bases, rows, make, why):
    with pytest.raises(UniLoraError, match=why):
        task_of(bases(CHATML, make), rows(*TALKS), packing=True)


def test_a_row_that_is_seen_is_found_where_rounding_hides_it():
    """In bfloat16 this model's losses are the same to their last bit with and without a row before; the gradient tells them apart."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = T.BertLMHeadModel(T.BertConfig(vocab_size=100, **sizes, is_decoder=True)).eval().bfloat16()
    task = CausalLM(DataSettings(task="causal-lm"))
    task.inputs = frozenset(inspect.signature(model.forward).parameters)
    with pytest.raises(UniLoraError, match="BertLMHeadModel cannot hold packed rows apart"):
        check_apart(task, model)


def test_planners_look_at_rows_of_language_models(bases, rows, tmp_path):
    options = {
        "base": bases(CHATML),
        "data": rows(*TALKS),
        "output": tmp_path / "v",
        "task": "causal-lm",
        "rank": 2,
        "dim": 100,
    }
    for more in ({"ranks": "gelora"}, {"ranks": "hetero", "packing": True, "max_length": 400}):
        assert train(TrainSettings(**options | more, overwrite=True))["ranks"]["planner"] == more["ranks"]
    with pytest.raises(UniLoraError, match="--ranks gelora looks at rows one by one; leave --packing out"):
        TrainSettings(**options, ranks="gelora", packing=True)


def test_packing_trains(bases, rows, tmp_path, capfd):
    options = {
        "base": bases(CHATML),
        "data": rows(*TALKS * 4),
        "output": tmp_path / "v",
        "task": "causal-lm",
        "packing": True,
    }
    report = train(
        TrainSettings(**options, max_length=400, batch_size=2, epochs=4, lr=0.05, rank=2, dim=100), progress=True
    )
    assert report["after"]["perplexity"] < report["before"]["perplexity"]
    assert report["rows"]["packed"] > 3 * report["rows"]["train"]
    assert f", {report['rows']['packed']} rows packed in {report['rows']['train']}" in capfd.readouterr().err


# Encoders with decoders


def t5():
    torch.manual_seed(0)
    return T.T5ForConditionalGeneration(
        T.T5Config(vocab_size=260, d_model=32, d_kv=16, d_ff=48, num_layers=1, num_heads=2, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
    )  # fmt: skip


def bart():
    torch.manual_seed(0)
    return T.BartForConditionalGeneration(
        T.BartConfig(
            vocab_size=260, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=128, init_std=0.2, pad_token_id=0, bos_token_id=0, eos_token_id=1,
            decoder_start_token_id=1, forced_eos_token_id=1,
        )
    )  # fmt: skip


def marian():
    torch.manual_seed(0)
    return T.MarianMTModel(
        T.MarianConfig(
            vocab_size=260, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=128, init_std=0.2, pad_token_id=0, eos_token_id=1,
            decoder_start_token_id=0, forced_eos_token_id=1, decoder_vocab_size=260,
        )
    )  # fmt: skip


@pytest.mark.parametrize("make", [t5, bart, marian])
def test_an_encoder_decoder_learns_the_answer(bases, rows, tmp_path, make):
    pairs = [{"article": f"say {word} {number}", "summary": word} for number in range(20) for word in ("yes", "no")]
    options = {
        "base": bases(None, make),
        "data": rows(*pairs),
        "output": tmp_path / "v",
        "task": "seq2seq",
        "text": "article,summary",
    }
    settings = TrainSettings(
        **options, epochs=6, lr=0.05, rank=2, dim=100, targets="q,v" if make is t5 else "q_proj,v_proj", max_length=100
    )
    with quiet():
        model, _, data, task = prepare(settings)
    model.eval()
    batch = task.batch(data.train.select(range(5)))
    with torch.no_grad():
        loss, losses = task.loss(model, batch)
        assert torch.allclose(loss, model(**batch).loss, rtol=1e-5)  # transformers' own: a sum in another order
        right = (model(**batch).logits.argmax(-1) == batch["labels"]).float().sum() / (
            batch["labels"] != NOT_LEARNED
        ).sum()
    measured = task.metrics(*(each.detach().numpy() for each in task.measure(losses, batch)))
    assert measured["token_accuracy"] == pytest.approx(float(right))
    assert task.tokenize.decode([token for token in batch["labels"][0].tolist() if token != NOT_LEARNED]) == "yes</s>"
    report = train(settings)
    assert (
        report["after"]["loss"] < report["before"]["loss"] and {"perplexity", "token_accuracy"} < report["after"].keys()
    )
    assert load_adapter(settings.output).projection.d == 100


def test_what_an_encoder_decoder_does_not_read_is_told(bases, rows):
    def refused(data, **options):
        with pytest.raises(UniLoraError) as error, quiet():
            prepare(
                TrainSettings(**{"base": bases(None, t5), "data": data, "output": "v", "task": "seq2seq"} | options)
            )
        return str(error.value)

    assert "seq2seq needs two columns" in refused(rows({"text": "t"}), text="text")
    assert "texts in text: seq2seq reads two texts" in refused(rows({"text": "t"}))
    assert "conversations in messages: seq2seq reads two texts" in refused(rows(*TALKS))
    assert "reads two texts, not messages" in refused(
        rows({"prompt": says("q")[:1], "completion": says("q", "a")[1:]}), holdout=0
    )
    assert "--packing is for causal-lm" in refused(rows(*TALKS), packing=True)
    assert "--chat-template is for causal-lm" in refused(rows(*TALKS), chat_template="own")
    assert "no answer fits in 2 tokens; the shortest row takes 4" in refused(
        rows({"source": "q", "target": "yes"}), max_length=2, holdout=0
    )
