"""The program that the commands are of, and what several of them take."""

import os
from typing import Annotated

import typer

from unilora_spec import UniLoraError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
AsJson = Annotated[bool, typer.Option("--json", help="The report for machines.")]


@app.callback()
def export():
    """Turn a Uni-LoRA adapter into what others run."""


def keep(adapters, *files) -> None:
    """Refuses an output that would take the place of an adapter that is read."""
    read = [os.path.realpath(file) for file in adapters]
    for file in files:
        if os.path.realpath(file) in read:
            raise UniLoraError(f"{file} is the adapter itself; give another output")
