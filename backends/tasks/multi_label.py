"""The task multi-label: texts that have any number of labels each."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from unilora_spec import UniLoraError

from ..rows.labels import labels_in, value_of
from . import classes
from .labelled import Labelled
from .losses import binary_cross_entropy, sigmoid
from .task import Predicted

BETWEEN = ";", "|", ","  # the separators that are looked for between labels in one text
_BITS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "False": 0, "True": 1, "false": 0, "true": 1}


class MultiLabel(Labelled):
    """Any number of classes for each text. A cell is a list of names, a list of a 0 or 1 for each class, or one text with a
    separator between the names.

    Lists count as 0s and 1s where all lists of a source have the same length, two or more, and hold nothing else.
    ``numbers`` has the class numbers of each cell, by what ``labels_in`` gives for the cell.
    """

    main, larger_is_better = "micro_f1", True
    problem_type = "multi_label_classification"

    def values(self, cell):
        return (labels_in(cell, self.settings.label),)

    def learn(self, source, held_out):
        """Takes the classes from ``source``, in the base's order if they are the base's own. Names in ``held_out`` have
        to be among them."""
        own, others = source.first(), held_out.first() if held_out else {}
        self.separator = self.settings.label_separator or self._found_separator({**others, **own}, source.name)
        cells = {cell: self._split(cell) for cell in (*own, *others)}
        column, names = self.settings.label, source.names(self.settings.label)
        if count := _bits_in(cells.values(), names):
            known = (
                self.base_labels if len(self.base_labels) == count and not self._nameless() else map(str, range(count))
            )
            self.labels = tuple(names or known)
            self.numbers = {
                cell: tuple(number for number, bit in enumerate(each) if _BITS[bit]) for cell, each in cells.items()
            }
            return
        names, named = classes.learned(column, source, held_out, cells.get)
        if not names:
            raise UniLoraError(f"{source.name}: no row has a label in {column}; give --label the column of the labels")
        self.labels = classes.in_order(names, self.base_labels)
        self.numbers = {
            cell: tuple(sorted({self.labels.index(named[name]) for name in each})) for cell, each in cells.items()
        }

    def has_bits(self, source) -> bool:
        """Whether the cells of a source are lists of 0 and 1, one for each of ``base_labels``."""
        cells = [cell if isinstance(cell, tuple) else (cell,) for cell in source.first()]
        return _bits_in(cells, source.names(self.settings.label)) == len(self.base_labels)

    def _nameless(self):
        """Whether the base's labels are those that transformers makes up."""
        return self.base_labels == tuple(f"LABEL_{number}" for number in range(len(self.base_labels)))

    def _found_separator(self, where, name):
        found = {between: cell for cell in where if isinstance(cell, str) for between in BETWEEN if between in cell}
        if len(found) > 1:
            examples = " and ".join(
                f"{cell!r:.60} ({where[cell].partition(' of ')[0]})" for cell in list(found.values())[:2]
            )
            raise UniLoraError(
                f"{name}: {self.settings.label} has more than one of {' '.join(BETWEEN)} in it, such as {examples}; give --label-separator"
            )
        return next(iter(found), None)

    def _split(self, cell) -> tuple[str, ...]:
        if not isinstance(cell, str):
            return cell
        return tuple(filter(None, map(value_of, cell.split(self.separator) if self.separator else [cell])))

    def remarks(self, source, train):
        count = {row: [self.labels[number] for number in self.numbers[cell]] for row, (cell,) in source.values.items()}
        counts = (
            Counter(name for names in count.values() for name in names),
            Counter(name for row in train for name in count[row]),
        )
        said = super().remarks(source, train) + classes.remarks(self.settings.label, source.name, self.labels, *counts)
        if self.separator and not self.settings.label_separator:
            said.append(
                f"{source.name}: {self.settings.label} is split at each {self.separator!r}; --label-separator says otherwise"
            )
        return said

    def label(self, cell):
        bits = [0.0] * len(self.labels)
        for number in self.numbers[labels_in(cell, self.settings.label)]:
            bits[number] = 1.0
        return bits

    def answer(self, row):
        bits = self.label(row[self.settings.label])
        return [label for label, bit in zip(self.labels, bits) if bit]

    def predicted(self, logits, rows):
        """The classes of each text whose probability is above a half."""
        found = []
        for each in sigmoid(logits).tolist():
            chosen = [label for label, probability in zip(self.labels, each) if probability > 0.5]
            found.append(Predicted(chosen, min(max(p, 1 - p) for p in each), dict(zip(self.labels, each))))
        return found

    def confused(self, answer, prediction):
        """Pairs (right, predicted) for a wrong prediction: (class, "") for a class that is missing, ("", class) for one
        too many."""
        missed = [(label, "") for label in answer if label not in prediction]
        return missed + [("", label) for label in prediction if label not in answer]

    def measure(self, logits, labels):
        """For each text, the predicted classes, whose probability is above a half, as int64 (batch, classes); its loss,
        float32 (batch,); and its own classes, int64 (batch, classes)."""
        losses = binary_cross_entropy(logits, labels).mean(-1)
        return (logits > 0).astype(np.int64), losses, labels.astype(np.int64)

    def metrics(self, predicted, losses, true):
        hits, both = (predicted & true).sum(0), predicted.sum(0) + true.sum(0)
        occurring = both > 0
        f1 = 2 * hits[occurring] / both[occurring]
        return {
            "loss": float(losses.mean(dtype=np.float64)),
            "micro_f1": float(2 * hits.sum() / max(both.sum(), 1)),
            "macro_f1": float(f1.mean()) if occurring.any() else 0.0,
            "exact_match": float(np.mean((predicted == true).all(1))),
        }


def _bits_in(cells: Iterable[tuple[str, ...]], names: Sequence[str] | None) -> int:
    """The number of classes where each cell has a 0 or 1 for each class; 0 where cells hold names or numbers of
    classes."""
    counts = {len(names)} if names else set()
    for cell in cells:
        counts.add(len(cell))
        if len(cell) < 2 or len(counts) > 1 or not _BITS.keys() >= set(cell):
            return 0
    return counts.pop()
