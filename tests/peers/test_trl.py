"""TRL: supervised fine-tuning and preferences."""

import pytest
from trained import adapted, assert_fell, assert_frozen, assert_gives_back, frozen, llama, logits, tokenizer

from unilora_spec import LayerMapError

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

COMMON = {
    "max_steps": 12, "save_steps": 6, "logging_steps": 1, "per_device_train_batch_size": 4, "learning_rate": 0.2, "lr_scheduler_type": "constant",
    "report_to": "none", "use_cpu": True, "disable_tqdm": True, "bf16": False, "gradient_checkpointing": False,
}  # fmt: skip
TEXTS = ["the cat is good", "a dog was bad", "the sun is warm", "a car was cold"] * 4
GOOD, BAD = [" good warm", " warm good"] * 8, [" bad cold", " cold bad"] * 8


def rows(**columns):
    return datasets.Dataset.from_dict(columns)


# The held-out rows ask for the opposite, so that training makes their loss rise.


def sft(model, folder, **options):
    backwards = [" ".join(reversed(text.split())) for text in TEXTS]
    arguments = trl.SFTConfig(output_dir=str(folder), **COMMON | options)
    data = {"train_dataset": rows(text=TEXTS), "eval_dataset": rows(text=backwards)}
    return trl.SFTTrainer(model, arguments, processing_class=tokenizer(), **data)


def dpo(model, folder, **options):
    prompt = ["the cat is"] * 16
    arguments = trl.DPOConfig(output_dir=str(folder), **COMMON | options)
    data = {
        "train_dataset": rows(prompt=prompt, chosen=GOOD, rejected=BAD),
        "eval_dataset": rows(prompt=prompt, chosen=BAD, rejected=GOOD),
    }
    return trl.DPOTrainer(model, ref_model=llama(), args=arguments, processing_class=tokenizer(), **data)


@pytest.mark.parametrize("trainer", [sft, dpo])
def test_trains_and_what_it_saves_is_the_adapter(trainer, tmp_path):
    model = adapted(llama())
    before = frozen(model)
    run = trainer(model, tmp_path / "run")
    run.train()
    assert_fell([entry["loss"] for entry in run.state.log_history if "loss" in entry])
    assert_frozen(model, before)
    assert_gives_back(tmp_path / "run/checkpoint-12", model, llama, logits, tmp_path)
    run.save_model(str(tmp_path / "last"))
    assert_gives_back(tmp_path / "last", model, llama, logits, tmp_path)


@pytest.mark.parametrize("trainer", [sft, dpo])
def test_the_best_checkpoint_comes_back(trainer, tmp_path):
    model = adapted(llama())
    before = frozen(model)
    options = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True}
    run = trainer(model, tmp_path, **options)
    run.train()
    losses = [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry]
    assert losses[-1] > 1.01 * min(losses), "the last is not the best"
    assert run.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6)  # the same sums in the same order
    assert_frozen(model, before)


@pytest.mark.parametrize("trainer", [sft, dpo])
def test_resumes_its_own_and_refuses_another_seeds(trainer, tmp_path):
    trainer(adapted(llama()), tmp_path).train()
    half = str(tmp_path / "checkpoint-6")
    model = adapted(llama())
    trainer(model, tmp_path / "again").train(resume_from_checkpoint=half)
    assert_gives_back(tmp_path / "checkpoint-12", model, llama, logits, tmp_path)
    with pytest.raises(LayerMapError, match="of another adapter, whose seed differs"):
        trainer(adapted(llama(), seed=1), tmp_path / "other").train(resume_from_checkpoint=half)
