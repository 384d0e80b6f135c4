"""TRL's SFTTrainer and our task on the same rows: one loss."""

import json
from pathlib import Path

import pytest
import torch
import transformers as T
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from backends.settings import TrainSettings
from backends.torch.training.base import prepare, quiet

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
SIZES = {
    "vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.2, "max_position_embeddings": 2048,
}  # fmt: skip
MODELS = {
    "llama3": lambda: T.LlamaForCausalLM(T.LlamaConfig(**SIZES)),
    "gemma3": lambda: T.Gemma3ForCausalLM(T.Gemma3TextConfig(**SIZES, sliding_window=16)),
    "qwen2_5_training": lambda: T.Qwen2ForCausalLM(T.Qwen2Config(**SIZES)),  # with {% generation %}
}


def turns(*contents):
    roles = ("user", "assistant") * len(contents)
    return [{"role": role, "content": content} for role, content in zip(roles, contents)]


TALKS = [
    turns("How many legs has a spider?", "Eight.", "And an ant?", "Six, as all insects."),
    turns("Say ab.", "ab"),
    turns("Three plus four?", "7", "And two?", "9", "And one?", "Ten. That is all."),
]
ROWS = {
    "messages": [{"messages": talk} for talk in TALKS],
    "messages, prompt and completion": [{"prompt": talk[:-1], "completion": talk[-1:]} for talk in TALKS],
    "prompt and completion": [
        {"prompt": f"Q: {n} and {n}\nA:", "completion": f" {2 * n}, of course"} for n in range(8, 13)
    ],
    "text": [{"text": "A film about a film. " * n} for n in range(1, 5)],
}


def saved(name, folder):
    """A base of two layers, and a tokenizer of bytes with that chat template."""
    torch.manual_seed(0)
    MODELS[name]().save_pretrained(folder)
    letters = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    tokens = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, [("a", "b")]))
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = T.PreTrainedTokenizerFast(
        tokenizer_object=tokens, eos_token="</s>", bos_token="<s>", pad_token="<s>", model_input_names=["input_ids", "attention_mask"]
    )  # fmt: skip
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    tokenizer.save_pretrained(folder)
    return folder


def of_trl(base, rows, folder, **options):
    arguments = trl.SFTConfig(
        output_dir=str(folder), per_device_eval_batch_size=len(rows), max_length=1024, report_to="none", use_cpu=True, bf16=False,
        disable_tqdm=True, **options,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        T.AutoModelForCausalLM.from_pretrained(base),
        arguments,
        processing_class=T.AutoTokenizer.from_pretrained(base),
        train_dataset=datasets.Dataset.from_list(rows),
        eval_dataset=datasets.Dataset.from_list(rows),
    )
    return trainer.evaluate()["eval_loss"]


def of_ours(base, rows, folder, **options):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with quiet():
        model, _, data, task = prepare(
            TrainSettings(base=base, data=folder / "rows.jsonl", output="v", task="causal-lm", holdout=0, **options)
        )
    with torch.no_grad():
        return task.loss(model.eval(), task.batch(data.train))[0].item()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize("loss_on", ["answers", "all"])
def test_one_loss(form, name, loss_on, tmp_path):
    base, rows = saved(name, tmp_path / "base"), ROWS[form]
    answers = {"messages": {"assistant_only_loss": True}, "text": {}}.get(form, {"completion_only_loss": True})
    everything = {} if form in ("messages", "text") else {"completion_only_loss": False}
    theirs = of_trl(base, rows, tmp_path / "run", **(answers if loss_on == "answers" else everything))
    # Means of a hundred float32 terms, some 1e-7 apart by the order of sums; a token more or less makes 1e-2.
    assert of_ours(base, rows, tmp_path, loss_on=loss_on) == pytest.approx(theirs, rel=1e-6)


def test_one_packed_loss(tmp_path):
    """Of one row of the packed ones: TRL makes one of them all, we make rows of --max-length."""
    base, rows = saved("llama3", tmp_path / "base"), ROWS["prompt and completion"]
    options = {"packing": True, "eval_packing": True, "packing_strategy": "bfd", "padding_free": False}
    theirs = of_trl(base, rows, tmp_path / "run", completion_only_loss=True, **options)
    assert of_ours(base, rows, tmp_path, packing=True) == pytest.approx(theirs, rel=1e-6)
