"""What a shell completes when somebody presses Tab after ``unilora``: typer's completion, for commands that are imported one at a time.

Only the command that is already typed is imported, for its options; of the others the names are enough.
"""

import importlib
import os
from typing import Any, cast

import typer
from typer.core import TyperGroup
from typer.main import get_command

from .console import COMMANDS, GROUPS


def complete() -> int:
    """Answers the shell, or installs or shows the script that lets it ask."""
    app = typer.Typer(help="Uni-LoRA.")
    for name, command in COMMANDS.items():
        app.command(name, help=command.does)(lambda: None)
    group = cast(TyperGroup, get_command(app))
    words = _typed_words()
    if len(words) > 1 and (command_with_options := _imported(words[1])):
        group.commands[words[1]] = command_with_options
    return group.main(prog_name="unilora", standalone_mode=False)


def _typed_words() -> list[str]:
    """The words before the one that is being typed."""
    if "COMP_WORDS" in os.environ:  # bash
        return os.environ["COMP_WORDS"].split()[: int(os.environ.get("COMP_CWORD", "1"))]
    words = os.environ.get("_TYPER_COMPLETE_ARGS", "")
    return words.split() if words.endswith(" ") else words.split()[:-1]


def _imported(name: str) -> Any:
    """The command with its options; None where typer knows none of it, or its program's packages are not installed."""
    if name not in COMMANDS:
        return None
    try:
        program = importlib.import_module(f"{COMMANDS[name].module}.__main__")
    except ModuleNotFoundError:
        return None
    if not hasattr(program, "app"):
        return None
    found = cast(TyperGroup, get_command(program.app))
    return found if name in GROUPS else found.commands[name]
