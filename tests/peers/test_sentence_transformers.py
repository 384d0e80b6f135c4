"""SentenceTransformerTrainer: an adapter on the encoder within, and one on the whole."""

import pytest
import torch
import transformers as T
from trained import IDS, WORDS, adapted, assert_fell, assert_frozen, assert_gives_back, frozen, tokenizer

from unilora_spec import LayerMapError

st = pytest.importorskip("sentence_transformers")
datasets = pytest.importorskip("datasets")
losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")

PAIRS = {
    "anchor": ["the cat", "a dog", "the sun", "a car"] * 4,
    "positive": ["good cat", "bad dog", "warm sun", "cold car"] * 4,
}
CROSSED = PAIRS | {
    "positive": ["cold car", "warm sun", "bad dog", "good cat"] * 4
}  # held out: training makes their loss rise


@pytest.fixture
def fresh(tmp_path):
    """Makes the same model each time."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = T.BertConfig(
        vocab_size=len(WORDS) + 2,
        pad_token_id=0,
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **sizes,
    )
    T.BertModel(config).save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    return lambda: st.SentenceTransformer(str(tmp_path / "base"), device="cpu")


PLACES = {"on the encoder": lambda model: model[0].auto_model, "on the whole": lambda model: model}


def trainer(model, folder, **options):
    arguments = st.SentenceTransformerTrainingArguments(
        str(folder), max_steps=8, save_steps=2, eval_steps=2, eval_strategy="steps", logging_steps=1, per_device_train_batch_size=4,
        learning_rate=0.1, lr_scheduler_type="constant", report_to="none", use_cpu=True, disable_tqdm=True, **options,
    )  # fmt: skip
    data = {"train_dataset": datasets.Dataset.from_dict(PAIRS), "eval_dataset": datasets.Dataset.from_dict(CROSSED)}
    return st.SentenceTransformerTrainer(model, arguments, loss=losses.MultipleNegativesRankingLoss(model), **data)


def made(part):
    """Of texts by the whole, or of tokens by its encoder."""
    whole = isinstance(part, st.SentenceTransformer)
    return part.encode(PAIRS["anchor"], convert_to_tensor=True) if whole else part(IDS).last_hidden_state


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_trains_and_what_it_saves_is_the_adapter(place, fresh, tmp_path):
    model = fresh()
    adapted(place(model), targets=("query", "value"))
    before = frozen(model)
    run = trainer(model, tmp_path / "run")
    run.train()
    assert_fell([entry["loss"] for entry in run.state.log_history if "loss" in entry])
    assert_frozen(model, before)
    assert_gives_back(tmp_path / "run/checkpoint-8", place(model), lambda: place(fresh()), made, tmp_path)
    expected = made(model)
    again = st.SentenceTransformer(str(tmp_path / "run/checkpoint-8"), device="cpu")
    assert torch.equal(made(again), expected), "the folder is the base with its adapter"


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_the_best_checkpoint_comes_back(place, fresh, tmp_path):
    model = fresh()
    adapted(place(model), targets=("query", "value"))
    before = frozen(model)
    run = trainer(model, tmp_path / "run", load_best_model_at_end=True)
    run.train()
    found = [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry]
    assert found[-1] > 1.01 * min(found), "the last is not the best"
    assert run.evaluate()["eval_loss"] == pytest.approx(min(found), rel=1e-6)  # the same sums in the same order
    assert_frozen(model, before)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_refuses_to_resume_another_seeds(place, fresh, tmp_path):
    models = [fresh(), fresh()]
    for seed, model in enumerate(models):
        adapted(place(model), seed=seed, targets=("query", "value"))
    trainer(models[0], tmp_path / "run").train()
    with pytest.raises(LayerMapError, match="of another adapter, whose seed differs"):
        trainer(models[1], tmp_path / "other").train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-4"))
