"""``python -m benchmarks``: every row of docs/performance.md measured in one run, and the page written; ``compare``."""

import json
import os
import platform
import sys
import time
import warnings
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from typer.main import get_command

from unilora_spec import UniLoraError, replacing
from unilora_spec.command import run
from unilora_spec.errors import WorkFailed

from . import (
    attaching,
    files,
    generating,
    jax,
    language_models,
    measure,
    memory,
    onnx_step,
    projection,
    quiet,
    report,
    training,
)
from .compare.command import compare

DOCS = Path(__file__).parents[1] / "docs"
OTHERS = Path("build/bench")
GROUPS = {
    (1,): attaching.bytes_held,
    (2,): projection.set_up,
    (3,): attaching.attaching,
    (4,): projection.expand,
    (5,): projection.expand_and_adjoint,
    (6, 7, 8): training.training,
    (9,): memory.memory,
    (10,): files.checkpoints,
    (11,): files.merge,
    (12,): projection.growth,
    (14,): attaching.switching,
    (15,): generating.generating,
    (16,): language_models.language_models,
    (17,): jax.set_up,
    (18,): jax.expand_and_adjoint,
    (19,): jax.training,
    (20,): onnx_step.training,
}
ROWS = [number for numbers in GROUPS for number in numbers]
QUICK = 2
MORE = 40.0  # seconds in which the rounds of one comparison may go on while its ratios are uncertain
WAIT = 30.0  # seconds that a row waits for a quiet machine

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    only: Annotated[list[int] | None, typer.Option(metavar="ROW", help="This row alone; may be given again.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two rounds of each: to see that it runs, not to know.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch; by default one for each core.")] = None,
    numbers: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="The numbers, once more.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Of the page; by default docs for all rows, build/bench for less."),
    ] = None,
):
    """Measure this project beside PEFT and the machine's own limits, and write docs/performance.md from the numbers.

    All rows take some seventeen minutes on two quiet cores. Each waits for others to be quiet, and what is uncertain by then takes more rounds.
    """
    if context.invoked_subcommand:
        if any(context.params.values()):
            raise UniLoraError(f"{context.invoked_subcommand} takes its options after its name")
        return None
    unknown = sorted(set(only or ()) - set(ROWS))
    if unknown:
        raise UniLoraError(f"--only: there is no row {unknown[0]}; give one of {', '.join(map(str, ROWS))}")
    output = output or (OTHERS if only or quick else DOCS)
    if quick and output.resolve() == DOCS:
        raise UniLoraError("--output: a quick run's numbers mean nothing; give a folder other than docs")
    threads = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    measured = {
        "command": " ".join(
            ["python -m benchmarks", *(f"--only {number}" for number in only or ()), *["--quick"] * quick]
        ),
        "quick": quick,
        "draws": measure.DRAWS,
        "machine": _machine(threads),
    }
    start = time.monotonic()
    rows, failed = _measured(set(only or ROWS), quick)
    measured |= {"seconds": time.monotonic() - start, "rows": rows}
    texts = {output / path: text for path, text in report.render(measured).items()}
    if numbers:
        texts[numbers] = json.dumps(measured, indent=1) + "\n"
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(output / "performance.md")
    if failed:
        raise WorkFailed(f"the page lacks what failed: {'; '.join(failed)}")
    return 0


def _measured(numbers, brief) -> tuple[list[dict], list[str]]:
    """The rows of these numbers, each with the processors that other programs had, and a sentence for each group of rows that failed.
    Standard error shows the progress."""
    found, failed = [], []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()

    def rounds(title, count):
        least = min(count, QUICK) if brief else count
        bar = bars.add_task(title, total=least)
        return measure.Repeats(least, 0.0 if brief else MORE, lambda number: bars.update(bar, completed=number + 1))

    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bars, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, about what is meant here
        groups = [group for group in GROUPS.items() if numbers & set(group[0])]
        for of_group, rows in bars.track(groups, description="rows"):
            title = f"row {', '.join(map(str, of_group))}"
            met = quiet.wait(quiet.LOOK if brief else WAIT)
            start, others = time.monotonic(), quiet.Others()
            try:
                made = [row for row in rows(partial(rounds, title)) if row["row"] in numbers]
            except Exception as error:  # noqa: BLE001  whatever one row meets, the minutes of the others are not lost
                failed.append(f"{title}: {type(error).__name__}: {error}")
                continue
            seconds, during = time.monotonic() - start, others.processors()
            busy = {"busy": during > quiet.QUIET}
            found += [row | {"others": during, "lines": [line | busy for line in row["lines"]]} for row in made]
            said = f"{title}: {seconds:.0f} s, others had {met:.2f} processors before and {during:.2f} during it"
            bars.console.print(said, highlight=False)
    return found, failed


def _machine(threads) -> dict:
    packages = ("numpy", "torch", "peft", "transformers")
    return measure.machine(threads) | {
        "load": os.getloadavg()[0],
        "versions": {"Python": platform.python_version()} | {name: version(name) for name in packages},
    }


app.command()(compare)

if __name__ == "__main__":
    run(lambda: get_command(app).main(prog_name="python -m benchmarks", standalone_mode=False))
