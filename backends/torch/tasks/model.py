"""What a task of ``backends.tasks`` is for a model of transformers: the class that has its head, its loss, and tensors at the edge."""

import inspect
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel

from unilora_spec import UniLoraError

from ..training.strangers import NO_CODE


class ForModel:
    """Stands before a class of ``backends.tasks``, whose arrays it makes tensors, and of whose model's outputs it makes arrays.

    ``model_class``  transformers' class of a base with the head that the task needs
    """

    model_class: type

    def configure(self, config: PreTrainedConfig) -> None:
        """Sets what a head for the task is made by, before the model is made."""
        if self.labels or self.problem_type:
            labels = self.labels or ("LABEL_0",)
            config.problem_type = self.problem_type
            config.id2label = dict(enumerate(labels))
            config.label2id = {name: number for number, name in enumerate(labels)}

    def reader(self, base: str):
        """What makes a model's inputs of rows, loaded from the folder or id of the base: here its tokenizer.

        Raises ``UniLoraError`` where the base has none, and transformers' own errors.
        """
        tokenizer = AutoTokenizer.from_pretrained(base, **NO_CODE)
        if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers makes up an empty one where there is none
            raise UniLoraError(f"{base}: it has no tokenizer; put the model's tokenizer files beside its weights")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def read_by(self, model: PreTrainedModel, reader) -> None:
        """From here on, batches are for this model: of the inputs that it takes, and not longer than it can read. ``reader`` is the base's."""
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.reads(reader, positions, inspect.signature(model.forward).parameters)

    def batch(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        return tensors(super().batch(rows))

    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, object]:
        """The mean loss of a batch, a number also where nothing in it has a label, and what ``measure`` needs of the model's outputs."""
        outputs = model(**batch)
        return outputs.loss, outputs

    def measure(self, outputs, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """What ``metrics`` needs of a batch, each (batch, …), where the batch is: small, so that an evaluation never holds all logits."""
        labels = batch["labels"]
        measured = super().measure(logits_of(outputs), labels.cpu().numpy())
        return tuple(torch.from_numpy(np.ascontiguousarray(each)).to(labels.device) for each in measured)

    def predicted(self, outputs, rows: Sequence[dict]):
        return super().predicted(logits_of(outputs), rows)


def tensors(batch: dict) -> dict[str, torch.Tensor]:
    """A batch of arrays as tensors."""
    return {name: torch.as_tensor(value) for name, value in batch.items()}


def on_device(batch: dict, model) -> dict[str, torch.Tensor]:
    """A batch of tensors or arrays as tensors, where the model is."""
    return {name: value.to(model.device) for name, value in tensors(batch).items()}


def logits_of(outputs) -> np.ndarray:
    """The logits of a model's outputs, float32."""
    return first(outputs.logits).detach().float().cpu().numpy()


def first(logits):
    """The logits of a model's: encoder-decoders give more than logits."""
    return logits[0] if isinstance(logits, tuple) else logits
