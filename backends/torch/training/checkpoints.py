"""The checkpoints and the interruption of a run of transformers' Trainer.

A Trainer deletes old checkpoints by their age; here ``Checkpoints`` deletes them, once newer ones are whole.
"""

from pathlib import Path

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerState

from unilora_spec.base_model import LARGE_JSON
from unilora_spec.documents import check_json

from ...runs import checkpoints, ending

STATE = "trainer_state.json"


class Checkpoints(checkpoints.Checkpoints):
    """The folder of the checkpoints of a Trainer's run."""

    def step_in(self, checkpoint):
        return _state(checkpoint).global_step

    def patience_is_over(self) -> bool:
        """Whether the newest checkpoint is that of an early stop, so that only the adapter's file is missing."""
        last = self.last()
        stopping = _state(last).stateful_callbacks.get("EarlyStoppingCallback", {}) if last else {}
        return stopping.get("attributes", {}).get("early_stopping_patience_counter", 0) >= (self.settings.patience or 1)


def _state(checkpoint: Path) -> TrainerState | None:
    try:
        check_json(checkpoint / STATE, *LARGE_JSON)
        return TrainerState.load_from_json(str(checkpoint / STATE))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


class Interruption(ending.Interruption, TrainerCallback):
    """``runs.ending.Interruption`` for a Trainer's run. All of its processes stop after the same step, whichever had
    the signal first."""

    stopping = False  # whether any process was asked to stop

    def __enter__(self):
        # On the CPUs: a GPU that waited here at every step would run out of work.
        self._hosts = distributed.new_group(backend="gloo") if distributed.is_initialized() else None
        return super().__enter__()

    def on_step_end(self, args, state, control, **kwargs):
        asked = torch.tensor(self.asked)
        if self._hosts:
            distributed.all_reduce(asked, distributed.ReduceOp.MAX, self._hosts)
        self.stopping = bool(asked)
        control.should_save |= self.stopping

    def on_save(self, args, state, control, **kwargs):
        if self.stopping:
            raise self.stopped(state.global_step, state.max_steps)
