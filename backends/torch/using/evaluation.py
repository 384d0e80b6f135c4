"""Evaluates an adapter on rows whose answers are known: the metrics of its task, beside those of the base, and its
mistakes."""

import time

import numpy as np
import torch

from unilora_spec import UniLoraError

from ...rows.split import Data
from ...runs.measuring import Outputs, chosen_rows, measured, mistakes_of
from ...runs.mistakes import Mistakes
from ...settings import EvaluateSettings
from ..tasks.language_model import LanguageModel
from ..tasks.model import on_device
from ..training.base import quiet
from .answers import Comparison
from .generation import Generator
from .prompts import Asking, Prompts
from .trained import Trained, load_trained


def evaluate(settings: EvaluateSettings, progress: bool = False) -> dict:
    """Evaluates an adapter on rows, and returns a report with these fields among others:

    ``metrics``       the metrics of its task
    ``base_metrics``  the same metrics without the adapter; None where the base has no head of its own for the same
                      classes
    ``generated``     with ``settings.generate``: the share of right answers with the adapter and without, and how they were compared
    ``mistakes``      the report of ``Mistakes``

    Writes all mistakes to ``settings.mistakes``. Raises ``UniLoraError`` where adapter, base or rows are wrong.
    """
    started = time.monotonic()
    with quiet(), torch.no_grad():
        trained = load_trained(settings, {"--mistakes": settings.mistakes}, progress)
        if settings.generate and not isinstance(trained.task, LanguageModel):
            raise UniLoraError(f"--generate is for language models, and {settings.adapter} has a head; leave it out")
        source, chosen = chosen_rows(settings, trained.task, str(settings.adapter))
        rows = source.rows.select(chosen)
        questions = _Questions(settings, trained, rows) if settings.generate else None
        data = trained.task.ready(Data(rows, None, source.dropped), progress)
        metrics, mistakes = measured(trained.task, data.train, outputs_by(trained), "evaluating", progress)
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
                report["base_metrics"], _ = measured(
                    trained.task, data.train, outputs_by(trained), "evaluating the base", progress
                )
        if questions:
            report["generated"], mistakes = questions.answered(progress)
    report["mistakes"] = mistakes_of(trained.task, mistakes, rows, chosen, settings.mistakes)
    return report | {"warnings": trained.warnings, "seconds": round(time.monotonic() - started, 1)}


def outputs_by(trained: Trained) -> Outputs:
    """A function that runs rows through the model, as ``measured`` calls it."""

    def outputs_of(rows):
        batch = on_device(trained.task.batch(rows), trained.model)
        _, outputs = trained.task.loss(trained.model, batch)
        return [each.cpu().numpy() for each in trained.task.measure(outputs, batch)], outputs

    return outputs_of


class _Questions:
    """The prompts of rows and their answers, with which generated answers are compared."""

    def __init__(self, settings, trained, rows):
        asking = Asking(trained, settings.begin)
        prompts = Prompts(trained, asking, rows.column_names)
        asked = [prompts.with_answer(row) for row in rows]
        self.prompts, self.answers = [ids for ids, _ in asked], [answer for _, answer in asked]
        self.comparison = Comparison(settings.answer or "whole", self.answers, settings.answer_after)
        self.generator = Generator(trained, asking.template, settings.max_new_tokens, stop=settings.stop)
        self.trained = trained

    def answered(self, progress: bool) -> tuple[dict, Mistakes]:
        """(how many generated answers are right with the adapter and without, the mistakes made with it)."""
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
