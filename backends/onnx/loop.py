"""The steps of a training: chooses the rows of each step, evaluates on held-out rows, and writes checkpoints."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from unilora_spec import Adapter, WorkFailed
from unilora_spec.documents import read_json

from ..rows.order import of_like_length
from ..runs import checkpoints
from ..runs.ending import Interruption, check_finite
from ..runs.measuring import metrics_of
from ..runs.state import State, load_state, run_of, save_state
from .graph import StepGraph
from .optimizer import AdamW, clipped, share_of_rate

STATE, RUN = "state.safetensors", "run.json"


class Checkpoints(checkpoints.Checkpoints):
    """The checkpoints of a run in ONNX Runtime: the state, and the metrics so far."""

    def step_in(self, checkpoint):
        return read_json(checkpoint / RUN)["step"]


class Loop:
    """The steps of a run on the batches of ``task``; they change ``state``.

    ``measured``  the metrics of each evaluation on held-out rows, by step
    ``best``      the step of the best evaluation, where ``settings.patience`` asks for it
    ``stale``     the number of evaluations in a row that were no better
    ``on_step``   called with the number and the loss of each step
    """

    def __init__(self, settings, graph: StepGraph, adapter: Adapter, task, rows, on_step: Callable[[int, float], None]):
        self.settings, self.graph, self.adapter, self.task, self.rows, self.on_step = (
            settings,
            graph,
            adapter,
            task,
            rows,
            on_step,
        )
        self.lengths = task.lengths(rows.train)
        self.epoch_steps = math.ceil(len(self.lengths) / settings.batch_size)
        self.steps = settings.max_steps or math.ceil(settings.epochs * self.epoch_steps)
        self.every = settings.eval_steps or self.epoch_steps
        self.run = run_of(settings, settings.seed, len(self.lengths), self.steps)
        self.state, self.measured, self.best, self.stale = State.of(adapter), {}, None, 0
        self._order, self._epoch = [], None

    def begin(self, checkpoint: Path | None, shown) -> None:
        """Goes on from a checkpoint of this run, or from ``settings.from_state``, or begins anew; first evaluates on
        the held-out rows."""
        if checkpoint:
            self.state = load_state(checkpoint / STATE, self.adapter, self.run)
            run = read_json(checkpoint / RUN)
            self.measured = {int(step): metrics for step, metrics in run["measured"].items()}
            self.best, self.stale = run["best"], run["stale"]
            return
        if self.settings.from_state:
            self.state = load_state(self.settings.from_state, self.adapter, self.run)
        if self.rows.held_out:
            self.measured[self.state.step] = self.evaluated(shown)

    def train(self, checkpoints: Checkpoints, interruption: Interruption, shown) -> None:
        """Trains to the end, or until a signal, after which it writes a checkpoint and raises ``Stopped``."""
        optimizer = AdamW(self.state, self._rates())
        while self.state.step < self.steps and not self.is_over():
            share = share_of_rate(self.settings.schedule, self.state.step, self.steps, self.settings.warmup)
            loss, gradients = self.gradients(self._batch(self.state.step))
            step = self.state.step + 1
            check_finite(loss, step)
            optimizer.step(clipped(gradients, self.settings.clip), share)
            self.on_step(step, loss)
            if shown:
                shown.loss = loss
                shown.step(step, self.steps)
            due = step % self.every == 0 or step == self.steps
            if due and self.rows.held_out:
                self._evaluate(shown)
            if due or interruption.asked:
                self._write_checkpoint(checkpoints)
            if interruption.asked:
                raise interruption.stopped(step, self.steps)

    def gradients(self, rows: list[dict]) -> tuple[float, dict[str, np.ndarray]]:
        """The mean loss of a step's rows and its gradients, however many are in the model at once."""
        size = self.settings.micro_batch or len(rows)
        batches = [self.task.batch(rows[start : start + size]) for start in range(0, len(rows), size)]
        items = [self.task.items(batch["labels"]) for batch in batches]
        loss, gradients = 0.0, {name: np.zeros_like(value) for name, value in self.state.values.items()}
        for batch, count in zip(batches, items):
            share = count / max(1, sum(items))
            part = self.graph.step(batch, self.state)
            if share:
                loss += share * part.loss
                for name, gradient in part.gradients.items():
                    gradients[name] += np.float32(share) * gradient
        return loss, gradients

    def evaluated(self, shown) -> dict[str, float]:
        """The metrics of the current state on the held-out rows."""
        found, rows, size = [], self.rows.held_out, self.settings.batch_size
        starts = range(0, len(rows), self.settings.micro_batch or size)
        for number, start in enumerate(starts, 1):
            batch = self.task.batch(rows.select(range(start, min(start + starts.step, len(rows)))).to_list())
            found.append(self.task.measure(self.graph.logits(batch, self.state), batch["labels"]))
            if shown:
                shown.at("held-out batch", number, len(starts))
        return metrics_of(self.task, found)

    def is_over(self) -> bool:
        """Whether ``settings.patience`` ends the training now."""
        return bool(self.settings.patience) and self.stale >= self.settings.patience

    def take_best(self, folder: Path) -> dict[str, float]:
        """Takes, with ``settings.patience``, the best state from its checkpoint in ``folder``; returns the metrics of
        the state."""
        if self.best not in (None, self.state.step):
            self.state = load_state(folder / f"checkpoint-{self.best}" / STATE, self.adapter, self.run)
        return self.measured.get(self.state.step, {})

    def _batch(self, step) -> list[dict]:
        epoch, number = divmod(step, self.epoch_steps)
        size = self.settings.batch_size
        if epoch != self._epoch:
            self._order = of_like_length(self.lengths, size, self.settings.seed, epoch)
            self._epoch = epoch
        return self.rows.train.select(self._order[number * size : (number + 1) * size]).to_list()

    def _rates(self):
        rates = {name: self.settings.rate_and_decay(value.ndim) for name, value in self.state.values.items()}
        return rates | {"theta": self.settings.rate_and_decay()}

    def _evaluate(self, shown):
        metrics = self.measured[self.state.step] = self.evaluated(shown)
        if self.settings.patience:
            main, sign = self.task.main, 1 if self.task.larger_is_better else -1
            if self.best is None or sign * (metrics[main] - self.measured[self.best][main]) > 0:
                self.best, self.stale = self.state.step, 0
            else:
                self.stale += 1
        if shown:
            shown.evaluation(metrics, self.state.step, self.steps)

    def _write_checkpoint(self, checkpoints):
        folder = checkpoints.folder / f"checkpoint-{self.state.step}"
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            save_state(self.state, self.adapter, self.run, folder / STATE)
            run = {"step": self.state.step, "best": self.best, "stale": self.stale, "measured": self.measured}
            (folder / RUN).write_text(json.dumps(run, indent=2))
            checkpoints.complete(folder, self.best)
            if self.settings.state:
                save_state(self.state, self.adapter, self.run, self.settings.state)
        except (OSError, WorkFailed) as error:
            reason = error.message if isinstance(error, WorkFailed) else error.strerror or error
            shutil.rmtree(folder, ignore_errors=True)
            raise WorkFailed(
                f"{checkpoints.folder}: a checkpoint could not be written: {reason}; those before it are kept, for --resume"
            ) from error
