"""Shows how far a training run is: a bar on a terminal, lines elsewhere, both on standard error."""

import contextlib
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from unilora_spec.command import printable

from .waiting import waiting


def _bars():
    """Bars on standard error, or None where it is no terminal."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(file=sys.stderr)
    return Bars(*columns, console=console, transient=True) if console.is_terminal else None


def counted(items, what: str):
    """Yields ``items`` one by one, and shows how many are done."""
    bars, done = _bars(), 0
    if bars:
        with bars:
            yield from bars.track(items, description=what)
        return
    with waiting(lambda: f"{what}: {done} of {len(items)}"):
        for done, item in enumerate(items):
            yield item


class Progress:
    """Shows the step, the loss and each evaluation of a run; close it with ``with``."""

    def __init__(self, main_metric: str):
        self.metric, self.loss = main_metric, None
        self.bars, self.open = _bars(), contextlib.ExitStack()
        self.bar, self.unit, self.doing = None, "", "preparing the adapter"

    def __enter__(self):
        self.open.enter_context(self.bars or waiting(lambda: self.doing))
        return self

    def __exit__(self, *exception):
        self.open.close()

    def say(self, line: str) -> None:
        """Shows one line above the bar."""
        line = printable(line)
        if self.bars:
            self.bars.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def at(self, unit: str, done: int, total: int, more: str = "") -> None:
        """Shows that ``done`` of ``total`` are done; ``unit`` says of what, such as "step"."""
        self.doing = f"{unit} {done} of {total}{more}"
        if not self.bars:
            return
        if unit != self.unit:
            if self.bar is not None:
                self.bars.remove_task(self.bar)
            self.bar, self.unit = self.bars.add_task(unit, total=total, completed=done), unit
        self.bars.update(self.bar, completed=done, description=f"{unit}{more}")

    def step(self, done: int, total: int) -> None:
        """Shows that ``done`` of ``total`` steps are done, and the last loss."""
        self.at("step", done, total, "" if self.loss is None else f", loss {self.loss:.4f}")

    def evaluation(self, metrics: Mapping[str, float], done: int, total: int) -> None:
        """Shows the metrics of an evaluation after ``done`` steps; before the first step nothing is shown."""
        if done:
            self.step(done, total)
            self.say(f"step {done} of {total}: held-out {self.metric.replace('_', ' ')} {metrics[self.metric]:.4f}")
