"""The work of a comparison: which runs and measurements are missing, and the processes that do them."""

import itertools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unilora_spec import WorkFailed

from ..measure import Repeats, machine
from .costs import ROUNDS, costs
from .runs import QUICK, Kept, Run, Scale, train_and_judge


class Work:
    """Does the runs and measurements that are not kept yet, and shows its progress on standard error."""

    def __init__(self, kept: Kept, scale: Scale, workers: int):
        self.kept, self.scale, self.workers = kept, scale, workers
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.bars = Progress(*columns, console=Console(file=sys.stderr), transient=True)

    def __enter__(self):
        self.bars.start()
        return self

    def __exit__(self, kind, *exception):
        self.bars.stop()
        if kind is KeyboardInterrupt:
            folder = self.kept.folder
            raise WorkFailed(f"stopped; what is finished is kept in {folder}, and the same call goes on") from None

    def say(self, line: str) -> None:
        self.bars.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def results(self, runs: list[Run]) -> list[dict]:
        """The results of these runs, in their order; those that are not kept are made, as many at once as there are workers."""
        found = [self.kept.read(run.what) for run in runs]
        missing = [number for number, result in enumerate(found) if result is None]
        self.say(f"{len(runs)} runs, {len(runs) - len(missing)} of them kept from before")
        bar, start = self.bars.add_task("runs", total=len(missing)), time.monotonic()
        for done, (place, result) in enumerate(self._trained([runs[number] for number in missing]), 1):
            found[missing[place]] = result
            self.bars.advance(bar)
            left = (time.monotonic() - start) / done * (len(missing) - done) / 60
            accuracy = "the loss is no number" if result["accuracy"] is None else f"accuracy {result['accuracy']:.3f}"
            self.say(f"{done} of {len(missing)}: {runs[missing[place]]}: {accuracy}; {left:.0f} minutes left")
        self.bars.remove_task(bar)
        return found

    def _trained(self, runs) -> Iterator[tuple[int, dict]]:
        """The number and the result of each run, as it ends."""
        if self.workers == 1:  # in this process, as another one takes seconds to start
            torch.set_num_threads(1)
            yield from ((number, train_and_keep(self.kept, run)) for number, run in enumerate(runs))
            return
        waiting, numbers = iter(enumerate(runs)), {}
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.workers, context, _alone) as pool:
            while True:
                # No more than run at once: an interruption, which reaches them too, then finds none waiting in a queue.
                for number, run in itertools.islice(waiting, self.workers - len(numbers)):
                    numbers[pool.submit(train_and_keep, self.kept, run)] = number
                if not numbers:
                    return
                for future in wait(numbers, return_when=FIRST_COMPLETED).done:
                    yield numbers.pop(future), future.result()

    def costs(self, arguments: dict[str, dict]) -> dict:
        """Time and memory of a step of these methods, and the ``machine`` that took them with its ``load``: kept, or measured now."""
        torch.set_num_threads(len(os.sched_getaffinity(0)))  # however many threads the runs had
        here = machine(torch.get_num_threads())
        rounds = 2 if self.scale == QUICK else ROUNDS
        what = {"arguments": arguments, "rounds": rounds, "machine": here}
        found = self.kept.read(what)
        if found is None:
            load = os.getloadavg()[0]
            title = f"a step of {len(arguments)} methods in turns"
            bar = self.bars.add_task(title, total=rounds)
            found = costs(arguments, self.scale, Repeats(rounds, tick=lambda _: self.bars.advance(bar)))
            found = self.kept.write(what, {"machine": here, "load": load, "costs": found})
        return found


def _alone() -> None:
    """Prepares a process before its first run: it has one thread, and Ctrl-C ends it silently."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, lambda *_: sys.exit(1))


def train_and_keep(kept: Kept, run: Run) -> dict:
    """Trains and judges a run, and keeps the result."""
    return kept.write(run.what, train_and_judge(run))
