"""How far a training run is: a bar on a terminal, a line every ten seconds elsewhere, both on standard error."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from transformers import TrainerCallback

from unilora_spec.command import printable

EVERY = 10.0


def _bars():
    """Bars on standard error, or None where it is no terminal."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(file=sys.stderr)
    return Bars(*columns, console=console, transient=True) if console.is_terminal else None


def show(line: str) -> None:
    """One line on standard error."""
    print(printable(line), file=sys.stderr, flush=True)


def counted(items, what: str):
    """``items`` one by one, while how many of them are done is shown."""
    bars, said = _bars(), time.monotonic()
    if bars:
        with bars:
            yield from bars.track(items, description=what)
        return
    for number, item in enumerate(items):
        if time.monotonic() - said >= EVERY:
            said = time.monotonic()
            print(f"{what}: {number} of {len(items)}", file=sys.stderr, flush=True)
        yield item


class Progress(TrainerCallback):
    """Shows the step, the loss and each evaluation of a ``Trainer``'s run; close it with ``with``."""

    def __init__(self, main_metric: str):
        self.metric, self.loss, self.said = f"eval_{main_metric}", None, time.monotonic()
        self.bars = _bars()
        self.preparation = self.training = self.evaluation = None

    def __enter__(self):
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *exception):
        if self.bars:
            self.bars.stop()

    def say(self, line: str) -> None:
        """One line above the bar."""
        line = printable(line)
        if self.bars:
            self.bars.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def on_weight(self, done: int, total: int) -> None:
        """How many of the base's weights the kind has taken to begin with."""
        if self.bars:
            if self.preparation is None:
                self.preparation = self.bars.add_task("preparing", total=total)
            self.bars.update(self.preparation, completed=done, visible=done < total)
        elif time.monotonic() - self.said >= EVERY:
            self.said = time.monotonic()
            self.say(f"prepared {done} of {total} weights")

    def on_train_begin(self, args, state, control, **kwargs):
        if self.bars:
            self.training = self.bars.add_task("training", total=state.max_steps, completed=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.loss = logs.get("loss", self.loss)

    def on_step_end(self, args, state, control, **kwargs):
        loss = "" if self.loss is None else f", loss {self.loss:.4f}"
        if self.bars:
            self.bars.update(self.training, completed=state.global_step, description=f"training{loss}")
        elif time.monotonic() - self.said >= EVERY:
            self.said = time.monotonic()
            self.say(f"step {state.global_step} of {state.max_steps}{loss}")

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if self.bars:
            if self.evaluation is None:
                self.evaluation = self.bars.add_task("evaluating", total=len(eval_dataloader))
            self.bars.advance(self.evaluation)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if self.evaluation is not None:
            self.bars.remove_task(self.evaluation)
            self.evaluation = None
        if state.global_step:
            value = f"{self.metric.removeprefix('eval_').replace('_', ' ')} {metrics[self.metric]:.4f}"
            self.say(f"step {state.global_step} of {state.max_steps}: held-out {value}")
