"""Runs rows through a model in batches of like length, and measures the outputs."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from unilora_spec import UniLoraError

from ..rows.order import longest_first
from ..rows.split import Source
from ..tasks import LanguageModel, Task, learn_as_known
from ..tasks.losses import NOT_LEARNED
from .mistakes import Mistakes
from .progress import counted
from .tables import shown, write_table

Outputs = Callable[[list[dict]], tuple[Sequence[np.ndarray], object]]
"""A function that runs rows through a model: (the arrays of ``Task.measure``, the outputs for ``Task.predicted``)."""


def batches(lengths: Sequence[int], size: int, what: str, progress: bool) -> Iterator[list[int]]:
    """The numbers of rows of these ``lengths`` in batches of ``size``, the longest first; with ``progress``, the number
    of batches done is shown."""
    order = longest_first(lengths)
    numbers = [order[start : start + size] for start in range(0, len(order), size)]
    return counted(numbers, what) if progress else iter(numbers)


def chosen_rows(settings, task: Task, by: str) -> tuple[Source, list[int]]:
    """(source of the rows to measure, numbers of the rows that are used). The classes are those of the adapter that
    ``by`` names."""
    source = Source(settings.data, task.settings, task)
    learn_as_known(task, by)(source, None)
    chosen = [row for row, share in source.shares.items() if not settings.holdout or share < settings.holdout]
    if settings.limit:
        chosen = sorted(sorted(chosen, key=source.shares.get)[: settings.limit])
    if not chosen:
        raise UniLoraError(f"{settings.data}: of {len(source.shares)} rows none is held out; give another --holdout")
    return source, chosen


def measured(task: Task, rows, outputs_of: Outputs, what: str, progress: bool) -> tuple[dict[str, float], Mistakes]:
    """The metrics of a task on rows that are ready for a model, and the mistakes, by the numbers that the rows had
    before."""
    before = rows["row"] if "row" in rows.column_names else range(len(rows))
    found, mistakes = [], Mistakes()
    for numbers in batches(task.lengths(rows), task.settings.batch_size, what, progress):
        chosen = rows.select(numbers).to_list()
        arrays, outputs = outputs_of(chosen)
        found.append(arrays)
        if isinstance(task, LanguageModel):
            mistakes.of_texts([before[number] for number in numbers], arrays[0], arrays[-1])
        else:
            mistakes.of_answers([before[number] for number in numbers], chosen, task, outputs)
    return metrics_of(task, found), mistakes


def mistakes_of(task: Task, mistakes: Mistakes, rows, chosen: Sequence[int], file: Path | None) -> dict:
    """The report of mistakes in ``rows``, which have the numbers ``chosen`` in their source; all of them are written to ``file``."""
    texts = list(task.columns(rows.column_names))
    if len(texts) > 1 and mistakes.by != "loss":
        del texts[-1]  # the answer, which stands beside it anyway
    table = mistakes.table(
        lambda number: {"row": chosen[number] + 1} | {name: shown(rows[number][name]) for name in texts}
    )
    report = mistakes.report() | {"examples": table[: mistakes.SHOWN]}
    if file:
        write_table(file, mistakes.columns(texts), table)
        report["file"] = str(file)
    return report


def metrics_of(task: Task, found: Sequence[Sequence[np.ndarray]]) -> dict[str, float]:
    """The metrics of arrays that ``Task.measure`` gave, batch by batch."""
    return task.metrics(*map(_joined, zip(*found)))


def _joined(arrays) -> np.ndarray:
    """Arrays (batch, …) as one array; shorter rows are filled up with ``NOT_LEARNED``."""
    shape = np.max([array.shape[1:] for array in arrays], axis=0).astype(int)
    rests = [[(0, 0), *((0, most - size) for most, size in zip(shape, array.shape[1:]))] for array in arrays]
    return np.concatenate([np.pad(*each, constant_values=NOT_LEARNED) for each in zip(arrays, rests)])
