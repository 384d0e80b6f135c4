"""Shows an export to a person: its steps while it runs, and its report."""

import contextlib
import json
import re
import sys
from collections.abc import Callable

from unilora_spec.command import asked_to_stop, printable


@contextlib.contextmanager
def status():
    """Shows the current step on a terminal's last line, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("reading the adapter") as line:
        yield lambda step: line.update(Text(printable(step)))


def interruptible(step):
    """A step callback that raises ``KeyboardInterrupt`` again where that of a signal was swallowed since the last step: torch's
    tracer catches everything in places, and goes on with another, valid graph."""

    def checked(name):
        if asked_to_stop():
            raise KeyboardInterrupt
        step(name)

    return checked


@contextlib.contextmanager
def bar():
    """Shows a bar on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda step, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("")
        yield lambda step, done, total: shown.update(task, description=printable(step), completed=done, total=total)


def _line(text: str) -> None:
    print(printable(text))


def show(report: dict) -> None:
    """The report of an export as a person reads it."""
    for file, size in report["files"].items():
        _line(f"{file}: {size:,} bytes")
    _line(
        f"  graph       mode {report['mode']}, opset {report['opset']}, {report['nodes']} nodes,"
        f" {report['nodes_inlined']} with the functions inlined"
    )
    if report["index"]:
        _line(f"  index       {report['index']}")
    if "weights" in report:
        show_weights(report)
    for kind in ("inputs", "outputs"):
        tensors = [f"{name} [{', '.join(axes)}]" for name, axes in report[kind].items()]
        more = [f"and {len(tensors) - 8} more"] if len(tensors) > 9 else []
        _line(f"  {kind:11} {', '.join(tensors[:8] if more else tensors)} {' '.join(more)}".rstrip())
    if report["comparison"]:
        show_comparison(report)
    else:
        _line("  compared    no; `python -m export check` does it")
    _line("Run it:")
    if "genai" in report:
        _show_genai(report)
        return
    _line("  import onnxruntime")
    _line(f"  session = onnxruntime.InferenceSession({report['file']!r}, providers={report['providers']})")
    given = [name for name in report["inputs"] if name not in report["defaults"]]
    feed = f"{{{', '.join(f'{name!r}: …' for name in given)}}}"
    if report["mode"] == "factored":
        adapter = next(file for file in report["files"] if file.endswith(".onnx_adapter"))
        _line("  adapter, options = onnxruntime.LoraAdapter(), onnxruntime.RunOptions()")
        _line(f"  adapter.Load({adapter!r})")
        _line("  options.add_active_adapter(adapter)")
        feed += ", options"
    _line(f"  session.run(None, {feed})")
    if report["mode"] in ("input", "bank") and "theta" in report["defaults"]:
        _line("Feed `theta` as well for other vectors than the ones in the file.")


def _show_genai(report: dict) -> None:
    _line("  import onnxruntime_genai as og")
    _line(f"  model = og.Model({report['genai']!r})")
    for file in report["files"]:
        if file.endswith(".onnx_adapter"):
            _line("  adapters = og.Adapters(model)")
            _line(f"  adapters.load({file!r}, 'one')")
            _line("  generator.set_active_adapter(adapters, 'one')  # of og.Generator, before its tokens")


def show_weights(report: dict) -> None:
    """Shows which weight was found where in an ONNX base."""
    rows = report["weights"]
    widths = [max(len(row[key]) for row in rows) for key in ("name", "initializer")]
    verdict = {
        True: "are those on record",
        False: "are other than on record",
        None: f"cannot be held against a record: {report['not_comparable']}",
    }[report["same_contents"]]
    _line(f"  weights     {len(rows)} found; values {verdict}")
    if elsewhere := report.get("elsewhere"):
        more = f" and {len(elsewhere) - 2} more" if len(elsewhere) > 2 else ""
        _line(f"  elsewhere   {', '.join(elsewhere[:2])}{more}")
    for row in rows:
        _line(f"    {row['name']:{widths[0]}}  {row['initializer']:{widths[1]}}  by {row['how']}, {row['stored']}")


def show_comparison(report: dict) -> None:
    """Shows how far a file's outputs are from the reference's."""
    comparison = report["comparison"]
    sizes = ", ".join(" × ".join(map(str, batch)) for batch in comparison["batches"])
    _line(f"  ran on      {report['input']}, {sizes}, in ONNX Runtime ({report['providers'][0]})")
    if comparison["note"]:
        _line(f"  compared    {comparison['note']}")
    for name, row in _worst(comparison["outputs"]).items():
        labels = f"; {row['changed']} of {row['labels']} labels changed" if row["labels"] else ""
        _line(
            f"  {name:11} at most {row['absolute']:.2g} from {report['reference']} ({row['relative']:.2g} of the largest"
            f" entry; {row['tolerance']:g} is allowed){labels}"
        )
    if "adapter_moves_outputs_by" in report:
        _line(f"  the adapter moves the outputs by {report['adapter_moves_outputs_by']:.2g}")


def _worst(outputs: dict) -> dict:
    """One row for outputs that differ in their numbers alone, as a cache's layers: the one that is furthest off."""
    groups = {}
    for name, row in outputs.items():
        groups.setdefault(re.sub(r"\d+", "*", name), {})[name] = row
    return {
        next(iter(rows)) if len(rows) == 1 else name: max(rows.values(), key=lambda row: row["relative"])
        for name, rows in groups.items()
    }


def show_check(report: dict) -> None:
    """The report of ``check`` as a person reads it."""
    from rich.console import Console
    from rich.table import Table

    comparison = report["comparison"]
    table = Table("output", "largest difference", "of its largest entry", "allowed", "labels changed")
    for name, row in _worst(comparison["outputs"]).items():
        labels = f"{row['changed']} of {row['labels']}" if row["labels"] else ""
        cells = (f"{row['absolute']:.2g}", f"{row['relative']:.2g}", f"{row['tolerance']:g}", labels)
        table.add_row(printable(name), *cells)
    Console(markup=False, emoji=False).print(table)
    note = f" ({comparison['note']})" if comparison["note"] else ""
    verdict = "answers as" if comparison["within"] else "does NOT answer as"
    _line(f"{report['file']} {verdict} {report['reference']}, on {report['input']}{note}.")


def show_nodes(report: dict) -> None:
    """The report of ``nodes`` as a person reads it."""
    head = ("operator", "count", "where", "first node")
    rows = [head, *((n["operator"], str(n["count"]), n["where"], n["first"]) for n in report["nodes"])]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for name, count, where, first in rows:
        _line(f"{name:{widths[0]}}  {count:>{widths[1]}}  {where:{widths[2]}}  {first}".rstrip())
    cuda, cpu, by_design = (report["count"][place] for place in ("CUDA", "CPU", "CPU by design"))
    _line(
        f"Of {cuda + cpu + by_design} nodes in each run {cuda} are done by CUDA and {cpu} on the CPU, beside {by_design}"
        f" that compute shapes there by design (source: {report['source']})."
    )


def show_folder(report: dict, done: str) -> None:
    """The report of what was written for other tools; ``done`` says what was made of the adapter."""
    files = "1 file" if report["files"] == 1 else f"{report['files']} files"
    _line(f"{report['output']}: {files}, {report['bytes']:,} bytes; {done}")
    if left_out := report.get("left_out"):
        _line(f"  left out, as their weights would not be merged: {', '.join(left_out)}")


def show_parts(report: dict) -> None:
    """The report of a folder of ONNX files."""
    verdict = {True: "are those on record", False: "are other than on record", None: "cannot be held against a record"}
    show_folder(report, f"mode {report['mode']}; values {verdict[report['same_contents']]}")
    for name, part in report["parts"].items():
        outputs = part["comparison"]["outputs"].values() if part["comparison"] else ()
        most = max((row["relative"] for row in outputs), default=None)
        compared = (
            "not compared" if most is None else f"at most {most:.2g} of an output's largest entry from the base and ΔW"
        )
        _line(f"  {name}  {len(part['weights'])} weights found, {len(part['elsewhere'])} elsewhere; {compared}")


def print_report(report: dict, as_json: bool, show: Callable[[dict], None]) -> None:
    """Prints a report, as JSON or by ``show``, and its warnings."""
    for warning in report.get("warnings", ()):
        print(f"warning: {printable(warning)}", file=sys.stderr)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
