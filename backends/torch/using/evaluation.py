"""What an adapter makes of rows whose answers are known: the metrics of its task, beside those of the base, and its mistakes."""

import time

import numpy as np
import torch

from unilora_spec import UniLoraError

from ...rows.split import Data, Source
from ...runs.mistakes import Mistakes
from ...runs.tables import shown, write_table
from ...settings import EvaluateSettings
from ...tasks import as_known
from ..tasks.language_model import LanguageModel
from ..training.base import quiet
from .answers import Comparison
from .generation import Generator
from .passes import batches, on_device
from .prompts import Asking, Prompts
from .trained import Trained, load_trained

PADDING = -100  # in what is measured of each token, as labels have it


def evaluate(settings: EvaluateSettings, progress: bool = False) -> dict:
    """The metrics of an adapter on rows, as a report.

    ``metrics``       those of its task, with the adapter
    ``base_metrics``  the same without it; None where the base has no head of its own for the same classes
    ``generated``     with ``settings.generate``: the share of right answers with the adapter and without, and how they were compared
    ``mistakes``      what ``Mistakes.report`` says

    Writes all mistakes to ``settings.mistakes``. Raises ``UniLoraError`` where adapter, base or rows are wrong.
    """
    started = time.monotonic()
    with quiet(), torch.no_grad():
        trained = load_trained(settings, {"--mistakes": settings.mistakes}, progress)
        if settings.generate and not isinstance(trained.task, LanguageModel):
            raise UniLoraError(f"--generate is for language models, and {settings.adapter} has a head; leave it out")
        source, chosen = _rows(settings, trained)
        rows = source.rows.select(chosen)
        questions = _Questions(settings, trained, rows) if settings.generate else None
        data = trained.task.ready(Data(rows, None, source.dropped), progress)
        metrics, mistakes = measured(trained, data.train, "evaluating", progress)
        report = {
            "adapter": str(settings.adapter),
            "base": trained.base,
            "task": trained.task.settings.task,
            "data": settings.data,
            "rows": {"used": len(data.train), "dropped": dict(data.dropped)} | trained.task.counts,
            "metrics": metrics,
            "base_metrics": None,
        }
        if trained.base_can_answer:
            with trained.model.unilora.disabled():
                report["base_metrics"], _ = measured(trained, data.train, "evaluating the base", progress)
        if questions:
            report["generated"], mistakes = questions.answered(progress)
    texts = list(trained.task.columns(rows.column_names))
    if len(texts) > 1 and mistakes.by != "loss":
        del texts[-1]  # the answer, which stands beside it anyway
    table = mistakes.table(
        lambda number: {"row": chosen[number] + 1} | {name: shown(rows[number][name]) for name in texts}
    )
    report["mistakes"] = mistakes.report() | {"examples": table[: mistakes.SHOWN]}
    if settings.mistakes:
        write_table(settings.mistakes, mistakes.columns(texts), table)
        report["mistakes"]["file"] = str(settings.mistakes)
    return report | {"warnings": trained.warnings, "seconds": round(time.monotonic() - started, 1)}


def _rows(settings, trained) -> tuple[Source, list[int]]:
    """The source of the rows, and the numbers of those that are used. The task reads the classes as the adapter's."""
    task = trained.task
    source = Source(settings.data, task.settings, task)
    if task.labels:
        as_known(task, str(settings.adapter))(source)
    chosen = [row for row, share in source.shares.items() if not settings.holdout or share < settings.holdout]
    if settings.limit:
        chosen = sorted(sorted(chosen, key=source.shares.get)[: settings.limit])
    if not chosen:
        raise UniLoraError(f"{settings.data}: of {len(source.shares)} rows none is held out; give another --holdout")
    return source, chosen


def measured(trained: Trained, rows, what: str, progress: bool) -> tuple[dict[str, float], Mistakes]:
    """The metrics of a task on rows that are ready, and the mistakes, by the numbers that the rows had before."""
    task, model = trained.task, trained.model
    before = rows["row"] if "row" in rows.column_names else range(len(rows))
    found, mistakes = [], Mistakes()
    for numbers in batches(task.lengths(rows), task.settings.batch_size, what, progress):
        chosen = rows.select(numbers).to_list()
        batch = on_device(task.batch(chosen), model)
        _, outputs = task.loss(model, batch)
        found.append([each.cpu().numpy() for each in task.measure(outputs, batch)])
        if isinstance(task, LanguageModel):
            mistakes.of_texts([before[number] for number in numbers], found[-1][0], found[-1][-1])
        else:
            mistakes.of_answers([before[number] for number in numbers], chosen, task, outputs)
    return task.metrics(*map(_joined, zip(*found))), mistakes


def _joined(arrays) -> np.ndarray:
    """Arrays (batch, …) as one; of others than the longest, the rest of each row is ``PADDING``."""
    shape = np.max([array.shape[1:] for array in arrays], axis=0).astype(int)
    padded = [
        np.pad(
            array, [(0, 0), *((0, most - size) for most, size in zip(shape, array.shape[1:]))], constant_values=PADDING
        )
        for array in arrays
    ]
    return np.concatenate(padded)


class _Questions:
    """The prompts of rows, their answers, and how generated ones are compared with them."""

    def __init__(self, settings, trained, rows):
        asking = Asking(trained, settings.begin)
        prompts = Prompts(trained, asking, rows.column_names)
        asked = [prompts.with_answer(row) for row in rows]
        self.prompts, self.answers = [ids for ids, _ in asked], [answer for _, answer in asked]
        self.comparison = Comparison(settings.answer or "whole", self.answers, settings.answer_after)
        self.generator = Generator(trained, asking.template, settings.max_new_tokens, stop=settings.stop)
        self.trained = trained

    def answered(self, progress: bool) -> tuple[dict, Mistakes]:
        """How many generated answers are right, with the adapter and without, and those that are wrong with it."""
        texts, hits = self._right("generating, steps", progress)
        with self.trained.model.unilora.disabled():
            _, base_hits = self._right("generating without the adapter, steps", progress)
        mistakes = Mistakes()
        mistakes.of_generated(self.answers, texts, hits, self.comparison)
        report = {
            "answer": self.comparison.how,
            "exact_match": float(hits.mean()),
            "base_exact_match": float(base_hits.mean()),
            "too_long": sum(text is None for text in texts),
        }
        return report, mistakes

    def _right(self, what, progress) -> tuple[list[str | None], np.ndarray]:
        texts = self.generator.texts(self.prompts, self.trained.task.settings.batch_size, what, progress)
        return texts, np.array([self.comparison.same(text, answer) for text, answer in zip(texts, self.answers)])
