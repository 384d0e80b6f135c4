"""The tasks classification and regression: texts that have one label each, a class or a number."""

from collections import Counter

import numpy as np

from unilora_spec import UniLoraError

from ..rows.labels import is_missing, is_number, is_several, value_of
from ..rows.refusals import LeftOut, WrongCell
from . import classes
from .losses import cross_entropy, softmax
from .task import Predicted, Task, text_of


class Labelled(Task):
    """A text, or a pair of texts, and the label in a column beside it.

    ``nothing``  counts the texts that were read as no label, such as "nan"
    """

    def __init__(self, settings, base_labels=()):
        super().__init__(settings, base_labels)
        self.nothing: Counter = Counter()

    def columns(self, there):
        return *self.settings.text, self.settings.label

    def hint(self, there):
        if "messages" in there or {"prompt", "completion"} <= set(there):
            return "chats and answers are for --task causal-lm"
        if "tokens" in there:
            return "words and their tags are for --task token-classification"
        return ""

    def look(self, row, source):
        texts, cell = self.texts_in(row, source), row[self.settings.label]
        unlabelled = cell == -1 and source.names(self.settings.label)  # as the test splits of the Hub have it
        if unlabelled or is_missing(cell, source.is_text):
            self.nothing[value_of(cell)] += isinstance(cell, str)
            raise LeftOut("label")
        return texts, self.values(cell)

    def texts_in(self, row, source) -> tuple[str, ...]:
        """The texts of a row. Raises as ``look`` does."""
        return text_of(row, self.settings.text)

    def values(self, cell) -> tuple:
        """The values of a label's cell, which is not missing. Raises ``WrongCell`` for one that the task cannot learn."""
        if is_several(cell):
            raise WrongCell(
                self.settings.label,
                f"is {str(cell)!r:.60}, and one label is learned for each row; give a column with one label, or --task multi-label",
            )
        return (value_of(cell),)

    def lengths(self, rows):
        return [sum(map(len, texts)) for texts in zip(*(rows[column] for column in self.settings.text))]

    def remarks(self, source, train):
        missing = ", ".join(f"{text!r:.60}" for text in sorted(+self.nothing) if text)
        return [f"{source.name}: {self.settings.label} {missing} is read as no label"] * bool(missing)

    def given(self, there):
        return self.settings.text

    def check_given(self, row):
        text_of(row, self.settings.text)

    def encode(self, rows):
        texts = [[row[column] for row in rows] for column in self.settings.text]
        inputs = self.tokenize(*texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="np")
        return {name: value for name, value in inputs.items() if name in self.inputs}

    def batch(self, rows):
        return self.encode(rows) | {"labels": self.labels_of(rows)}

    def labels_of(self, rows) -> np.ndarray:
        """The labels that the model is to learn for each row: int64 for classes, else float32."""
        labels = np.array([self.label(row[self.settings.label]) for row in rows])
        return labels if labels.dtype == np.int64 else labels.astype(np.float32)

    def label(self, cell) -> int | float | list[float]:
        """The number, or the numbers, that the model is to learn for a cell of the label."""
        raise NotImplementedError


class Classification(Labelled):
    """One class for each text. ``numbers`` is the class number of each value of the label."""

    main, larger_is_better = "accuracy", True
    problem_type = "single_label_classification"

    def learn(self, source, held_out):
        """Takes the classes from ``source``, in the base's order if they are the base's own. Values of ``held_out``
        have to be among them."""
        column = self.settings.label
        names, named = classes.learned(column, source, held_out)
        if len(names) < 2:
            raise UniLoraError(
                f"{source.name}: {column} has only the value {names[0]!r}; classification needs rows of two classes or more"
            )
        if len(names) == len(source.values) > classes.MANY:
            raise UniLoraError(
                f"{source.name}: each of its {len(names):,} rows has a {column} of its own, so that nothing can be learned; give "
                "--label the column of the labels"
            )
        self.labels = classes.in_order(names, self.base_labels)
        self.numbers = {value: self.labels.index(name) for value, name in named.items()}

    def remarks(self, source, train):
        rows = {row: self.labels[self.numbers[value]] for row, (value,) in source.values.items()}
        counts = Counter(rows.values()), Counter(rows[row] for row in train)
        return super().remarks(source, train) + classes.remarks(self.settings.label, source.name, self.labels, *counts)

    def label(self, cell):
        return self.numbers[value_of(cell)]

    def answer(self, row):
        return self.labels[self.label(row[self.settings.label])]

    def predicted(self, logits, rows):
        """The likeliest class of each text."""
        probabilities = softmax(logits).tolist()
        return [
            Predicted(self.labels[np.argmax(each)], max(each), dict(zip(self.labels, each))) for each in probabilities
        ]

    def measure(self, logits, labels):
        """The predicted class of each text, its loss and its class: int64, float32 and int64 (batch,)."""
        return logits.argmax(-1), cross_entropy(logits, labels), labels

    def metrics(self, predicted, losses, true):
        f1 = []
        for label in np.union1d(predicted, true):
            hits = np.sum((predicted == label) & (true == label))
            f1.append(2 * hits / (np.sum(predicted == label) + np.sum(true == label)))
        return {
            "loss": float(losses.mean(dtype=np.float64)),
            "accuracy": float(np.mean(predicted == true)),
            "macro_f1": float(np.mean(f1)),
            "matthews": matthews(predicted, true),
        }


def matthews(predicted: np.ndarray, true: np.ndarray) -> float:
    """The Matthews correlation for any number of classes (Gorodkin 2004); 0 where all of one side are of one class.

    >>> matthews(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    0.5773502691896258
    """
    classes = np.union1d(predicted, true)
    of_predicted = np.array([np.sum(predicted == label) for label in classes], np.float64)
    of_true = np.array([np.sum(true == label) for label in classes], np.float64)
    covariance = np.sum(predicted == true) * len(true) - of_predicted @ of_true
    spread = (len(true) ** 2 - of_predicted @ of_predicted) * (len(true) ** 2 - of_true @ of_true)
    return float(covariance / np.sqrt(spread)) if spread else 0.0


class Regression(Labelled):
    """One number for each text."""

    main, larger_is_better = "mse", False
    problem_type = "regression"

    def values(self, cell):
        (value,) = super().values(cell)
        if not is_number(value):
            raise WrongCell(
                self.settings.label,
                f"is {value!r:.60}; regression needs numbers, such as 0.5, and an empty cell where there is none",
            )
        return (value,)

    def label(self, cell):
        return float(value_of(cell))

    def answer(self, row):
        return self.label(row[self.settings.label])

    def predicted(self, logits, rows):
        """The number of each text."""
        return [Predicted(number) for number in logits[:, 0].tolist()]

    def measure(self, logits, labels):
        """The predicted number of each text and its own: float32 (batch,)."""
        return logits[:, 0], labels

    def metrics(self, predicted, true):
        predicted, true = predicted.astype(np.float64), true.astype(np.float64)
        spread = predicted.std() * true.std()
        covariance = np.mean((predicted - predicted.mean()) * (true - true.mean()))
        pearson = float(covariance / spread) if spread else 0.0  # undefined where all predictions are equal
        mse = float(np.mean((predicted - true) ** 2))
        return {"loss": mse, "mse": mse, "pearson": pearson}
