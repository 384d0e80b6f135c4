"""Makes a task of ``backends.tasks`` one for models of transformers: the model's class, its loss, and tensors in place
of arrays."""

import inspect
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel

from unilora_spec import UniLoraError

from ..training.strangers import NO_CODE


class ForModel:
    """A class to inherit from before a class of ``backends.tasks``: it converts that class's arrays to tensors, and a
    model's outputs to arrays.

    ``model_class``  transformers' class of a base with the head that the task needs
    """

    model_class: type

    def configure(self, config: PreTrainedConfig) -> None:
        """Sets the fields of ``config`` from which a head for the task is made; to be called before the model is
        made."""
        if self.labels or self.problem_type:
            labels = self.labels or ("LABEL_0",)
            config.problem_type = self.problem_type
            config.id2label = dict(enumerate(labels))
            config.label2id = {name: number for number, name in enumerate(labels)}

    def reader(self, base: str):
        """The object that makes a model's inputs of rows, loaded from the folder or id of the base: here its tokenizer.

        Raises ``UniLoraError`` where the base has no tokenizer, and transformers' own errors.
        """
        tokenizer = AutoTokenizer.from_pretrained(base, **NO_CODE)
        # Where there is no tokenizer, transformers makes an empty one.
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise UniLoraError(f"{base}: it has no tokenizer; put the model's tokenizer files beside its weights")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def read_by(self, model: PreTrainedModel, reader) -> None:
        """From here on, batches have the inputs that ``model`` takes, and no more tokens than it can read. ``reader``
        is the base's."""
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.reads(reader, positions, inspect.signature(model.forward).parameters)

    def batch(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        return tensors(super().batch(rows))

    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, object]:
        """(the mean loss of a batch, the model's outputs for ``measure``). The loss is a number also where nothing in
        the batch has a label."""
        outputs = model(**batch)
        return outputs.loss, outputs

    def measure(self, outputs, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The tensors that ``metrics`` needs of a batch, each (batch, …), on the batch's device."""
        labels = batch["labels"]
        measured = super().measure(logits_of(outputs), labels.cpu().numpy())
        return tuple(torch.from_numpy(np.ascontiguousarray(each)).to(labels.device) for each in measured)

    def predicted(self, outputs, rows: Sequence[dict]):
        return super().predicted(logits_of(outputs), rows)


def tensors(batch: dict) -> dict[str, torch.Tensor]:
    """A batch of arrays as tensors."""
    return {name: torch.as_tensor(value) for name, value in batch.items()}


def on_device(batch: dict, model) -> dict[str, torch.Tensor]:
    """A batch of tensors or arrays as tensors on the model's device."""
    return {name: value.to(model.device) for name, value in tensors(batch).items()}


def logits_of(outputs) -> np.ndarray:
    """The logits of a model's outputs, float32."""
    return first(outputs.logits).detach().float().cpu().numpy()


def first(logits):
    """The logits alone: encoder-decoders give a tuple that begins with them."""
    return logits[0] if isinstance(logits, tuple) else logits
