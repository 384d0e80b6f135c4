"""The loss of language models by our own arithmetic, packed rows, and encoders with decoders."""

import inspect

import datasets
import pytest
import torch
import transformers as T
from runs import own_cache  # noqa: F401  fixtures
from talks import CHATML, bases, llama, row, rows, says, tokenizer  # noqa: F401  fixtures
from torch.nn import functional

from backends.rows.forms import Example
from backends.settings import DataSettings, TrainSettings
from backends.tasks.losses import NOT_LEARNED
from backends.torch.tasks.causal_lm import CausalLM
from backends.torch.tasks.packing import check_apart, packed
from backends.torch.tasks.templates import Template
from backends.torch.training.base import prepare, quiet
from backends.torch.training.train import train
from unilora_spec import UniLoraError, load_adapter

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
