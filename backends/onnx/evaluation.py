"""Evaluates an adapter in ONNX Runtime on rows whose answers are known: the metrics of its task, and its mistakes."""

import contextlib
import time

from unilora_spec import load_adapter

from ..rows.split import Data
from ..runs.measuring import Outputs, chosen_rows, measured, mistakes_of
from ..runs.outputs import check_place
from ..runs.state import State
from ..runs.waiting import waiting
from ..tasks import Task
from .base import base_of
from .graph import StepGraph
from .settings import EvaluateSettings
from .training import task_of


def evaluate(settings: EvaluateSettings, progress: bool = False) -> dict:
    """Evaluates an adapter on rows by the graph of its training, and returns a report with these fields among others:

    ``metrics``   the metrics of its task
    ``mistakes``  the report of ``Mistakes``, and the first of the mistakes

    Writes all mistakes to ``settings.mistakes``. Raises ``UniLoraError`` where adapter, graph, base or rows are wrong.
    """
    started = time.monotonic()
    if settings.mistakes:
        read = {
            "--adapter": settings.adapter,
            "--graph": settings.graph,
            "--data": settings.data,
            "--base": settings.base,
        }
        check_place(settings.mistakes, "--mistakes", read)
    adapter = load_adapter(settings.adapter)
    with waiting(lambda: f"loading {settings.graph}") if progress else contextlib.nullcontext():
        graph = StepGraph(settings.graph, adapter, settings.adapter, settings.threads, learn=False)
        base = base_of(adapter, settings.base, settings.adapter)
    task = task_of(graph, adapter, settings, settings.adapter)
    task.reads(base.tokenizer, base.positions, graph.inputs)
    source, chosen = chosen_rows(settings, task, str(settings.adapter))
    rows = source.rows.select(chosen)
    data = task.ready(Data(rows, None, source.dropped), progress)
    metrics, mistakes = measured(task, data.train, outputs_by(graph, task, State.of(adapter)), "evaluating", progress)
    return {
        "adapter": str(settings.adapter),
        "base": str(base.folder),
        "task": graph.task,
        "data": settings.data,
        "rows": {"used": len(data.train), "dropped": dict(data.dropped)} | task.counts,
        "metrics": metrics,
        "mistakes": mistakes_of(task, mistakes, rows, chosen, settings.mistakes),
        "warnings": list(base.warnings),
        "seconds": round(time.monotonic() - started, 1),
    }


def outputs_by(graph: StepGraph, task: Task, state: State) -> Outputs:
    """A function that runs rows through the graph, as ``measured`` calls it."""

    def outputs(rows):
        batch = task.batch(rows)
        logits = graph.logits(batch, state)
        return task.measure(logits, batch["labels"]), logits

    return outputs
