"""Makes a program of commands, and turns the options of settings into those of a command."""

import dataclasses
import inspect
import typing
from pathlib import Path

import typer

from ..settings import flag


def program(what: str) -> typer.Typer:
    """A program without a command yet; ``what`` is the text of its --help."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=what)(lambda: None)
    return app


def command(app: typer.Typer, settings, epilog: str, *more):
    """Makes a function a command of ``app`` whose options are those of ``settings``, then ``more`` (name, type, option), then --json.

    The function takes them by name, those of ``settings`` as texts, which ``settings.from_options`` converts: it converts those of a
    YAML file too.
    """

    def made(function):
        parameters = *_parameters(settings), *more, AS_JSON
        function.__signature__ = inspect.Signature(
            [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind)
                for name, kind, option in parameters
            ]
        )
        function.__annotations__ = {name: kind for name, kind, _ in parameters}
        return app.command(epilog=epilog)(function)

    return made


CONFIG = "config", Path | None, typer.Option(None, help="YAML file of options.", rich_help_panel="Output")
AS_JSON = (
    "as_json",
    bool,
    typer.Option(False, "--json", help="One JSON object on standard output.", rich_help_panel="Output"),
)


def _parameters(settings):
    shown = [field for field in dataclasses.fields(settings) if field.metadata["panel"]]  # the others are hidden
    for field in sorted(shown, key=lambda field: field.metadata["panel"] == "Output"):  # what is written comes last
        is_flag = field.type is bool
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        by_default = "" if is_flag or default in (None, "") else f" [dim]\\[{default}][/]"
        number = {int: "N", float: "X"}.get((typing.get_args(field.type) or [field.type])[0], "TEXT")
        option = typer.Option(
            None,
            f"{flag(field.name)}/--no-{flag(field.name)[2:]}" if is_flag else flag(field.name),
            help=field.metadata["help"] + by_default,
            rich_help_panel=field.metadata["panel"],
            metavar=None if is_flag else number,
            show_default=False,
        )
        yield field.name, bool | None if is_flag else str | None, option
