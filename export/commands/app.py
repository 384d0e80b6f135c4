"""The program ``python -m export``, to which each module of commands adds its own, and what several of them share."""

import os
from typing import Annotated

import typer

from unilora_spec import UniLoraError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@app.callback()
def export():
    """Turn a Uni-LoRA adapter into files that others run."""


def refuse_replacing(adapters, *files) -> None:
    """Raises ``UniLoraError`` for an output that would take the place of an adapter that is read."""
    read = [os.path.realpath(file) for file in adapters]
    for file in files:
        if os.path.realpath(file) in read:
            raise UniLoraError(f"{file} is the adapter itself; give another output")
