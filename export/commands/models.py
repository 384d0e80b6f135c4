"""The commands ``onnx``, ``onnx-folder``, ``check`` and ``nodes``, which write and inspect ONNX files."""

from pathlib import Path
from typing import Annotated

import typer

from unilora_spec import UniLoraError, load_adapter
from unilora_spec.places import check_output

from ..modes import MODES, STEP, Form
from ..screen import interruptible, print_report, show, show_check, show_nodes, show_parts, status
from .app import AsJson, app, refuse_replacing
from .options import (
    DTYPES,
    Adapters,
    Base,
    Compare,
    Given,
    Inline,
    Inputs,
    Mode,
    Part,
    RequiredInputs,
    Unmarked,
    arrays,
    pair,
)

WHEN = "\n    ".join(f"  {name:12} {words}" for name, words in MODES.items())


@app.command(
    "onnx",
    help=f"""Write the base model with the adapter as an ONNX file.

    The file is checked by onnx and run in ONNX Runtime against PyTorch, or against the ONNX base and ΔW; a file
    that disagrees is not kept.

    \b
    Modes, and when to choose which:
    {WHEN}
    """,
    epilog="Examples: python -m export onnx --adapter vec.safetensors -o model.onnx"
    " · python -m export onnx --adapter vec.safetensors --base deployed.onnx --mode input -o out.onnx",
)
def onnx_command(
    adapter: Adapters,
    base: Base = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The file to write; by default beside the adapter, as .onnx."
        ),
    ] = None,
    mode: Mode = "merged",
    opset: Annotated[
        int | None,
        typer.Option(
            help="ONNX operator set, 18 to 22; by default 18, or 22 for bfloat16. An ONNX base keeps its own."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="|".join(DTYPES), help="The dtype of the graph's floats; an ONNX base keeps its own."),
    ] = None,
    with_past: Annotated[
        bool,
        typer.Option("--with-past", help="Export a decoder that takes and gives its cache of keys and values."),
    ] = False,
    given: Given = None,
    part: Part = None,
    inputs: Inputs = None,
    required_inputs: RequiredInputs = False,
    inline: Inline = False,
    unmarked: Unmarked = False,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="float32|float16|int8",
            help="For --mode step: how the large frozen weights are stored; each use makes floats of them again.",
        ),
    ] = None,
    genai: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A folder of onnxruntime-genai's builder as the base; -o is a new folder, which genai's own loop runs.",
        ),
    ] = None,
    compare: Compare = None,
    as_json: AsJson = False,
):
    output = output or adapter[0].with_suffix(".onnx" if genai is None else ".genai")
    if genai is None:
        check_output(output)
    elif base is not None:
        raise UniLoraError("--genai and --base are both bases; give one of them")
    refuse_replacing(adapter, output, output.with_suffix(".onnx_adapter"), output.with_suffix(".expander.onnx"))
    if weights is not None and mode != STEP:
        raise UniLoraError(
            f"--weights is for --mode step; the mode {mode} has --dtype, or an ONNX base that is quantized"
        )
    if dtype not in (None, *DTYPES):
        raise UniLoraError(f"--dtype is {dtype!r}; give {', '.join(DTYPES)}")
    form = {"required_inputs": required_inputs, "inline": inline, "marked": not unmarked}
    with status() as show_step:
        step = interruptible(show_step)
        adapters = [load_adapter(file) for file in adapter]
        if genai is not None or (base is not None and base.endswith(".onnx")):
            for option, value in (("opset", opset), ("dtype", dtype), ("with-past", with_past or None)):
                if value is not None:
                    raise UniLoraError(f"--{option} is for bases that are no ONNX files; {genai or base} keeps its own")
            base = genai or base
            report = _from_file(base, adapters, output, mode, form, given, part, inputs, compare, step)
        elif given or part:
            option = "map" if given else "part"
            raise UniLoraError(f"--{option} is for a base that is an ONNX file; --base names none")
        else:
            report = _from_torch(
                base, adapters, output, mode, form, opset, dtype, with_past, weights, inputs, compare, step
            )
    print_report(report, as_json, show)


def _from_file(base, adapters, output, mode, form, given, part, inputs, compare, step):
    step("loading ONNX Runtime")
    from ..onnx_base.from_file import export_onnx_file
    from ..onnx_base.genai import export_genai

    write = export_genai if isinstance(base, Path) else export_onnx_file
    pairs = dict(pair(text) for text in given or ())
    feeds = None if inputs is None else [arrays(inputs)]
    report = write(
        base, adapters, output, mode, given=pairs, feeds=feeds, compare=compare, part=part, progress=step, **form
    )
    return report | {"input": "generated" if inputs is None else str(inputs), "reference": "the ONNX base and ΔW"}


def _from_torch(base, adapters, output, mode, form, opset, dtype, with_past, weights, inputs, compare, step):
    step("loading PyTorch")
    from ..onnx import check_call
    from ..torch_base.base import load_base
    from ..torch_base.from_torch import DEFAULT_OPSET, check_opset, export_onnx
    from ..torch_base.inputs import real_inputs, tensors

    check_call(output, mode, adapters, Form(form["required_inputs"], form["inline"], form["marked"]))
    check_opset(DEFAULT_OPSET if opset is None else opset)
    step("loading the base model")
    model, tokenizer, warnings = load_base(adapters[0], base, dtype or "float32")
    first, *more = real_inputs(model, tokenizer) if inputs is None else [tensors(arrays(inputs))]
    report = export_onnx(
        model, adapters, first, output, mode, opset, more_inputs=more, with_past=with_past,
        compare=compare is not False, weights=weights or "float32", progress=step, **form,
    )  # fmt: skip
    made_up = "sentences" if tokenizer else "random"
    report |= {"input": made_up if inputs is None else str(inputs), "reference": "PyTorch"}
    return report | {"warnings": warnings + report["warnings"]}


@app.command(
    "onnx-folder",
    epilog="Example: python -m export onnx-folder --adapter vec.safetensors --base optimum-folder -o adapted",
)
def onnx_folder_command(
    adapter: Adapters,
    base: Annotated[Path, typer.Option(metavar="DIR", help="The folder with the ONNX files.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write, which must be new or empty.")
    ],
    mode: Mode = "merged",
    required_inputs: RequiredInputs = False,
    inline: Inline = False,
    unmarked: Unmarked = False,
    compare: Compare = None,
    as_json: AsJson = False,
):
    """Put the adapter into all ONNX files of a folder that are one model: an encoder and its decoders.

    Each file is written and compared as `export onnx --part` does it; what lies beside them is copied. All parts take the one
    .onnx_adapter that input and factored write.
    """
    with status() as show_step:
        step = interruptible(show_step)
        step("loading ONNX Runtime")
        from ..onnx_base.folder import export_onnx_folder

        adapters = [load_adapter(file) for file in adapter]
        form = {"required_inputs": required_inputs, "inline": inline, "marked": not unmarked}
        report = export_onnx_folder(base, adapters, output, mode, compare=compare, progress=step, **form)
    print_report(report, as_json, show_parts)


@app.command(
    "check",
    epilog="Examples: python -m export check model.onnx --adapter vec.safetensors"
    " · python -m export check out.onnx --adapter vec.safetensors --base deployed.onnx --inputs batch.npz",
)
def check_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The file, exported here or merged elsewhere.")],
    adapter: Adapters,
    base: Base = None,
    given: Given = None,
    part: Part = None,
    inputs: Inputs = None,
    as_json: AsJson = False,
):
    """Compare an ONNX file with its base and adapter, in PyTorch or as another ONNX file.

    The exit status is 1 where an output is off by more than the tolerance.
    """
    with status() as show_step:
        step = interruptible(show_step)
        step("loading ONNX Runtime")
        from ..check import check_with_file, check_with_torch

        adapters = [load_adapter(file) for file in adapter]
        given_inputs = None if inputs is None else arrays(inputs)
        if base is not None and base.endswith(".onnx"):
            pairs = dict(pair(text) for text in given or ())
            report = check_with_file(model, adapters, base, given_inputs, pairs, step, part)
        else:
            report = check_with_torch(model, adapters, base, given_inputs, step)
    report["input"] = "made-up input" if inputs is None else str(inputs)
    print_report(report, as_json, show_check)
    if not report["comparison"]["within"]:
        raise typer.Exit(1)


@app.command("nodes", epilog="Example: python -m export nodes model.onnx")
def nodes_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The file; any ONNX file will do.")],
    as_json: AsJson = False,
):
    """List what ONNX Runtime has to do in each run of a file, and where on a machine with a GPU.

    Where ONNX Runtime has CUDA, it says so itself; elsewhere its table of kernels does. The exit status is 1 if a
    node would run on the CPU, other than those that compute shapes there by design.
    """
    from ..kernels.nodes import CPU, nodes

    report = nodes(model)
    print_report(report, as_json, show_nodes)
    if report["count"][CPU]:
        raise typer.Exit(1)
