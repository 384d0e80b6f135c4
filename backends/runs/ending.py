"""Ends a run early: at its user's wish, with a checkpoint to go on from, or where the loss is no number."""

import math
import signal
import threading

from unilora_spec import WorkFailed


class Stopped(WorkFailed):
    """A run that its user stopped, and that left a checkpoint to go on from."""


class Diverged(WorkFailed):
    """The loss of a run is no number any more."""


def check_finite(loss: float, step: int) -> None:
    """Raises ``Diverged`` where a loss is no number: further steps could not mend it."""
    if not math.isfinite(loss):
        raise Diverged(f"the loss is {loss} at step {step}; give --overwrite and a lower --lr or --head-lr")


class Interruption:
    """Within a ``with`` block, Ctrl-C and SIGTERM set ``asked``: the run then writes a checkpoint after its step and
    raises ``Stopped``.

    A second signal ends the run at once, as does the first where ``checkpoints`` is None.
    """

    def __init__(self, checkpoints, say):
        self.checkpoints, self.say, self._before = checkpoints, say, {}
        self.asked = False

    def __enter__(self):
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

    def stopped(self, step: int, steps: int) -> Stopped:
        """The exception to raise once the checkpoint of ``step`` is written."""
        return Stopped(f"stopped at step {step} of {steps}; its checkpoint is in {self.checkpoints.folder}")
