"""How far a training run is: a bar on a terminal, lines elsewhere, both on standard error."""

import contextlib
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from transformers import TrainerCallback

from unilora_spec.command import printable

from .waiting import waiting


def _bars():
    """Bars on standard error, or None where it is no terminal."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(file=sys.stderr)
    return Bars(*columns, console=console, transient=True) if console.is_terminal else None


def counted(items, what: str):
    """``items`` one by one, while how many of them are done is shown."""
    bars, done = _bars(), 0
    if bars:
        with bars:
            yield from bars.track(items, description=what)
        return
    with waiting(lambda: f"{what}: {done} of {len(items)}"):
        for done, item in enumerate(items):
            yield item


class Progress(TrainerCallback):
    """Shows the step, the loss and each evaluation of a ``Trainer``'s run; close it with ``with``."""

    def __init__(self, main_metric: str):
        self.metric, self.loss = f"eval_{main_metric}", None
        self.bars, self.open = _bars(), contextlib.ExitStack()
        self.bar, self.unit, self.doing, self.evaluated = None, "", "preparing the adapter", 0

    def __enter__(self):
        self.open.enter_context(self.bars or waiting(lambda: self.doing))
        return self

    def __exit__(self, *exception):
        self.open.close()

    def say(self, line: str) -> None:
        """One line above the bar."""
        line = printable(line)
        if self.bars:
            self.bars.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def at(self, unit: str, done: int, total: int, more: str = "") -> None:
        """``done`` of ``total`` steps, batches or whatever ``unit`` is are done."""
        self.doing = f"{unit} {done} of {total}{more}"
        if not self.bars:
            return
        if unit != self.unit:
            if self.bar is not None:
                self.bars.remove_task(self.bar)
            self.bar, self.unit = self.bars.add_task(unit, total=total, completed=done), unit
        self.bars.update(self.bar, completed=done, description=f"{unit}{more}")

    def on_weight(self, done: int, total: int) -> None:
        """How many of the base's weights the kind has taken to begin with."""
        self.at("weight", done, total)

    def on_train_begin(self, args, state, control, **kwargs):
        self._at_step(state)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.loss = logs.get("loss", self.loss)

    def on_step_end(self, args, state, control, **kwargs):
        self._at_step(state)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        self.evaluated += 1
        self.at("held-out batch", self.evaluated, len(eval_dataloader))

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.evaluated = 0
        if state.global_step:
            self._at_step(state)
            value = f"{self.metric.removeprefix('eval_').replace('_', ' ')} {metrics[self.metric]:.4f}"
            self.say(f"step {state.global_step} of {state.max_steps}: held-out {value}")

    def _at_step(self, state):
        self.at("step", state.global_step, state.max_steps, "" if self.loss is None else f", loss {self.loss:.4f}")
