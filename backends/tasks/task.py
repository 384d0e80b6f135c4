"""What every task says of itself."""

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

    One object serves one run. It learns the classes from the rows (``learn``), and of a model what it can read (``reads``). What a model
    is given and what it gives are NumPy arrays here; a backend makes of them what it computes with.

    ``main``              the metric that early stopping goes by, or the one that the settings name
    ``larger_is_better``  how it goes by it
    ``problem_type``      what the outputs of a head are, as the base's record has it (SPEC 10); None where it says nothing
    ``labels``            the classes' names in the order of their numbers; None for tasks without classes
    ``found``             what the rows were found to be, in words; "" where a call says it
    ``counts``            how many rows ``ready`` has made others, by what it did
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

    def reads(self, tokenizer, positions: int | None, inputs: Container[str]) -> None:
        """From here on, batches are for a model that takes these ``inputs`` and reads so many ``positions``, where there is such a limit.

        ``tokenizer`` is transformers', or one that is called as theirs is.
        """
        longest = min(self.settings.max_length, positions or self.settings.max_length, tokenizer.model_max_length)
        self.tokenize, self.max_length, self.inputs = tokenizer, longest, frozenset(inputs)

    def ready(self, data: Data, progress: bool = False) -> Data:
        """The rows as batches are made of them, those held out with the longest first. Called once the model is known.

        Raises ``UniLoraError`` where nothing is left of them.
        """
        held_out = data.held_out and data.held_out.select(longest_first(self.lengths(data.held_out)))
        return replace(data, held_out=held_out)

    def batch(self, rows: Sequence[dict]) -> dict[str, np.ndarray]:
        """The model's inputs, padded to the longest, and ``labels``. Texts are tokenized here: there is no copy of the data in tokens."""
        raise NotImplementedError

    def training_batch(self, rows: Sequence[dict], epoch: int) -> dict[str, np.ndarray]:
        """``batch`` of rows that are trained on, for a task that shows them otherwise in each ``epoch``, counted from 0."""
        return self.batch(rows)

    def items(self, labels: np.ndarray) -> int:
        """Of how many losses a batch's loss is the mean."""
        return len(labels)

    # Of what a trained model with a head says; language models generate it (``using.generation``)

    def given(self, there: Sequence[str]) -> tuple[str, ...]:
        """The columns that are read of rows without labels, of a source that has those ``there``."""
        raise NotImplementedError

    def check_given(self, row: dict) -> None:
        """Raises ``LeftOut`` for a row in which nothing is given."""
        raise NotImplementedError

    def encode(self, rows: Sequence[dict]) -> dict[str, np.ndarray]:
        """A batch without its labels."""
        raise NotImplementedError

    def predicted(self, logits: np.ndarray, rows: Sequence[dict]) -> list[Predicted]:
        """What a model's logits, float32, say of each row of a batch."""
        raise NotImplementedError

    def answer(self, row: dict) -> str | list[str] | float:
        """The right answer of a row, in the form of ``Predicted.answer``."""
        raise NotImplementedError

    def confused(self, answer, prediction) -> Iterable[tuple[str, str]]:
        """Which class was right and which was predicted in its place, of a wrong prediction."""
        return [(answer, prediction)]

    # Of what is held out

    def measure(self, logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
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
