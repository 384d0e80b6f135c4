"""Texts to be continued."""

import numpy as np
from torch.nn import functional
from transformers import AutoModelForCausalLM

from .task import Task, first, text_of


class CausalLM(Task):
    """Each token of a text is predicted from those before it."""

    main, larger_is_better = "perplexity", False
    model_class = AutoModelForCausalLM

    def columns(self, there):
        return self.settings.text

    def look(self, row, source):
        return text_of(row, self.settings.text), ()

    def lengths(self, rows):
        return [len(text) for text in rows[self.settings.text[0]]]

    def batch(self, rows):
        end = self.tokenize.eos_token or ""  # so that the model learns where a text ends
        texts = [row[self.settings.text[0]] + end for row in rows]
        batch = self.tokenize(texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return {name: value for name, value in batch.items() if name in self.inputs} | {"labels": labels}

    def items(self, labels):
        return int((labels[:, 1:] != -100).sum())

    def measure(self, outputs, batch):
        """The summed loss of each text and the number of its predicted tokens: float32 (batch,) both."""
        logits, labels = first(outputs.logits)[:, :-1].float(), batch["labels"][:, 1:]
        losses = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")  # 0 where the label is −100
        return losses.sum(1), (labels != -100).float().sum(1)

    def metrics(self, losses, tokens):
        loss = losses.sum(dtype=np.float64) / max(tokens.sum(dtype=np.float64), 1)
        return {"loss": float(loss), "perplexity": float(np.exp(loss))}
