"""One run in several processes, as torchrun and accelerate launch start them: the first process writes and reports for
all."""

import os
import time

from unilora_spec.command import run

PATIENCE = 10.0  # seconds; a launcher looks ten times a second whether a process has ended


def is_first() -> bool:
    """Whether this is the process of rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def launcher() -> str:
    """The start of the command line of this run, before its ``-m``."""
    here = os.environ.get("LOCAL_WORLD_SIZE")
    return f"torchrun --nproc_per_node {here}" if here else "python"


def run_as_one(command) -> None:
    """Runs ``command`` as ``unilora_spec.command.run`` does, and shows an error once: where all processes have it, the
    first process shows it, and the launcher then ends the others. Another process shows an error of its own unless it
    is ended within ``PATIENCE``."""

    def patient():
        try:
            try:
                return command()
            except Exception:  # ``run`` shows the error; here it only waits for its turn
                time.sleep(0 if is_first() else PATIENCE)
                raise
        except KeyboardInterrupt:  # the launcher's too, which ends the others by a signal
            if is_first():
                raise
            raise SystemExit(1) from None

    run(patient)
