"""The base class of all tasks."""

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import datasets
import numpy as np

from ..rows.order import longest_first
from ..rows.refusals import LeftOut, WrongCell
from ..rows.split import Data, Source
from ..settings import DataSettings

SMALLER_IS_BETTER = ("loss", "mse", "perplexity")  # among the metrics of all tasks


class Predicted(NamedTuple):
    """The prediction of a model with a head for a row.

    ``answer``         the class's name, the names of several classes, a name for each word, or a number
    ``probability``    the probability of the answer, or of the least certain of several; None for a number
    ``probabilities``  the probability of each class by its name, where a row has one for each class
    """

    answer: str | list[str] | float
    probability: float | None = None
    probabilities: dict[str, float] | None = None


class Task:
    """A task: how rows are read, how batches for a model are made of them, and which metrics are computed.

    One object is for one run. It learns the classes from the rows (``learn``), and from a model which inputs it takes
    (``reads``). A model's inputs and outputs are NumPy arrays here; a backend converts them to its own.

    ``main``              the metric by which early stopping chooses; that of the settings where they name one
    ``larger_is_better``  whether a larger value of it is better
    ``problem_type``      what the outputs of a head are, as the base's record has it (SPEC 10); None where the record
                          says nothing
    ``labels``            the classes' names in the order of their numbers; None for tasks without classes
    ``found``             the form in which rows were found, in words; "" where the settings say the form
    ``counts``            how many rows ``ready`` has changed, by the kind of change
    """

    main: str
    larger_is_better: bool
    problem_type: str | None = None
    labels: tuple[str, ...] | None = None
    found = ""

    def __init__(self, settings: DataSettings, base_labels: Sequence[str] = ()):
        self.settings, self.base_labels, self.counts = settings, tuple(base_labels), {}
        if settings.metric:
            self.main, self.larger_is_better = settings.metric, settings.metric not in SMALLER_IS_BETTER

    # Reading rows

    def columns(self, there: Sequence[str]) -> tuple[str, ...]:
        """The columns that are read of a source that has the columns ``there``."""
        raise NotImplementedError

    def as_read(self, rows: datasets.Dataset, name: str) -> datasets.Dataset:
        """The rows of the source ``name`` in the form that ``look`` and ``batch`` take. The source has the
        ``columns``."""
        return rows

    def look(self, row: dict, source: Source) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(a row's texts, which decide whether it is held out; the values of its label, which ``source`` keeps).

        Raises ``LeftOut`` for a row that lacks something, and ``WrongCell`` for one that is wrong.
        """
        raise NotImplementedError

    def hint(self, there: Sequence[str]) -> str:
        """What to do where a column is not among those that are ``there``, such as to take another task; "" where
        nothing is known."""
        return ""

    def lengths(self, rows) -> list[int]:
        """The number of characters of each row's texts, near enough to that of tokens for sorting."""
        raise NotImplementedError

    def texts(self, rows) -> list[tuple[str, ...]]:
        """The texts of each row, by which equal rows are recognized."""
        return list(zip(*(rows[column] for column in self.settings.text)))

    def learn(self, source: Source, held_out: Source | None) -> None:
        """Takes the classes from the values that the sources have kept. Raises ``UniLoraError`` where the values are no
        classes."""

    def remarks(self, source: Source, train: Sequence[int]) -> list[str]:
        """Sentences on doubtful labels and classes. ``train`` has the numbers of the rows of ``source`` to train on."""
        return []

    # Preparing rows for a model

    def reads(self, tokenizer, positions: int | None, inputs: Container[str]) -> None:
        """From here on, batches are for a model that takes these ``inputs`` and reads at most ``positions`` tokens;
        None sets no limit.

        ``tokenizer`` is transformers', or one that is called as theirs is.
        """
        longest = min(self.settings.max_length, positions or self.settings.max_length, tokenizer.model_max_length)
        self.tokenize, self.max_length, self.inputs = tokenizer, longest, frozenset(inputs)

    def ready(self, data: Data, progress: bool = False) -> Data:
        """The rows in the form that ``batch`` takes, held-out rows with the longest first. To be called once the model
        is known.

        Raises ``UniLoraError`` where no row is left.
        """
        held_out = data.held_out and data.held_out.select(longest_first(self.lengths(data.held_out)))
        return replace(data, held_out=held_out)

    def batch(self, rows: Sequence[dict]) -> dict[str, np.ndarray]:
        """The model's inputs, padded to the longest row, and ``labels``. Texts are tokenized here, so that no tokens of
        all rows are kept."""
        raise NotImplementedError

    def training_batch(self, rows: Sequence[dict], epoch: int) -> dict[str, np.ndarray]:
        """``batch`` for training; a task may change rows in each ``epoch``, counted from 0, as image-classification
        does."""
        return self.batch(rows)

    def items(self, labels: np.ndarray) -> int:
        """The number of losses of which a batch's loss is the mean."""
        return len(labels)

    # Predictions of a trained model with a head; language models generate text instead (``using.generation``)

    def given(self, there: Sequence[str]) -> tuple[str, ...]:
        """The columns that are read of rows without labels, from a source that has the columns ``there``."""
        raise NotImplementedError

    def check_given(self, row: dict) -> None:
        """Raises ``LeftOut`` for a row without an input for the model."""
        raise NotImplementedError

    def encode(self, rows: Sequence[dict]) -> dict[str, np.ndarray]:
        """A batch without its labels."""
        raise NotImplementedError

    def predicted(self, logits: np.ndarray, rows: Sequence[dict]) -> list[Predicted]:
        """The prediction for each row of a batch, from a model's logits, float32."""
        raise NotImplementedError

    def answer(self, row: dict) -> str | list[str] | float:
        """The right answer of a row, in the form of ``Predicted.answer``."""
        raise NotImplementedError

    def confused(self, answer, prediction) -> Iterable[tuple[str, str]]:
        """Pairs (right class, predicted class) for a wrong prediction."""
        return [(answer, prediction)]

    # Evaluating

    def measure(self, logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        """The arrays that ``metrics`` needs of a batch, each (batch, …): small, so that an evaluation never holds all
        logits.

        Each row is measured by itself, so that the number of processes and the size of batches do not change the
        metrics.
        """
        raise NotImplementedError

    def metrics(self, *measured: np.ndarray) -> dict[str, float]:
        """The metrics, ``loss`` among them, from the arrays of ``measure`` for all rows."""
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
