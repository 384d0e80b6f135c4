"""The common part of tasks whose rows become tokens once, before training, so that their lengths and cuts are known."""

from dataclasses import replace
from typing import NamedTuple

import datasets
import numpy as np

from unilora_spec import UniLoraError

from ..rows.forms import Example, form_of
from ..rows.split import Data
from ..runs.progress import counted
from .losses import NOT_LEARNED
from .task import Task


class Fitted(NamedTuple):
    """A row that fits a model: token ids, labels, and whether something had to be cut off."""

    ids: list[int]
    labels: list[int]
    cut: bool


class TooLong(Exception):
    """No answer of a row fits into the model's input; ``needs`` is the number of tokens that would be needed."""

    def __init__(self, needs: int):
        self.needs = needs


class Tokenized(Task):
    """Rows in one of the forms of ``rows.forms``. Once they are ``ready``, a row has ``input_ids``, ``labels`` and its number ``row`` before."""

    def fit(self, example: Example) -> Fitted:
        """The tokens of a row, at most ``max_length``. Raises ``TooLong``, and ``UniLoraError`` for a row that no
        template can show."""
        raise NotImplementedError

    def columns(self, there):
        self.form = form_of(there, self.settings.text)
        return self.form.columns

    def look(self, row, source):
        texts = self.form.read(row).texts()
        return tuple(text for text in texts if text), ()

    def lengths(self, rows):
        return list(map(len, rows["input_ids"]))

    def texts(self, rows):
        return [tuple(map(str, ids)) for ids in rows["input_ids"]]

    def ready(self, data, progress=False):
        self.cut, self.found = 0, form_of(data.train.column_names, self.settings.text).what
        data = replace(data, dropped=data.dropped.copy())
        train = self._tokens(data.train, self.settings.data, data, progress)
        held_out = data.held_out and self._tokens(
            data.held_out, self.settings.eval or self.settings.data, data, progress
        )
        self.counts = {"cut": self.cut}
        if self.cut:
            self.found += f", {self.cut:,} cut to {self.max_length:,} tokens"
        return super().ready(replace(data, train=train, held_out=held_out), progress)

    def batch(self, rows):
        ids = _padded([row["input_ids"] for row in rows], self.tokenize.pad_token_id)
        mask = _padded([[1] * len(row["input_ids"]) for row in rows], 0)
        inputs = {"input_ids": ids, "attention_mask": mask}
        labels = _padded([row["labels"] for row in rows], NOT_LEARNED)
        return {name: value for name, value in inputs.items() if name in self.inputs} | {"labels": labels}

    def _tokens(self, rows, source, data: Data, progress):
        form = form_of(rows.column_names, self.settings.text)
        columns, left_out = {"row": [], "input_ids": [], "labels": []}, []
        rows = rows.select_columns(list(form.columns))
        for number, row in enumerate(counted(rows, f"{source}: rows to tokens") if progress else rows):
            try:
                fitted = self.fit(form.read(row))
            except TooLong as error:
                left_out.append(error.needs)
                continue
            except UniLoraError as error:
                raise error.within(source) from error
            columns["row"].append(number)
            columns["input_ids"].append(np.array(fitted.ids, np.int32))
            columns["labels"].append(np.array(fitted.labels, np.int32))
            self.cut += fitted.cut
        if not columns["labels"]:
            raise UniLoraError(
                f"{source}: no answer fits in {self.max_length:,} tokens; the shortest row takes {min(left_out):,}; give a "
                "larger --max-length, up to what the model can read"
            )
        if left_out:
            data.dropped[f"answer within {self.max_length:,} tokens"] += len(left_out)
        return datasets.Dataset.from_dict(columns)


def _padded(rows, value) -> np.ndarray:
    """Int64 (rows, longest), padded at the right, so that positions count from the first token on."""
    longest = max(map(len, rows))
    return np.array([[*row, *[value] * (longest - len(row))] for row in rows], np.int64)
