"""One run in many processes, as torchrun and accelerate launch start them: the first one writes and speaks for all."""

import os
import time

from unilora_spec.command import run

PATIENCE = 10.0  # seconds; a launcher looks ten times a second whether a process has ended


def is_first() -> bool:
    """Whether this is the process of rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def launcher() -> str:
    """What a call of this run begins with, before its ``-m``."""
    here = os.environ.get("LOCAL_WORLD_SIZE")
    return f"torchrun --nproc_per_node {here}" if here else "python"


def run_as_one(command) -> None:
    """``run``, whose errors are told once: one that all processes have is the first one's to tell, and the launcher then
    ends the others. What went wrong in another process alone is told by it, if nobody has ended it in ``PATIENCE``."""

    def patient():
        try:
            try:
                return command()
            except Exception:  # whatever it is, ``run`` tells it; here it only waits its turn
                time.sleep(0 if is_first() else PATIENCE)
                raise
        except KeyboardInterrupt:  # the launcher's too, which ends the others by a signal
            if is_first():
                raise
            raise SystemExit(1) from None

    run(patient)
