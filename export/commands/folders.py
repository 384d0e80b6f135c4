"""The commands ``merge``, ``lora``, ``gguf``, ``peft`` and ``import-peft``, which make files for other tools."""

from pathlib import Path
from typing import Annotated

import typer

from ..screen import bar, print_report, show_folder
from .app import AsJson, app, refuse_replacing

AdapterFile = Annotated[Path, typer.Option(help="The adapter's file.")]
NewFolder = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write, which must be new or empty.")
]
BaseFolder = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The base model; by default the folder that the adapter names.")
]


@app.command("merge", epilog="Example: python -m export merge --adapter vec.safetensors -o merged")
def merge_command(adapter: AdapterFile, output: NewFolder, base: BaseFolder = None, as_json: AsJson = False):
    """Write the base model with the adapter in its weights: a plain checkpoint that needs no adapter.

    The files, names, dtypes and shapes are those of the base. Merging takes little more memory than the largest tensor does.
    Weights in other formats than safetensors are left out.
    """
    from ..folders.merge import merge

    with bar() as progress:
        report = merge(adapter, output, base, progress)
    done = f"{report['weights']} weights merged, {len(report['saved'])} parameters set"
    print_report(report, as_json, lambda report: show_folder(report, done))


@app.command("lora", epilog="Example: python -m export lora --adapter vec.safetensors -o lora")
def lora_command(adapter: AdapterFile, output: NewFolder, base: BaseFolder = None, as_json: AsJson = False):
    """Write the adapter as a plain LoRA in PEFT's folder, with A and B of every weight in full.

    PEFT reads all of it. Readers that know A and B alone take an adapter without a head.
    """
    from ..folders.lora import export_lora

    with bar() as progress:
        report = export_lora(adapter, output, base, progress)
    done = f"{report['weights']} weights of rank {report['rank']}, {len(report['saved'])} trained in full"
    print_report(report, as_json, lambda report: show_folder(report, done))


@app.command("gguf", epilog="Example: python -m export gguf --adapter vec.safetensors -o adapter.gguf")
def gguf_command(
    adapter: AdapterFile,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The LoRA's file, such as x.gguf.")],
    base: BaseFolder = None,
    as_json: AsJson = False,
):
    """Write the adapter as a LoRA for llama.cpp, a GGUF file beside that of the base.

    llama.cpp loads it with --lora, onto the base however it is quantized. Only language models without a head of their own can be written.
    """
    refuse_replacing([adapter], output)
    with bar() as progress:
        progress("loading package gguf", 0, 1)
        from ..folders.gguf import export_gguf

        report = export_gguf(adapter, output, base, progress)
    done = f"{report['weights']} weights of a {report['architecture']}, of rank {report['rank']} at most"
    print_report(report, as_json, lambda report: show_folder(report, done))


# To and from PEFT's own UniLora


@app.command("peft", epilog="Example: python -m export peft --adapter vec.safetensors -o peft-adapter")
def peft_command(adapter: AdapterFile, output: NewFolder, base: BaseFolder = None, as_json: AsJson = False):
    """Write the adapter as a folder of PEFT's UniLora, with its index in full, so that PEFT computes the same.

    PEFT's UniLora holds whole weights of Linear and Conv1D layers, all of one rank, and a head. Any other adapter is refused.
    """
    from ..folders.peft import export_peft

    with bar() as progress:
        report = export_peft(adapter, output, base, progress)
    done = f"{report['weights']} weights of rank {report['rank']}, {len(report['saved'])} trained in full"
    print_report(report, as_json, lambda report: show_folder(report, done))


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
    """Turn a folder of PEFT's UniLora into one file of kind `table`, which stores PEFT's index.

    Where the folder has no indices (PEFT's save_indices), they are drawn again, which needs the base.
    """
    from ..folders.from_peft import import_peft

    report = import_peft(adapter, output, base)
    done = f"{report['weights']} weights, the index {report['index']}, {len(report['saved'])} trained in full"
    print_report(report, as_json, lambda report: show_folder(report, done))
