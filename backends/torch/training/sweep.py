"""Tries a few learning rates, each on a share of the rows, before the run itself."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from unilora_spec import UniLoraError

from ...runs.ending import Diverged, Stopped
from ...settings import TrainSettings
from ..tasks import rows_and_task

SHARE = 0.1  # of the training rows that a trial takes
LEAST_STEPS = 20  # of a trial


def swept(settings: TrainSettings, run: Callable, say: Callable) -> tuple[TrainSettings, list[dict]]:
    """(``settings`` with the best rate of ``settings.sweep``, a dict for each rate). The best rate is that with which
    training on a tenth of the rows gives the best metric on held-out rows.

    ``run`` trains with settings and returns a report, and ``say`` takes a line for each rate. The dict of a rate has
    ``lr`` and the metrics, which are missing where the loss became no number. Raises ``UniLoraError`` where that is so
    with all rates.
    """
    data, task = rows_and_task(settings)
    rows = len(data.train)
    limit = min(rows, max(math.ceil(SHARE * rows), LEAST_STEPS * settings.batch_size))
    steps = settings.max_steps and min(settings.max_steps, max(math.ceil(SHARE * settings.max_steps), LEAST_STEPS))
    tried = []
    for rate in settings.sweep:
        try:
            with tempfile.TemporaryDirectory() as own:  # a trial's files are not kept
                (folder,) = broadcast_object_list([own])  # the folder of the first process, which all read
                output = Path(folder, "trial.safetensors")
                trial = replace(
                    settings,
                    max_steps=steps,
                    lr=rate,
                    sweep=None,
                    limit=limit,
                    patience=None,
                    resume=False,
                    overwrite=False,
                    output=output,
                )
                report = run(trial)
                PartialState().wait_for_everyone()
        except Stopped:  # nobody can go on from a trial's checkpoint
            raise KeyboardInterrupt from None
        except Diverged:
            tried.append({"lr": rate})
            say(f"sweep: --lr {rate:g} diverges")
            continue
        tried.append({"lr": rate} | report["after"])
        say(
            f"sweep: --lr {rate:g} gives {task.main.replace('_', ' ')} {report['after'][task.main]:.4f} after {report['steps']} steps"
        )
    sound = [each for each in tried if task.main in each]
    if not sound:
        raise UniLoraError("--sweep: the loss is no number with any of these rates; give lower ones")
    best = (max if task.larger_is_better else min)(sound, key=lambda each: each[task.main])
    return replace(settings, lr=best["lr"], sweep=None), tried
