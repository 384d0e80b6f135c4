"""Writes rows with an adapter's predictions for them, in their order and with none left out."""

import time
from collections import Counter

import datasets
import torch

from unilora_spec import UniLoraError

from ...rows.reading import read
from ...rows.refusals import LeftOut, WrongCell
from ...runs.measuring import batches
from ...runs.tables import as_given, rounded, write_table
from ...settings import PredictSettings
from ...tasks import TokenClassification
from ..tasks.language_model import LanguageModel
from ..tasks.model import on_device
from ..training.base import quiet
from .generation import Generator
from .prompts import Asking, Prompts
from .trained import Trained, load_trained


def predict(settings: PredictSettings, progress: bool = False) -> dict:
    """Writes the rows of ``settings.data`` to ``settings.output``, with a column ``prediction`` (a class, a number, or
    a generated text) and, for classes, ``probability``; returns a report.

    Rows without an input get an empty prediction, and ``empty`` in the report counts them by the reason: "text" where
    there is none, "too long" where a prompt is longer than the base can read. Raises ``UniLoraError`` where adapter,
    base or rows are wrong.
    """
    started = time.monotonic()
    with quiet(), torch.no_grad():
        trained = load_trained(settings, {"--output": settings.output}, progress)
        if settings.probabilities and (not trained.task.labels or isinstance(trained.task, TokenClassification)):
            raise UniLoraError(
                f"--probabilities are those of a row's classes, and {settings.adapter} has none; leave it out"
            )
        rows = read(settings.data, settings.separator, settings.encoding).rows
        predicted = _generated if isinstance(trained.task, LanguageModel) else _answers
        columns, found, empty = predicted(settings, trained, rows, progress)
    if taken := [name for name in columns if name in rows.column_names]:
        raise UniLoraError(f"{settings.data}: there is a column {taken[0]!r} already; give the rows without it")
    write_table(
        settings.output, [*rows.column_names, *columns], (row | said for row, said in zip(as_given(rows), found))
    )
    return {
        "adapter": str(settings.adapter),
        "base": trained.base,
        "task": trained.task.settings.task,
        "rows": len(rows),
        "empty": dict(empty),
        "columns": columns,
        "output": str(settings.output),
        "bytes": settings.output.stat().st_size,
        "warnings": trained.warnings,
        "seconds": round(time.monotonic() - started, 1),
    }


def _answers(settings, trained: Trained, rows: datasets.Dataset, progress):
    """The predictions of a model with a head: (names of the new columns, their values in each row, the number of rows
    without values by the reason)."""
    task, model = trained.task, trained.model
    texts = list(task.given(rows.column_names))
    for column in texts:
        if column not in rows.column_names:
            raise UniLoraError(
                f"{settings.data}: there is no column {column!r}; its columns are {', '.join(rows.column_names)}; "
                f"{task.hint(rows.column_names) or 'give --text'}"
            )
    columns = ["prediction"] + (["probability"] if task.labels else [])
    if settings.probabilities:
        columns += [f"probability of {label}" for label in task.labels]
    given, usable, empty = task.as_read(rows, settings.data).select_columns(texts), [], Counter()
    for number, row in enumerate(given):
        try:
            task.check_given(row)
            usable.append(number)
        except LeftOut as lacking:
            empty[str(lacking)] += 1
        except WrongCell as wrong:
            raise UniLoraError(f"{settings.data}: {wrong.column} of row {number + 1} {wrong.what}") from None
    found = [{} for _ in range(len(rows))]
    chosen = given.select(usable)
    for numbers in batches(task.lengths(chosen), task.settings.batch_size, "predicting", progress) if usable else ():
        batch = chosen.select(numbers).to_list()
        outputs = model(**on_device(task.encode(batch), model))
        for number, (answer, probability, probabilities) in zip(numbers, task.predicted(outputs, batch)):
            said = {"prediction": answer if task.labels else rounded(answer)}
            if task.labels:
                said["probability"] = rounded(probability)
            if settings.probabilities:
                said |= {f"probability of {label}": rounded(each) for label, each in probabilities.items()}
            found[usable[number]] = said
    return columns, found, empty


def _generated(settings, trained: Trained, rows: datasets.Dataset, progress):
    """The answers of a language model, in the form of ``_answers``."""
    asking = Asking(trained, settings.begin)
    prompts = Prompts(trained, asking, rows.column_names)
    asked, empty = {}, Counter()
    for number, row in enumerate(rows):
        try:
            asked[number] = prompts.alone(row)
        except LeftOut as lacking:
            empty[str(lacking)] += 1
        except UniLoraError as error:
            raise error.within(f"{settings.data}: row {number + 1}") from None
    generator = Generator(trained, asking.template, settings.max_new_tokens, stop=settings.stop)
    texts = generator.texts(list(asked.values()), trained.task.settings.batch_size, "generating, steps", progress)
    found = [{} for _ in range(len(rows))]
    for number, text in zip(asked, texts):
        if text is None:
            empty["too long"] += 1
        else:
            found[number] = {"prediction": text}
    return ["prediction"], found, empty
