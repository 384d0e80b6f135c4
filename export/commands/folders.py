"""``merge``, ``lora``, ``gguf``, ``peft`` and ``import-peft``: from files to files."""

from pathlib import Path
from typing import Annotated

import typer

from ..screen import bar, show_folder, tell
from .app import AsJson, app, keep

AdapterFile = Annotated[Path, typer.Option(help="The adapter's file.")]
NewFolder = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A folder that is not there yet.")]
BaseFolder = Annotated[Path | None, typer.Option(metavar="DIR", help="By default the folder that the adapter names.")]


@app.command("merge", epilog="Example: python -m export merge --adapter vec.safetensors -o merged")
def merge_command(adapter: AdapterFile, output: NewFolder, base: BaseFolder = None, as_json: AsJson = False):
    """Write the base model with the adapter in its weights: a plain checkpoint that needs no adapter.

    The same files, names, dtypes and shapes as the base's, in little more memory than the largest tensor takes. Weights in
    other formats than safetensors are left out.
    """
    from ..folders.merge import merge

    with bar() as progress:
        report = merge(adapter, output, base, progress)
    done = f"{report['weights']} weights merged, {len(report['saved'])} parameters put in"
    tell(report, as_json, lambda report: show_folder(report, done))


@app.command("lora", epilog="Example: python -m export lora --adapter vec.safetensors -o lora")
def lora_command(adapter: AdapterFile, output: NewFolder, base: BaseFolder = None, as_json: AsJson = False):
    """Write the adapter as a plain LoRA in PEFT's folder, with A and B of every weight in full.

    PEFT reads all of it. Readers that know A and B alone take an adapter without a head.
    """
    from ..folders.lora import export_lora

    with bar() as progress:
        report = export_lora(adapter, output, base, progress)
    done = f"{report['weights']} weights of rank {report['rank']}, {len(report['saved'])} whole"
    tell(report, as_json, lambda report: show_folder(report, done))


@app.command("gguf", epilog="Example: python -m export gguf --adapter vec.safetensors -o adapter.gguf")
def gguf_command(
    adapter: AdapterFile,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The LoRA's file, such as x.gguf.")],
    base: BaseFolder = None,
    as_json: AsJson = False,
):
    """Write the adapter as a LoRA for llama.cpp, a GGUF file beside that of the base.

    llama.cpp loads it with --lora, onto the base however it is quantized. Language models without a head of their own.
    """
    keep([adapter], output)
    with bar() as progress:
        progress("loading package gguf", 0, 1)
        from ..folders.gguf import export_gguf

        report = export_gguf(adapter, output, base, progress)
    done = f"{report['weights']} weights of a {report['architecture']}, of rank {report['rank']} at most"
    tell(report, as_json, lambda report: show_folder(report, done))


# PEFT's own UniLora, to it and from it


@app.command("peft", epilog="Example: python -m export peft --adapter vec.safetensors -o peft-adapter")
def peft_command(adapter: AdapterFile, output: NewFolder, base: BaseFolder = None, as_json: AsJson = False):
    """Write the adapter as a folder of PEFT's UniLora, with its index in full: PEFT loads it and gives the same.

    One rank for all, whole weights of Linear and Conv1D layers, and a head: what PEFT's UniLora cannot hold is refused.
    """
    from ..folders.peft import export_peft

    with bar() as progress:
        report = export_peft(adapter, output, base, progress)
    done = f"{report['weights']} weights of rank {report['rank']}, {len(report['saved'])} others in full"
    tell(report, as_json, lambda report: show_folder(report, done))


@app.command("import-peft", epilog="Example: python -m export import-peft --adapter peft-adapter -o vec.safetensors")
def import_peft_command(
    adapter: Annotated[Path, typer.Option(metavar="DIR", help="The folder that PEFT saved.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The adapter's file, such as x.safetensors.")
    ],
    base: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The base model; by default the folder that PEFT names, if it is here."),
    ] = None,
    as_json: AsJson = False,
):
    """Read a folder of PEFT's UniLora into one file, of kind `table`: its index is PEFT's, and stored.

    Where the folder has no indices (PEFT's save_indices), they are drawn again, which needs the base.
    """
    from ..folders.from_peft import import_peft

    report = import_peft(adapter, output, base)
    done = f"{report['weights']} weights, the index {report['index']}, {len(report['saved'])} parameters in full"
    tell(report, as_json, lambda report: show_folder(report, done))
