"""``python -m backends.torch train`` and ``plan``: the options of their settings as commands."""

import dataclasses
import inspect
import json
import shlex
import sys
import typing
from pathlib import Path
from typing import Annotated

import typer
from typer.main import get_command

from unilora_spec import WorkFailed, save_adapter
from unilora_spec.command import printable
from unilora_spec.places import check_output

from .settings import BEFORE, PlanSettings, TrainSettings, flag
from .training.processes import is_first, launcher, run_as_one
from .training.waiting import waiting

EXAMPLE = (
    "Example: python -m backends.torch train --base ./my-model --data reviews.csv --text text --label label "
    "--output vec.safetensors"
)
PLAN_EXAMPLE = "Example: python -m backends.torch plan --base ./my-model/config.json --targets q_proj,v_proj --rank 16 --dim 1000000"
app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def backend():
    """Plan and train Uni-LoRA adapters with PyTorch."""


def train(config: Path | None, as_json: bool, **options):
    """Train one vector on a base model and write it to a file.

    Every option but --json can stand in the YAML file of --config as well; the command line goes before it.
    """
    settings = TrainSettings.from_options(options, config)
    with waiting(lambda: "loading transformers"):  # which takes seconds to import; a wrong call is told before
        from accelerate import PartialState

        from .training.train import Stopped, train

    try:
        report = train(settings, progress=True)  # on standard error, also with --json
    except Stopped as stopped:
        if not is_first():
            sys.exit(1)  # all stop at the same step, and the first one says so
        call = [argument for argument in sys.argv[1:] if argument not in ("--resume", "--overwrite")]
        raise WorkFailed(
            f"{stopped.message}; to go on: {launcher()} -m backends.torch {shlex.join([*call, '--resume'])}"
        ) from stopped
    except KeyboardInterrupt:
        if not is_first():
            sys.exit(1)
        raise WorkFailed("stopped at once; no adapter was written") from None
    PartialState().destroy_process_group()  # NCCL complains of one that is left
    if is_first():
        print(json.dumps(report, indent=2) if as_json else _shown(report))


def plan(as_json: bool, **options):
    """Tell what an adapter would be and take, from the base's config.json alone: its folder, or the file.

    Without --dim, the figures of some d are shown. --ranks gelora and hetero need the base's weights and --data too, and show
    which rank each target gets.
    """
    settings = PlanSettings.from_options(options)

    if settings.ranks not in BEFORE:
        from .building import build_only

        build_only()
    from .planning import planned, show

    report = planned(settings, progress=True)
    print(json.dumps(report, indent=2)) if as_json else show(report)


def adapter(
    checkpoint: Annotated[
        Path, typer.Option(help="A trainer's checkpoint: its folder, or the file with the model's state.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The adapter's file, such as vec.safetensors.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
):
    """Make an adapter's file of a trainer's checkpoint, without the model and the call that attached."""
    check_output(output)
    from .adapter.files.checkpoint import adapter_in  # PyTorch takes a second to import

    found = adapter_in(checkpoint)
    size = save_adapter(found, output)
    report = {"output": str(output), "bytes": size, "d": found.projection.d, "saved": sorted(found.saved)}
    print(
        json.dumps(report, indent=2)
        if as_json
        else printable(f"{output}: {size:,} bytes, θ of {found.projection.d:,} numbers")
    )


def _parameters(settings, *more):
    """A command's parameters, for Typer to read. Texts all: the settings convert those of a YAML file too."""
    for field in dataclasses.fields(settings):
        is_flag = field.type is bool
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = "" if is_flag or default in (None, "") else f" [dim]\\[{default}][/]"
        number = {int: "N", float: "X"}.get((typing.get_args(field.type) or [field.type])[0], "TEXT")
        option = typer.Option(
            None,
            f"{flag(field.name)}/--no-{flag(field.name)[2:]}" if is_flag else flag(field.name),
            help=field.metadata["help"] + shown,
            rich_help_panel=field.metadata["panel"],
            metavar=None if is_flag else number,
            show_default=False,
        )
        yield field.name, bool | None if is_flag else str | None, option
    yield from more
    as_json = typer.Option(False, "--json", help="One JSON object on standard output.", rich_help_panel="Output")
    yield "as_json", bool, as_json


def _command(function, epilog, *parameters):
    function.__signature__ = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind)
            for name, kind, option in parameters
        ]
    )
    function.__annotations__ = {name: kind for name, kind, _ in parameters}
    app.command(epilog=epilog)(function)


CONFIG = "config", Path | None, typer.Option(None, help="YAML file of options.", rich_help_panel="Output")
_command(train, EXAMPLE, *_parameters(TrainSettings, CONFIG))
app.command(epilog="Example: python -m backends.torch adapter --checkpoint run/checkpoint-500 -o vec.safetensors")(
    adapter
)
_command(plan, PLAN_EXAMPLE, *_parameters(PlanSettings))


def _shown(report) -> str:
    counts = report["parameters"]
    trained = f"{counts['theta']:,} numbers of the vector, {counts['in_full']:,} in full"
    lines = [f"trained    {trained}: {counts['share']:.4%} of the base's {counts['base']:,} parameters"]
    lines.append(f"P          {report['P']['storage']}, {report['P']['bytes']:,} bytes")
    if "ranks" in report:
        ranks = [target["rank"] for target in report["ranks"]["targets"]]
        adapted = sum(rank > 0 for rank in ranks)
        lines.append(f"ranks      {report['ranks']['planner']}: {sum(ranks)} on {adapted} of {len(ranks)} targets")
    for name, value in report["after"].items():
        lines.append(f"held out   {name.replace('_', ' ')} {report['before'][name]:.4f} before, {value:.4f} after")
    lines.append(f"time       {report['seconds']:.0f} s, {report['steps']} steps of {report['rows']['train']:,} rows")
    if "output" in report:
        lines.append(f"file       {report['output']}, {report['bytes']:,} bytes")
        lines.append(f"next       python -m export onnx --adapter {shlex.quote(report['output'])}")
    return "\n".join(map(printable, lines))


if __name__ == "__main__":
    run_as_one(lambda: get_command(app).main(prog_name="python -m backends.torch", standalone_mode=False))
