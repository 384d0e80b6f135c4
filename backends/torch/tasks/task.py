"""What every task says of itself."""

import inspect
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import datasets
import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel

from unilora_spec import UniLoraError

from ..rows.order import longest_first
from ..rows.refusals import LeftOut, WrongCell
from ..rows.split import Data, Source
from ..settings import DataSettings
from ..training.strangers import NO_CODE

SMALLER_IS_BETTER = ("loss", "mse", "perplexity")  # of the metrics of all tasks


class Predicted(NamedTuple):
    """What a model with a head says of a row.

    ``answer``         the class's name, the names of several, one for each word, or a number
    ``probability``    how certain it is: that of the answer; of several, of the least certain of them; None of a number
    ``probabilities``  by the names of the classes, where there is one of each for a row
    """

    answer: str | list[str] | float
    probability: float | None = None
    probabilities: dict[str, float] | None = None


class Task:
    """What a run makes of rows: what it reads of one, what a model is given of them, and what is measured.

    One object serves one run. It learns the classes from the rows (``learn``), and of a model what it can read (``read_by``).

    ``main``              the metric that early stopping goes by, or the one that the settings name
    ``larger_is_better``  how it goes by it
    ``model_class``       transformers' class of a base with the head that the task needs
    ``labels``            the classes' names in the order of their numbers; None for tasks without classes
    ``found``             what the rows were found to be, in words; "" where a call says it
    ``counts``            how many rows ``ready`` has made others, by what it did
    """

    main: str
    larger_is_better: bool
    model_class: type
    labels: tuple[str, ...] | None = None
    found = ""

    def __init__(self, settings: DataSettings, base_labels: Sequence[str] = ()):
        self.settings, self.base_labels, self.counts = settings, tuple(base_labels), {}
        if settings.metric:
            self.main, self.larger_is_better = settings.metric, settings.metric not in SMALLER_IS_BETTER

    # Of rows

    def columns(self, there: Sequence[str]) -> tuple[str, ...]:
        """The columns that are read, of a source that has those ``there``."""
        raise NotImplementedError

    def as_read(self, rows: datasets.Dataset, name: str) -> datasets.Dataset:
        """The rows of the source ``name`` as ``look`` and ``batch`` are given them. It has the ``columns``."""
        return rows

    def look(self, row: dict, source: Source) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """A row's texts, by which it is held out, and the values of its label, which ``source`` keeps.

        Raises ``LeftOut`` for a row that lacks something, and ``WrongCell`` for one that is wrong.
        """
        raise NotImplementedError

    def hint(self, there: Sequence[str]) -> str:
        """The mend where a column is not among those that are ``there``, such as another task; empty where there is none to tell."""
        return ""

    def lengths(self, rows) -> list[int]:
        """The characters of each row's texts: near enough to tokens to sort by."""
        raise NotImplementedError

    def texts(self, rows) -> list[tuple[str, ...]]:
        """Each row's texts, by which rows are told apart."""
        return list(zip(*(rows[column] for column in self.settings.text)))

    def learn(self, source: Source, held_out: Source | None) -> None:
        """Takes the classes from the values that the sources have kept. Raises ``UniLoraError`` where they are none."""

    def remarks(self, source: Source, train: Sequence[int]) -> list[str]:
        """What is worth a word of the classes, a sentence each. ``train`` are the rows of ``source`` to train on."""
        return []

    # Of a model

    def configure(self, config: PreTrainedConfig) -> None:
        """Sets what a head for the task is made by, before the model is made."""

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
        longest = min(self.settings.max_length, positions or self.settings.max_length, reader.model_max_length)
        self.tokenize, self.max_length = reader, longest
        self.inputs = frozenset(inspect.signature(model.forward).parameters)

    def ready(self, data: Data, progress: bool = False) -> Data:
        """The rows as batches are made of them, those held out with the longest first. Called once the model is known.

        Raises ``UniLoraError`` where nothing is left of them.
        """
        held_out = data.held_out and data.held_out.select(longest_first(self.lengths(data.held_out)))
        return replace(data, held_out=held_out)

    def batch(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """The model's inputs, padded to the longest, and ``labels``. Texts are tokenized here: there is no copy of the data in tokens."""
        raise NotImplementedError

    def training_batch(self, rows: Sequence[dict], epoch: int) -> dict[str, torch.Tensor]:
        """``batch`` of rows that are trained on, for a task that shows them otherwise in each ``epoch``, counted from 0."""
        return self.batch(rows)

    def items(self, labels: torch.Tensor) -> int:
        """Of how many losses a batch's loss is the mean."""
        return len(labels)

    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, object]:
        """The mean loss of a batch, a number also where nothing in it has a label, and what ``measure`` needs of the model's outputs."""
        outputs = model(**batch)
        return outputs.loss, outputs

    # Of what a trained model with a head says; language models generate it (``using.generation``)

    def given(self, there: Sequence[str]) -> tuple[str, ...]:
        """The columns that are read of rows without labels, of a source that has those ``there``."""
        raise NotImplementedError

    def check_given(self, row: dict) -> None:
        """Raises ``LeftOut`` for a row in which nothing is given."""
        raise NotImplementedError

    def encode(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """A batch without its labels."""
        raise NotImplementedError

    def predicted(self, outputs, rows: Sequence[dict]) -> list[Predicted]:
        """What a model's outputs say of each row of a batch."""
        raise NotImplementedError

    def answer(self, row: dict) -> str | list[str] | float:
        """The right answer of a row, in the form of ``Predicted.answer``."""
        raise NotImplementedError

    def confused(self, answer, prediction) -> Iterable[tuple[str, str]]:
        """Which class was right and which was predicted in its place, of a wrong prediction."""
        return [(answer, prediction)]

    # Of what is held out

    def measure(self, outputs, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """What ``metrics`` needs of a batch, each (batch, …): small, so that an evaluation never holds all logits.

        It knows rows alone, never batches, so that no number of processes changes what is measured.
        """
        raise NotImplementedError

    def metrics(self, *measured: np.ndarray) -> dict[str, float]:
        """The metrics of all that was measured, ``loss`` among them."""
        raise NotImplementedError


def text_of(row: dict, columns: Sequence[str]) -> tuple[str, ...]:
    """The texts of a row. Raises ``LeftOut`` where one is empty, and ``WrongCell`` where one is no text."""
    texts = tuple(row[column] for column in columns)
    for column, text in zip(columns, texts):
        if isinstance(text, list) and text and isinstance(text[0], dict):
            raise WrongCell(column, "is a list of objects, and one text is needed; a chat is for --task causal-lm")
        if not (isinstance(text, str) or text is None or (isinstance(text, float) and math.isnan(text))):
            raise WrongCell(column, f"is {str(text)!r:.60}, which is no text; give --text a column of texts")
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise LeftOut("text")
    return texts


def first(logits):
    """The logits of a model's: encoder-decoders give more than logits."""
    return logits[0] if isinstance(logits, tuple) else logits
