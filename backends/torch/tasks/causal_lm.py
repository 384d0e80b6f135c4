"""The task causal-lm for a causal language model of transformers."""

from transformers import AutoModelForCausalLM

from ... import tasks
from .language_model import LanguageModel
from .packing import as_batch, check_apart, packed
from .templates import Template


class CausalLM(LanguageModel, tasks.CausalLM):
    """``backends.tasks.CausalLM``, whose rows may be packed."""

    model_class, template_class = AutoModelForCausalLM, Template

    def read_by(self, model, reader):
        super().read_by(model, reader)
        if self.settings.packing:
            check_apart(self, model)

    def ready(self, data, progress=False):
        data = super().ready(data, progress)
        if self.settings.packing:
            rows, data.train = len(data.train), packed(data.train, self.max_length)
            self.counts["packed"] = rows
            self.found += f", {rows:,} rows packed in {len(data.train):,}"
        return data

    def batch(self, rows):
        return as_batch(rows, self.tokenize.pad_token_id) if "lengths" in rows[0] else super().batch(rows)
