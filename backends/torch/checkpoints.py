"""The checkpoints of one training run, in a folder beside its output, and what stops and resumes it."""

import contextlib
import dataclasses
import json
import shutil
import signal
import threading
from pathlib import Path

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerState

from unilora_spec import UniLoraError, WorkFailed
from unilora_spec.base_model import LARGE_JSON
from unilora_spec.documents import look_at_json, read_json

from .settings import TrainSettings, flag

STATE = "trainer_state.json"  # what a Trainer writes last: a checkpoint that has it whole is whole


class Stopped(WorkFailed):
    """A run that its user stopped, and that left a checkpoint to go on from."""


class Checkpoints:
    """The folder of a run's checkpoints: ``vec.checkpoints`` for vec.safetensors; the run's settings stand in it.

    Raises ``UniLoraError`` where an interrupted run left some and the settings neither resume nor overwrite it, or
    resume it with other settings.
    """

    def __init__(self, settings: TrainSettings):
        self.settings = settings
        self.folder = settings.output.with_suffix(".checkpoints")
        self._described = self.folder / "settings.json"
        if settings.overwrite or not self.last():
            return
        if not settings.resume:
            raise UniLoraError(
                f"{self.folder} holds checkpoints of an interrupted run; give --resume to go on or --overwrite to start anew"
            )
        self._check_settings()

    def last(self) -> Path | None:
        """The newest whole checkpoint."""
        found = [path for path in self.folder.glob("checkpoint-*") if _state(path)]
        return max(found, key=lambda path: int(path.name.split("-")[1]), default=None)

    def start(self) -> None:
        """Makes the folder ready for the first checkpoint. Raises ``WorkFailed`` where the disk refuses."""
        if self.settings.overwrite:
            self.clear()
        try:
            self.folder.mkdir(exist_ok=True)
            self._described.write_text(json.dumps(_plain(self.settings), indent=2))
        except OSError as error:
            raise WorkFailed(f"{self.folder} could not be written: {error.strerror}") from error

    def clear(self) -> None:
        """Removes what this class and a Trainer wrote, and the folder where nothing else is in it."""
        for path in self.folder.glob("checkpoint-*"):
            shutil.rmtree(path)
        self._described.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def clear_unless_any(self) -> None:
        """``clear`` where there is nothing to resume."""
        if not self.last():
            self.clear()

    def patience_is_over(self) -> bool:
        """Whether the newest checkpoint is that of an early stop, so that only the file was missing."""
        last = self.last()
        stopping = _state(last).stateful_callbacks.get("EarlyStoppingCallback", {}) if last else {}
        return stopping.get("attributes", {}).get("early_stopping_patience_counter", 0) >= (self.settings.patience or 1)

    def _check_settings(self):
        before = read_json(self._described) if self._described.exists() else {}
        for name, value in _plain(self.settings).items():
            if before.get(name, value) != value:
                raise UniLoraError(
                    f"{flag(name)} is {value}, but the interrupted run had {before[name]}; "
                    "give the same call with --resume, or --overwrite to start anew"
                )


def _plain(settings):
    fields = [field.name for field in dataclasses.fields(settings) if field.compare and field.name != "output"]
    return json.loads(json.dumps({name: getattr(settings, name) for name in fields}))


def _state(checkpoint) -> TrainerState | None:
    try:
        look_at_json(checkpoint / STATE, *LARGE_JSON)
        return TrainerState.load_from_json(str(checkpoint / STATE))
    except (OSError, ValueError, TypeError):
        return None


class Interruption(TrainerCallback):
    """Between ``with``, turns Ctrl-C and SIGTERM into a checkpoint after the current step and ``Stopped``.

    A second signal ends the run at once, as does the first where ``checkpoints`` is None. Of many processes all stop
    after the same step, whichever had the signal first.
    """

    def __init__(self, checkpoints: Checkpoints | None, say):
        self.checkpoints, self.say, self._before = checkpoints, say, {}
        self.asked = self.stopping = False  # here; by all

    def __enter__(self):
        # By the hosts: a GPU that waited here at every step would run dry.
        self._hosts = distributed.new_group(backend="gloo") if distributed.is_initialized() else None
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number, frame):
        if self.asked or not self.checkpoints:
            raise KeyboardInterrupt
        self.asked = True
        self.say("stopping: a checkpoint is written after this step (once more to stop without)")

    def on_step_end(self, args, state, control, **kwargs):
        asked = torch.tensor(self.asked)
        if self._hosts:
            distributed.all_reduce(asked, distributed.ReduceOp.MAX, self._hosts)
        self.stopping = bool(asked)
        control.should_save |= self.stopping

    def on_save(self, args, state, control, **kwargs):
        if self.stopping:
            raise Stopped(
                f"stopped at step {state.global_step} of {state.max_steps}; its checkpoint is in {self.checkpoints.folder}"
            )
