"""The commands of ``python -m backends.onnx``."""

import json
import shlex
import sys
from functools import partial
from pathlib import Path

from unilora_spec import WorkFailed
from unilora_spec.command import printable

from ..runs import commands
from ..runs.commands import CONFIG
from ..runs.ending import Stopped
from ..runs.waiting import waiting
from .settings import EvaluateSettings, TrainSettings

app = commands.program("Train and use Uni-LoRA adapters with ONNX Runtime.")
command = partial(commands.command, app)


@command(
    TrainSettings,
    "Example: python -m backends.onnx train --graph step.onnx --data reviews.csv --output vec.safetensors",
    CONFIG,
)
def train(config: Path | None, as_json: bool, **options):
    """Train one vector by a graph of a step, and write it to a file.

    The graph is made by python -m export onnx --mode step, and the training begins with the adapter that it was made
    of. Every option but --json can stand in the YAML file of --config as well; the command line goes before it.
    """
    settings = TrainSettings.from_options(options, config)
    with waiting(lambda: "loading what reads rows"):  # the import takes seconds, and a wrong call is refused before
        from .training import train

    try:
        report = train(settings, progress=True)
    except Stopped as stopped:
        call = [argument for argument in sys.argv[1:] if argument not in ("--resume", "--overwrite")]
        again = f"python -m backends.onnx {shlex.join([*call, '--resume'])}"
        raise WorkFailed(f"{stopped.message}; to go on: {again}") from stopped
    except KeyboardInterrupt:
        raise WorkFailed("stopped at once; no adapter was written") from None
    print(json.dumps(report, indent=2) if as_json else _shown(report))


@command(
    EvaluateSettings,
    "Example: python -m backends.onnx evaluate --graph step.onnx --adapter vec.safetensors --data test.csv --mistakes mistakes.csv",
    CONFIG,
)
def evaluate(config: Path | None, as_json: bool, **options):
    """Measure an adapter on rows whose answers are known: its task's metrics, and its mistakes."""
    settings = EvaluateSettings.from_options(options, config)
    with waiting(lambda: "loading what reads rows"):
        from .evaluation import evaluate

    report = evaluate(settings, progress=True)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return
    lines = [f"{report['adapter']}: {report['rows']['used']:,} rows of {report['data']}, task {report['task']}"]
    lines += [f"{name.replace('_', ' ')} {value:.4f}" for name, value in report["metrics"].items()]
    if "wrong" in report["mistakes"]:
        lines.append(f"wrong: {report['mistakes']['wrong']:,} of {report['mistakes']['of']:,}")
    if "file" in report["mistakes"]:
        lines.append(f"all of them: {report['mistakes']['file']}")
    print("\n".join(map(printable, lines)))


def _shown(report) -> str:
    counts = report["parameters"]
    lines = [f"trained    {counts['theta']:,} numbers of the vector, {counts['in_full']:,} in full"]
    for name, value in report["after"].items():
        lines.append(f"held out   {name.replace('_', ' ')} {report['before'][name]:.4f} before, {value:.4f} after")
    lines.append(f"time       {report['seconds']:.0f} s, {report['steps']} steps of {report['rows']['train']:,} rows")
    lines.append(f"file       {report['output']}, {report['bytes']:,} bytes")
    return "\n".join(map(printable, lines))
