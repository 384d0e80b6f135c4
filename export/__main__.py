"""``python -m export onnx --adapter vec.safetensors``."""

import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.main import get_command

from unilora_spec import UniLoraError, load_adapter
from unilora_spec.command import printable, run

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def export():
    """Turn a Uni-LoRA adapter into what others run."""


@app.command("onnx", epilog="Example: python -m export onnx --adapter vec.safetensors --mode merged -o model.onnx")
def onnx_command(
    adapter: Annotated[Path, typer.Option(help="The adapter's file.")],
    base: Annotated[
        str | None, typer.Option(metavar="DIR|ID", help="The base model; by default the one that the adapter names.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="By default beside the adapter, as .onnx.")
    ] = None,
    mode: Annotated[
        str, typer.Option(metavar="merged|reconstruct", help="W + ΔW in the file, or θ and the way from it to ΔW.")
    ] = "merged",
    opset: Annotated[int | None, typer.Option(help="ONNX operator set, 18 to 22; by default 20.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report for machines.")] = False,
):
    """Write the base model with the adapter as one ONNX file.

    The file is checked by onnx and run in ONNX Runtime against PyTorch on real input; one that disagrees is not left
    behind.
    """
    report = _export(adapter, base, output or adapter.with_suffix(".onnx"), mode, opset)
    for warning in report["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(json.dumps(report, indent=2)) if as_json else show(report)


def _export(adapter: Path, base: str | None, output: Path, mode: str, opset: int | None) -> dict:
    if output.resolve() == adapter.resolve():
        raise UniLoraError(f"{output} is the adapter itself; give another output")
    with _status() as show_step, _interruptible(show_step) as step:
        loaded = load_adapter(adapter)
        step("loading PyTorch")
        from .onnx import DEFAULT_OPSET, check_call, export_onnx

        check_call(output, mode, DEFAULT_OPSET if opset is None else opset)
        from .base import load_base
        from .inputs import real_inputs

        step("loading the base model")
        model, tokenizer, warnings = load_base(loaded, base)
        first, *more = real_inputs(model, tokenizer)
        report = export_onnx(model, loaded, first, output, mode, opset, more_inputs=more, progress=step)
    report["input"] = "sentences" if tokenizer else "random"
    report["warnings"] = warnings + report["warnings"]
    return report


def show(report: dict) -> None:
    """The report of an export as a person reads it."""
    c = report["comparison"]
    sizes = ", ".join(" × ".join(map(str, batch)) for batch in c["batches"])
    print(f"{report['file']}: {report['bytes']:,} bytes, {report['mode']}, opset {report['opset']}")
    print(f"  graph       {report['nodes']} nodes, {report['nodes_inlined']} with the functions inlined")
    if report["index"]:
        print(f"  index       {report['index']}")
    for kind in ("inputs", "outputs"):
        tensors = (f"{name} [{', '.join(axes)}]" for name, axes in report[kind].items())
        print(f"  {kind:11} {', '.join(tensors)}")
    print(f"  ran on      {report['input']}, {sizes}, in ONNX Runtime ({report['providers'][0]})")
    print(
        f"  difference  at most {c['largest_absolute']:.2g} from PyTorch ({c['largest_relative']:.2g} of the largest"
        f" entry; {c['tolerance']:g} is allowed); the adapter moves the outputs by {report['adapter_moves_outputs_by']:.2g}"
    )
    if c["labels"]:
        print(f"  labels      {c['changed_labels']} of {c['labels']} changed")
    print("Run it:")
    print("  import onnxruntime")
    print(f"  session = onnxruntime.InferenceSession({report['file']!r}, providers={report['providers']})")
    print(f"  session.run(None, {{{', '.join(f'{name!r}: …' for name in report['inputs'])}}})")


@contextlib.contextmanager
def _status():
    """What is being done, on a terminal's last line; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console

    with Console(stderr=True).status("reading the adapter") as status:
        yield status.update


@contextlib.contextmanager
def _interruptible(step):
    """A step callback that raises ``KeyboardInterrupt`` again where Ctrl-C was swallowed since the last step: torch's
    tracer catches everything in places, and goes on with another, valid graph."""
    pressed = []

    def handle(*_):
        pressed.append(True)
        raise KeyboardInterrupt

    def checked(name):
        if pressed:
            raise KeyboardInterrupt
        step(name)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield checked
    finally:
        signal.signal(signal.SIGINT, before)


# Folders for other tools, from files to files with NumPy alone

AdapterFile = Annotated[Path, typer.Option(help="The adapter's file.")]
NewFolder = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A folder that is not there yet.")]
BaseFolder = Annotated[Path | None, typer.Option(metavar="DIR", help="By default the folder that the adapter names.")]
AsJson = Annotated[bool, typer.Option("--json", help="The report for machines.")]


@app.command("merge", epilog="Example: python -m export merge --adapter vec.safetensors -o merged")
def merge_command(adapter: AdapterFile, output: NewFolder, base: BaseFolder = None, as_json: AsJson = False):
    """Write the base model with the adapter in its weights: a plain checkpoint that needs no adapter.

    The same files, names, dtypes and shapes as the base's, in little more memory than the largest tensor takes. Weights in
    other formats than safetensors are left out.
    """
    from .merge import merge

    with _bar() as progress:
        report = merge(adapter, output, base, progress)
    _end(report, as_json, f"{report['weights']} weights merged, {len(report['saved'])} parameters put in")


@app.command("lora", epilog="Example: python -m export lora --adapter vec.safetensors -o lora")
def lora_command(adapter: AdapterFile, output: NewFolder, base: BaseFolder = None, as_json: AsJson = False):
    """Write the adapter as a plain LoRA in PEFT's folder, with A and B of every weight in full.

    PEFT reads all of it. Readers that know A and B alone take an adapter without a head.
    """
    from .lora import export_lora

    with _bar() as progress:
        report = export_lora(adapter, output, base, progress)
    _end(report, as_json, f"{report['weights']} weights of rank {report['rank']}, {len(report['saved'])} whole")


def _end(report: dict, as_json: bool, done: str) -> None:
    for warning in report["warnings"]:
        print(f"warning: {printable(warning)}", file=sys.stderr)
    if as_json:
        print(json.dumps(report, indent=2))
        return
    print(printable(f"{report['output']}: {report['files']} files, {report['bytes']:,} bytes; {done}"))
    if left_out := report.get("left_out"):
        print(printable(f"  left out, as their weights would not be merged: {', '.join(left_out)}"))


@contextlib.contextmanager
def _bar():
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda step, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda step, done, total: bar.update(task, description=step, completed=done, total=total)


# What a run of a file has to do, and where


@app.command("nodes", epilog="Example: python -m export nodes model.onnx")
def nodes_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The file; any ONNX file will do.")],
    as_json: Annotated[bool, typer.Option("--json", help="The report for machines.")] = False,
):
    """List what ONNX Runtime has to do in each run of a file, and where on a machine with a GPU.

    Where ONNX Runtime has CUDA, it says so itself; elsewhere its table of kernels does. The status is 1 if a node would
    be done on the CPU, other than the shapes that ONNX Runtime computes there by design.
    """
    from .kernels import CPU, nodes

    report = nodes(model)
    print(json.dumps(report, indent=2)) if as_json else show_nodes(report)
    if report["count"][CPU]:
        raise typer.Exit(1)


def show_nodes(report: dict) -> None:
    """The report of ``nodes`` as a person reads it."""
    head = ("operator", "count", "where", "first node")
    rows = [head, *((n["operator"], str(n["count"]), n["where"], n["first"]) for n in report["nodes"])]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for name, count, where, first in rows:
        print(printable(f"{name:{widths[0]}}  {count:>{widths[1]}}  {where:{widths[2]}}  {first}".rstrip()))
    cuda, cpu, by_design = (report["count"][place] for place in ("CUDA", "CPU", "CPU by design"))
    print(
        f"Of {cuda + cpu + by_design} nodes in each run {cuda} are done by CUDA and {cpu} on the CPU, beside {by_design}"
        f" that compute shapes there by design (source: {report['source']})."
    )


if __name__ == "__main__":
    run(lambda: get_command(app).main(prog_name="python -m export", standalone_mode=False))
