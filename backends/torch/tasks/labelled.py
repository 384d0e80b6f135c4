"""Texts that have one label each: a class, or a number."""

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from unilora_spec import UniLoraError

from ..rows.labels import check_one, classes, is_missing, is_number, value_of
from ..rows.split import LeftOut
from .task import Predicted, Task, first, text_of


class Labelled(Task):
    """A text, or a pair of texts, and the label in a column beside it."""

    model_class = AutoModelForSequenceClassification

    def columns(self, there):
        return *self.settings.text, self.settings.label

    def look(self, row, source):
        texts, cell = text_of(row, self.settings.text), row[self.settings.label]
        unlabelled = cell == -1 and source.names(self.settings.label)  # as the test splits of the Hub have it
        if unlabelled or is_missing(cell, source.is_text):
            raise LeftOut("label")
        check_one(cell, self.settings.label, source.row, source.name)
        return texts, (value_of(cell),)

    def lengths(self, rows):
        return [sum(map(len, texts)) for texts in zip(*(rows[column] for column in self.settings.text))]

    def encode(self, rows):
        texts = [[row[column] for row in rows] for column in self.settings.text]
        inputs = self.tokenize(*texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        return {name: value for name, value in inputs.items() if name in self.inputs}

    def batch(self, rows):
        labels = torch.tensor([self.label(value_of(row[self.settings.label])) for row in rows])
        return self.encode(rows) | {"labels": labels}

    def label(self, value: str) -> int | float:
        """What the model is to learn for a value of the label."""
        raise NotImplementedError


class Classification(Labelled):
    """One class for each text. ``numbers`` is the class number of each value of the label."""

    main, larger_is_better = "accuracy", True

    def learn(self, source, held_out):
        """Classes that are the base's own keep the base's order. Values of ``held_out`` have to be classes of ``source``."""
        column, names = self.settings.label, source.names(self.settings.label)
        values = set(source.values) | set(held_out.values if held_out else ())
        if names:
            named = {str(number): name for number, name in enumerate(names)}
        else:
            try:
                named = classes(source.values, values)
            except ValueError as error:
                raise UniLoraError(
                    f"{source.name}: {column} holds numbers, not classes; use --task regression"
                ) from error
            names = list(dict.fromkeys(named.values()))
        if strangers := sorted(values - named.keys()):
            raise UniLoraError(f"{held_out.name}: {column} has the value {strangers[0]!r}, which {source.name} has not")
        if len(names) < 2:
            raise UniLoraError(f"{source.name}: {column} has the one value {names[0]!r}; classification needs two")
        self.labels = self.base_labels if set(names) == set(self.base_labels) else tuple(names)
        self.numbers = {value: self.labels.index(name) for value, name in named.items()}

    def configure(self, config):
        config.problem_type = "single_label_classification"
        config.id2label = dict(enumerate(self.labels))
        config.label2id = {name: number for number, name in enumerate(self.labels)}

    def label(self, value):
        return self.numbers[value]

    def answer(self, row):
        return self.labels[self.label(value_of(row[self.settings.label]))]

    def predicted(self, outputs):
        """The likeliest class of each text, and the probability of each class."""
        probabilities = first(outputs.logits).float().softmax(-1).tolist()
        return [Predicted(self.labels[np.argmax(each)], dict(zip(self.labels, each))) for each in probabilities]

    def measure(self, outputs, batch):
        """The predicted class of each text, its loss and its class: int64, float32 and int64 (batch,)."""
        logits, labels = first(outputs.logits), batch["labels"]
        return logits.argmax(-1), functional.cross_entropy(logits.float(), labels, reduction="none"), labels

    def metrics(self, predicted, losses, true):
        f1 = []
        for label in np.union1d(predicted, true):
            hits = np.sum((predicted == label) & (true == label))
            f1.append(2 * hits / (np.sum(predicted == label) + np.sum(true == label)))
        loss = float(losses.mean(dtype=np.float64))
        return {"loss": loss, "accuracy": float(np.mean(predicted == true)), "macro_f1": float(np.mean(f1))}


class Regression(Labelled):
    """One number for each text."""

    main, larger_is_better = "mse", False

    def look(self, row, source):
        texts, (value,) = super().look(row, source)
        if not is_number(value):
            raise UniLoraError(
                f"{source.name}: {self.settings.label} of row {source.row} is {value!r:.60}; regression needs numbers"
            )
        return texts, (value,)

    def configure(self, config):
        config.problem_type = "regression"
        config.id2label, config.label2id = {0: "LABEL_0"}, {"LABEL_0": 0}

    def label(self, value):
        return float(value)

    def answer(self, row):
        return float(row[self.settings.label])

    def predicted(self, outputs):
        """The number of each text."""
        return [Predicted(number) for number in first(outputs.logits).squeeze(-1).float().tolist()]

    def measure(self, outputs, batch):
        """The predicted number of each text and its own: float32 (batch,)."""
        return first(outputs.logits).squeeze(-1), batch["labels"]

    def metrics(self, predicted, true):
        predicted, true = predicted.astype(np.float64), true.astype(np.float64)
        spread = predicted.std() * true.std()
        covariance = np.mean((predicted - predicted.mean()) * (true - true.mean()))
        pearson = float(covariance / spread) if spread else 0.0  # undefined where all predictions are equal
        mse = float(np.mean((predicted - true) ** 2))
        return {"loss": mse, "mse": mse, "pearson": pearson}
