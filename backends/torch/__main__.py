"""Runs ``python -m backends.torch``, such as ``python -m backends.torch train --base ./my-model …``."""

import os

from typer.main import get_command

from unilora_spec.command import program_name

from .commands import training, using, hub  # isort: skip  # noqa: F401  each adds its commands, in this order
from ..runs.processes import run_as_one
from .commands.app import app

if __name__ == "__main__":
    # torch reads it when it starts, and takes large arrays in large pages then: docs/trainers.md says what that saves.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    run_as_one(lambda: get_command(app).main(prog_name=program_name("backends.torch"), standalone_mode=False))
