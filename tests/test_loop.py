"""The training loop: its steps and schedule."""

import inspect
import types

import pytest
import torch
import transformers
from loops import language, questions, theta_of  # noqa: F401  fixtures
from runs import base, gpt2, own_cache, refusal, reviews, small  # noqa: F401  fixtures
from small_models import SIZES

import unilora_spec
from backends.settings import TrainSettings
from backends.torch import attach
from backends.torch.tasks.language_model import LanguageModel
from backends.torch.training import base as of_base
from backends.torch.training import trainer
from backends.torch.training.train import train

HEADS = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 32, "initializer_range": 0.2}

MOE = {**HEADS, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}

T5 = {
    "vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "decoder_start_token_id": 0,
    "pad_token_id": 0, "dropout_rate": 0.0, "tie_word_embeddings": True,
}  # fmt: skip

GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32, "initializer_range": 0.2}

# A head with a vector on it, logits that are capped, experts whose routers have a loss, a head tied to the table (and trained
# with it), an encoder beside, logits that are scaled.
MODELS = {
    "Llama": ("LlamaForCausalLM", HEADS, ("q_proj", "lm_head")),
    "Gemma 2": ("Gemma2ForCausalLM", HEADS | {"head_dim": 8, "final_logit_softcapping": 2.0}, ("q_proj",)),
    "Gemma 3": ("Gemma3ForCausalLM", HEADS | {"head_dim": 8, "final_logit_softcapping": 2.0}, ("v_proj",)),
    "Qwen3-MoE": ("Qwen3MoeForCausalLM", MOE | {"output_router_logits": True, "router_aux_loss_coef": 0.5}, ("q_proj",)),
    "GPT-2": ("GPT2LMHeadModel", GPT2, ("c_attn",)),
    "T5": ("T5ForConditionalGeneration", T5, ("SelfAttention.q", "EncDecAttention.v")),
    "Cohere": ("CohereForCausalLM", HEADS | {"logit_scale": 0.3, "pad_token_id": 0}, ("q_proj",)),
    "Granite": ("GraniteForCausalLM", HEADS | {"logits_scaling": 3.0}, ("q_proj",)),
}  # fmt: skip


def adapted(name):
    """A model with a vector on it, the task, and a batch of which some tokens have labels."""
    head, options, targets = MODELS[name]
    torch.manual_seed(0)
    cls = getattr(transformers, head)
    model = cls(cls.config_class(**options)).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    attach(model, rank=2, d=60, targets=targets, bound=1.0)
    task = LanguageModel(types.SimpleNamespace(metric=None))
    task.ahead = 0 if model.config.is_encoder_decoder else 1
    task.inputs = frozenset(inspect.signature(model.forward).parameters)
    ids = torch.arange(3, 27).reshape(3, 8)
    labels = ids.clone()
    labels[:, :5] = -100
    labels[1, 7] = labels[2, 6] = -100  # the last label of a text, and one amid its answer
    mask = torch.ones_like(ids)
    mask[1, 7] = 0
    return model, task, {"input_ids": ids, "attention_mask": mask, "labels": labels}


def gradient(model, loss):
    model.unilora.theta.grad = None
    loss.backward()
    return model.unilora.theta.grad.clone()


def head_calls(model):
    shapes = []
    model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    return shapes


@pytest.mark.parametrize("name", MODELS)
def test_the_output_layer_is_computed_where_there_is_a_label_and_the_loss_is_the_models_own(name):
    model, task, batch = adapted(name)
    plain = model(**batch, use_cache=False).loss
    expected = gradient(model, plain)
    shapes = head_calls(model)
    loss, _ = task.loss(model, batch)
    assert shapes == [(1, 7, 50)], "three texts of three tokens, less two that have no label"
    # Sums of some hundred products in another order: 2⁻²⁴ each of values up to ten times the sum.
    torch.testing.assert_close(loss, plain, atol=0, rtol=1e-5)
    found = gradient(model, loss)
    assert expected.abs().max() > 1e-4
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_checkpointed_layers_have_the_same_gradient():
    model, task, batch = adapted("Llama")
    expected = gradient(model, task.loss(model, batch)[0])
    model.gradient_checkpointing_enable({"use_reentrant": False})
    found = gradient(model, task.loss(model, batch)[0])
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()  # the same sums, made twice


@pytest.mark.parametrize("name", ["Llama", "Qwen3-MoE"])
def test_a_batch_without_a_label_has_a_loss_of_zero_and_a_gradient(name):
    model, task, batch = adapted(name)
    loss, losses = task.loss(model, batch | {"labels": torch.full((3, 8), -100)})
    assert gradient(model, loss).isfinite().all() and len(losses.values) == 0
    assert name == "Qwen3-MoE" or loss == 0  # a router has its own loss


@pytest.mark.parametrize("known", [False, True])
def test_a_head_that_is_not_known_or_sees_other_states_is_computed_for_all_tokens(known, monkeypatch):
    model, task, batch = adapted("Llama")
    expected = gradient(model, task.loss(model, batch)[0])
    shapes = head_calls(model)
    if known:  # as one that is called with the tokens of all texts in one row
        forward = model.lm_head.forward
        monkeypatch.setattr(model.lm_head, "forward", lambda x: forward(x.flatten(0, 1)).unflatten(0, (3, 8)))
        flat = type("Flat", (type(model.lm_head),), {"__call__": lambda self, x: self.forward(x)})
        monkeypatch.setattr(model.lm_head, "__class__", flat)
    else:
        monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    found = gradient(model, task.loss(model, batch)[0])
    assert known or shapes == [(3, 8, 50)]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()  # sums in another order


@pytest.mark.parametrize("name", ["Llama", "T5"])
def test_what_is_measured_is_each_texts_own(name):
    model, task, batch = adapted(name)
    with torch.no_grad():
        _, losses = task.loss(model.eval(), batch)
        found = task.measure(losses, batch)
        logits = model(**batch).logits
    ahead = task.ahead
    for row in range(3):
        here = [
            (p, batch["labels"][row, p + ahead]) for p in range(8 - ahead) if batch["labels"][row, p + ahead] != -100
        ]
        expected = sum(-logits[row, place].log_softmax(0)[label] for place, label in here)
        right = sum(int(logits[row, place].argmax() == label) for place, label in here)
        torch.testing.assert_close(found[0][row], expected, atol=0, rtol=1e-5)
        assert (found[1][row], found[2][row]) == (right, len(here))


# Steps


def saved_language_model(folder):
    """A Llama of one layer, of 64 numbers for each token: as few as a packed weight can have, and a tokenizer of bytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(**HEADS | {"vocab_size": 257, "hidden_size": 64, "intermediate_size": 128})
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    letters = ["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("task", ["causal-lm", "classification"])
def test_a_micro_batch_changes_what_is_in_the_model_at_once_and_nothing_else(task, language, small, monkeypatch):
    run = language if task == "causal-lm" else small | {"dropout": 0, "limit": 70}
    sizes, batches = set(), []

    def counting(self, rows):
        found = own_part(self, rows)
        sizes.update(len(batch["labels"]) for batch in found)
        batches.append(len(found))
        return found

    own_part = trainer._Trainer._own_part
    monkeypatch.setattr(trainer._Trainer, "_own_part", counting)
    whole, report = theta_of(run)
    start, _ = theta_of(run | {"lr": 0, "head_lr": 0})
    for size in (1, 5):
        sizes.clear(), batches.clear()
        theta, again = theta_of(run | {"micro_batch": size})
        assert (
            max(sizes) == size and max(batches) == -(-16 // size) and again["steps"] == report["steps"] == len(batches)
        )
        # Gradients are sums in another order, 1e-6 of the largest, and Adam's first steps divide each by its own size.
        assert (theta - whole).abs().max() <= 1e-3 * (whole - start).abs().max()
        assert again["after"]["loss"] == pytest.approx(report["after"]["loss"], rel=1e-5)


def rates(monkeypatch, run):
    """The learning rate of each step."""
    found = []

    class Rates(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            found.append(optimizer.param_groups[0]["lr"])

    def with_rates(*arguments):
        made = make(*arguments)
        made.add_callback(Rates())
        return made

    from backends.torch.training import train as module

    make = module.make_trainer
    monkeypatch.setattr(module, "make_trainer", with_rates)
    train(TrainSettings(**run))
    monkeypatch.setattr(module, "make_trainer", make)
    return found


def test_steps_and_schedule_are_as_asked(language, monkeypatch):
    run = language | {"lr": 1.0, "head_lr": 1.0, "warmup": 0.25, "max_steps": 8}
    linear = rates(monkeypatch, run)
    assert linear == pytest.approx([0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    cosine = rates(monkeypatch, run | {"schedule": "cosine"})
    assert cosine[:3] == linear[:3] and cosine[5] == pytest.approx(0.5) and cosine[3] > linear[3] > cosine[7]
    assert rates(monkeypatch, run | {"schedule": "constant"}) == [1.0] * 8
    assert rates(monkeypatch, run | {"schedule": "constant_with_warmup"}) == [0, 0.5, *[1.0] * 6]
    assert rates(monkeypatch, run | {"schedule": "inverse_sqrt"})[2:] == pytest.approx(
        [(2 / step) ** 0.5 for step in range(2, 8)]
    )


def test_steps_that_end_amid_an_epoch_are_evaluated(language):
    _, report = theta_of(language | {"max_steps": 1})
    assert report["steps"] == 1 and report["after"].keys() == report["before"].keys()


def test_dropout_is_that_of_the_config_in_the_base_itself(language, base):
    for folder, task in ((language["base"], "causal-lm"), (base, "classification")):
        settings = TrainSettings(**language | {"base": folder, "task": task, "data": language["data"]})
        config = transformers.AutoConfig.from_pretrained(folder)
        assert of_base._set_dropout(config, settings.dropout) >= 2
        model = transformers.AutoModel.from_config(config)
        assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0}
    same, _ = theta_of(language)
    assert not torch.equal(same, theta_of(language | {"dropout": 0.5})[0])
    assert torch.equal(same, theta_of(language)[0])


def test_a_base_without_dropout_has_none_to_set(language, tmp_path):
    config = transformers.MambaConfig(vocab_size=257, hidden_size=16, num_hidden_layers=1, state_size=4)
    folder = tmp_path / "mamba"
    transformers.MambaForCausalLM(config).save_pretrained(folder)
    assert "its config.json has no dropout; leave --dropout out" in refusal(**language | {"base": folder})


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"links": 2, "schedule": "cosine"}, "--schedule cosine goes through all steps once"),
        ({"bf16": True, "dtype": "float16"}, "--bf16 computes in bfloat16"),
        ({"dropout": 1}, "--dropout is 1"),
        ({"max_steps": 0}, "--max-steps is 0"),
        ({"micro_batch": 0}, "--micro-batch is 0"),
        ({"schedule": "polynomial"}, "give linear, cosine, constant, constant_with_warmup or inverse_sqrt"),
        ({"dtype": "float8"}, "give auto, float32, bfloat16 or float16"),
        ({"quantize": "int4"}, "give nf4, int8, torchao-int4 or torchao-int8"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, expected):
    with pytest.raises(unilora_spec.UniLoraError, match="^--") as error:
        TrainSettings(**{"base": "b", "data": "d.csv", "output": "v", **options})
    assert expected in str(error.value)


@pytest.mark.parametrize(
    "name, value",
    [("micro_batch", 4), ("schedule", "cosine"), ("max_steps", 9), ("dropout", 0.1), ("dtype", "bfloat16"), ("quantize", "nf4")],
)  # fmt: skip
def test_a_run_goes_on_with_the_settings_that_it_had(name, value, language, monkeypatch):
    from backends.torch.training.checkpoints import Checkpoints

    def stop(self, checkpoint, best):
        complete(self, checkpoint, best)
        raise KeyboardInterrupt

    complete = Checkpoints.complete
    monkeypatch.setattr(Checkpoints, "complete", stop)
    with pytest.raises(KeyboardInterrupt):
        train(TrainSettings(**language))
    monkeypatch.undo()
    said = refusal(**language | {name: value, "resume": True})
    assert f"--{name.replace('_', '-')} is {value}, but the interrupted run had" in said
