"""The commands ``train``, ``start``, ``plan`` and ``adapter``, which lead to an adapter's file."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from unilora_spec import WorkFailed, save_adapter
from unilora_spec.command import printable
from unilora_spec.places import check_output

from ...runs.commands import CONFIG
from ...runs.processes import is_first, launcher
from ...runs.waiting import waiting
from ...settings import BEFORE, PlanSettings, StartSettings, TrainSettings
from .app import app, command


@command(
    TrainSettings,
    "Example: python -m backends.torch train --base ./my-model --data reviews.csv --text text --label label "
    "--output vec.safetensors",
    CONFIG,
)
def train(config: Path | None, as_json: bool, **options):
    """Train one vector on a base model and write it to a file.

    Every option but --json can stand in the YAML file of --config as well; the command line goes before it.
    """
    settings = TrainSettings.from_options(options, config)
    with waiting(lambda: "loading transformers"):  # the import takes seconds, and a wrong call is refused before
        from accelerate import PartialState

        from ..training.train import Stopped, train

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
    PartialState().destroy_process_group()  # else NCCL warns of it
    if is_first():
        print(json.dumps(report, indent=2) if as_json else _shown(report))


@command(
    StartSettings,
    "Example: python -m backends.torch start --base ./my-model --data reviews.csv --output start.safetensors",
    CONFIG,
)
def start(config: Path | None, as_json: bool, **options):
    """Write an adapter as train would begin with it: nothing is trained.

    A training elsewhere begins with this adapter, such as one with a graph of python -m export onnx --mode step. The
    classes are those of the data.
    """
    settings = StartSettings.from_options(options, config)
    with waiting(lambda: "loading transformers"):
        from ..training.start import start

    report = start(settings, progress=True)
    if as_json:
        print(json.dumps(report, indent=2))
        return
    said = f"θ of {report['d']:,} numbers, in full {', '.join(report['saved']) or 'nothing'}"
    print(printable(f"{report['output']}: {report['bytes']:,} bytes, {said}"))


@app.command(epilog="Example: python -m backends.torch adapter --checkpoint run/checkpoint-500 -o vec.safetensors")
def adapter(
    checkpoint: Annotated[
        Path, typer.Option(help="A trainer's checkpoint: its folder, or the file with the model's state.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The adapter's file, such as vec.safetensors.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
):
    """Make an adapter's file of a trainer's checkpoint, without the model and without the call that attached."""
    check_output(output)
    from ..adapter.files.checkpoint import adapter_in  # PyTorch takes a second to import

    found = adapter_in(checkpoint)
    size = save_adapter(found, output)
    report = {"output": str(output), "bytes": size, "d": found.projection.d, "saved": sorted(found.saved)}
    print(
        json.dumps(report, indent=2)
        if as_json
        else printable(f"{output}: {size:,} bytes, θ of {found.projection.d:,} numbers")
    )


@command(
    PlanSettings,
    "Example: python -m backends.torch plan --base ./my-model/config.json --targets q_proj,v_proj --rank 16 --dim 1000000",
)
def plan(as_json: bool, **options):
    """Show an adapter's layer map and what it would take, from the base's config.json alone: --base is its folder, or
    the file.

    Without --dim, the figures of several d are shown. --ranks gelora and hetero need the base's weights and --data too,
    and show which rank each target gets.
    """
    settings = PlanSettings.from_options(options)

    if settings.ranks not in BEFORE:
        from ..building import build_only

        build_only()
    from ..planning import planned, show

    report = planned(settings, progress=True)
    print(json.dumps(report, indent=2)) if as_json else show(report)


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
        if report.get("card"):
            lines.append(f"card       {report['card']}")
        lines.append(f"next       python -m export onnx --adapter {shlex.quote(report['output'])}")
    return "\n".join(map(printable, lines))
