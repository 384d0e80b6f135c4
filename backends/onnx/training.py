"""Runs a training in ONNX Runtime, from a graph and rows to an adapter's file."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from unilora_spec import Adapter, UniLoraError, WorkFailed, load_adapter, save_adapter

from ..rows.split import load
from ..runs.defaults import rate_of
from ..runs.ending import Interruption
from ..runs.outputs import check_place
from ..runs.progress import Progress
from ..runs.report import announcement, rows_of
from ..runs.waiting import waiting
from ..settings import flag
from ..tasks import TASKS, Task, learn_as_known
from .base import Base, base_of
from .graph import StepGraph
from .loop import Checkpoints, Loop
from .settings import TrainSettings

LEARNED = ("classification", "regression", "token-classification", "causal-lm")


def train(
    settings: TrainSettings, progress: bool = False, on_step: Callable[[int, float], None] = lambda step, loss: None
) -> dict:
    """Trains an adapter by a graph of a step, writes it to ``settings.output`` and returns a report.

    The same settings, data, libraries and machine give the same bytes, also through an interruption and ``resume``.
    ``on_step`` is called with the number and the loss of each step. Raises ``UniLoraError`` where settings, graph, base
    or data are wrong, ``WorkFailed`` where the disk refuses or the loss is no number any more, and ``Stopped`` (a
    ``WorkFailed``) after Ctrl-C or SIGTERM, when a checkpoint has been written.
    """
    started = time.monotonic()
    _check_places(settings)
    adapter = load_adapter(settings.adapter)
    checkpoints = Checkpoints(settings)
    doing = waiting if progress else lambda what: contextlib.nullcontext()
    with doing(lambda: f"loading {settings.graph}"):
        graph = StepGraph(settings.graph, adapter, settings.adapter, settings.threads)
        base = base_of(adapter, settings.base, settings.adapter)
    task = task_of(graph, adapter, settings, settings.adapter)
    task.reads(base.tokenizer, base.positions, graph.inputs)
    with doing(lambda: f"reading {settings.data}"):
        rows = task.ready(load(task.settings, task, learn_as_known(task, str(settings.adapter))), progress)
    settings, taken = _completed(task.settings, adapter, base)
    with contextlib.ExitStack() as stack:
        shown = stack.enter_context(Progress(task.main)) if progress else None
        by_default = [f"by default: {', '.join(taken)}"] if taken else []
        for line in (*base.warnings, announcement(base.folder, rows, task), *rows.said, *by_default) if shown else ():
            shown.say(line)
        stack.callback(checkpoints.clear_unless_any)
        loop = Loop(settings, graph, adapter, task, rows, on_step)
        checkpoints.start()
        loop.begin(checkpoints.last(), shown)
        before = next(iter(loop.measured.values()), {})
        if settings.metric and settings.metric not in before:
            there = ", ".join(before) or "none, as no rows are held out"
            raise UniLoraError(f"--metric is {settings.metric!r:.60}; of {task.settings.task} there are {there}")
        with Interruption(checkpoints, shown.say if shown else lambda line: None) as interruption:
            loop.train(checkpoints, interruption, shown)
        steps, after = loop.state.step, loop.take_best(checkpoints.folder)
        size = _save(loop, adapter, settings)
    checkpoints.clear()
    return {
        "rows": rows_of(rows, task),
        "parameters": {"theta": adapter.projection.d, "in_full": sum(each.size for each in loop.state.saved.values())},
        "steps": steps,
        "adapter": {"d": adapter.projection.d, "lr": settings.lr},
        "before": before,
        "after": after,
        "output": str(settings.output),
        "bytes": size,
        "seconds": round(time.monotonic() - started, 1),
    }


def task_of(graph: StepGraph, adapter: Adapter, settings, of: Path) -> Task:
    """The task of a graph, with the classes of the adapter in the file ``of``. Raises ``UniLoraError`` for a task whose
    rows are not read here."""
    if graph.task not in LEARNED:
        what = f"the task {graph.task:.40}" if graph.task else "no task, but of a module of one's own"
        raise UniLoraError(
            f"{graph.path} is of {what}, for which no rows are read here; call backends.onnx.StepGraph from Python"
        )
    settings = settings.rows_for(graph.task)
    if adapter.base is None:
        raise UniLoraError(f"{of}: it does not name its base; give an adapter of a transformers model")
    task = TASKS[graph.task](settings, adapter.base.labels or ())
    if graph.task in ("classification", "token-classification"):
        if not adapter.base.labels:
            raise UniLoraError(
                f"{of}: its record has no names of classes; give an adapter that backends.torch start has written"
            )
        task.labels = task.base_labels
    return task


def _check_places(settings):
    read = {flag(name): getattr(settings, name) for name in ("graph", "adapter", "base", "data", "eval")}
    check_place(settings.output, "--output", read)
    if settings.state:
        check_place(settings.state, "--state", read)


def _completed(settings, adapter, base: Base) -> tuple[TrainSettings, list[str]]:
    """``settings`` with a learning rate and a seed, and each that was not given as an option's text."""
    given, said, p = {}, [], adapter.projection
    if settings.lr is None:
        if base.parameters is None:
            raise UniLoraError(
                f"--lr is missing, and it cannot be chosen by the base's size, as {base.folder} has no weights; give --lr"
            )
        in_full = sum(value.size for value in adapter.saved.values())
        given["lr"] = rate_of(settings.task, p.kind, p.D / p.d, base.parameters + in_full)
        said.append(f"--lr {given['lr']:g}")
    if settings.seed is None:
        given["seed"] = p.seed
        said.append(f"--seed {p.seed}")
    return replace(settings, **given), said


def _save(loop: Loop, adapter: Adapter, settings) -> int:
    try:
        return save_adapter(loop.state.adapter(adapter), settings.output)
    except WorkFailed as error:
        raise WorkFailed(f"{error.message}; the checkpoints are kept, for --resume") from error
