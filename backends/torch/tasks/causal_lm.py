"""Texts to be continued."""

from transformers import AutoModelForCausalLM

from .language_model import LanguageModel
from .task import text_of


class CausalLM(LanguageModel):
    """Each token of a text is predicted from those before it."""

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
