"""``onnx``, ``onnx-folder``, ``check`` and ``nodes``: models as ONNX files."""

from pathlib import Path
from typing import Annotated

import typer

from unilora_spec import UniLoraError, load_adapter
from unilora_spec.documents import size_of
from unilora_spec.places import check_output

from ..modes import MODES, Form
from ..screen import interruptible, show, show_check, show_nodes, show_parts, status, tell
from .app import AsJson, app, keep

WHEN = "\n    ".join(f"  {name:12} {words}" for name, words in MODES.items())
MOST_INPUTS = 2**31  # bytes of the arrays of --inputs
DTYPES = ("float32", "float16", "bfloat16")

Base = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|ID|FILE.onnx",
        help="The base model, or an ONNX file of it; by default the folder that the adapter names. An id is fetched only where it is"
        " given here.",
    ),
]
Given = Annotated[
    list[str] | None,
    typer.Option(
        "--map", metavar="NAME=INITIALIZER[@ROW]", help="Where a weight is in the ONNX base; may be given again."
    ),
]
Part = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Of a model in several ONNX files, the part that the base is, as the weights' names say it: encoder, decoder, text,"
        " vision. What is in none of its initializers is left to the others; onnx-folder does them all.",
    ),
]
Inputs = Annotated[
    Path | None,
    typer.Option(metavar="FILE.npz", help="Arrays by input name that are compared on; by default they are made up."),
]


@app.command(
    "onnx",
    help=f"""Write the base model with the adapter as an ONNX file.

    The file is checked by onnx and run in ONNX Runtime against PyTorch, or against the ONNX base and ΔW; one that
    disagrees is not left behind.

    \b
    Modes, and when to choose which:
    {WHEN}
    """,
    epilog="Examples: python -m export onnx --adapter vec.safetensors -o model.onnx"
    " · python -m export onnx --adapter vec.safetensors --base deployed.onnx --mode input -o out.onnx",
)
def onnx_command(
    adapter: Annotated[list[Path], typer.Option(help="The adapter's file; several for the mode bank.")],
    base: Base = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="By default beside the adapter, as .onnx.")
    ] = None,
    mode: Annotated[
        str,
        typer.Option(metavar="|".join(MODES), help="When to choose which: see above."),
    ] = "merged",
    opset: Annotated[
        int | None,
        typer.Option(
            help="ONNX operator set, 18 to 22; by default 18, or 22 for bfloat16. An ONNX base keeps its own."
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="|".join(DTYPES), help="The graph's floats; an ONNX base keeps its own.")
    ] = None,
    with_past: Annotated[
        bool,
        typer.Option("--with-past", help="A decoder that takes and gives its cache of keys and values."),
    ] = False,
    given: Given = None,
    part: Part = None,
    inputs: Inputs = None,
    required_inputs: Annotated[
        bool,
        typer.Option(
            "--required-inputs",
            help="The adapter's inputs have no default, in input, factored and bank: onnxruntime-node, onnxruntime-web and OpenVINO"
            " know no optional inputs, and ignore or refuse what is fed.",
        ),
    ] = False,
    inline: Annotated[
        bool,
        typer.Option(
            "--inline",
            help="A graph without local functions and 64-bit arithmetic, for OpenVINO and others that lack them; the index is stored.",
        ),
    ] = False,
    unmarked: Annotated[
        bool,
        typer.Option(
            "--unmarked",
            help="An .onnx_adapter of input or factored for graphs of other tools, as Olive's: without the mark of what it belongs to.",
        ),
    ] = False,
    genai: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A folder of onnxruntime-genai's builder as the base; -o is a new folder, which genai's own loop runs.",
        ),
    ] = None,
    compare: Annotated[
        bool | None,
        typer.Option(
            "--compare/--no-compare", help="Compare the result with the base and ΔW; by default where it is below 2 GB."
        ),
    ] = None,
    as_json: AsJson = False,
):
    output = output or adapter[0].with_suffix(".onnx" if genai is None else ".genai")
    if genai is None:
        check_output(output)
    elif base is not None:
        raise UniLoraError("--genai and --base are both bases; give one of them")
    keep(adapter, output, output.with_suffix(".onnx_adapter"), output.with_suffix(".expander.onnx"))
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
            report = _from_torch(base, adapters, output, mode, form, opset, dtype, with_past, inputs, compare, step)
    tell(report, as_json, show)


def _from_file(base, adapters, output, mode, form, given, part, inputs, compare, step):
    step("loading ONNX Runtime")
    from ..onnx_base.from_file import export_onnx_file
    from ..onnx_base.genai import export_genai

    write = export_genai if isinstance(base, Path) else export_onnx_file
    pairs = dict(_pair(text) for text in given or ())
    feeds = None if inputs is None else [_arrays(inputs)]
    report = write(
        base, adapters, output, mode, given=pairs, feeds=feeds, compare=compare, part=part, progress=step, **form
    )
    return report | {"input": "generated" if inputs is None else str(inputs), "reference": "the ONNX base and ΔW"}


def _from_torch(base, adapters, output, mode, form, opset, dtype, with_past, inputs, compare, step):
    step("loading PyTorch")
    from ..onnx import check_call
    from ..torch_base.base import load_base
    from ..torch_base.from_torch import DEFAULT_OPSET, check_opset, export_onnx
    from ..torch_base.inputs import real_inputs, tensors

    check_call(output, mode, adapters, Form(form["required_inputs"], form["inline"], form["marked"]))
    check_opset(DEFAULT_OPSET if opset is None else opset)
    step("loading the base model")
    model, tokenizer, warnings = load_base(adapters[0], base, dtype or "float32")
    first, *more = real_inputs(model, tokenizer) if inputs is None else [tensors(_arrays(inputs))]
    report = export_onnx(
        model, adapters, first, output, mode, opset, more_inputs=more, with_past=with_past,
        compare=compare is not False, progress=step, **form,
    )  # fmt: skip
    made_up = "sentences" if tokenizer else "random"
    report |= {"input": made_up if inputs is None else str(inputs), "reference": "PyTorch"}
    return report | {"warnings": warnings + report["warnings"]}


@app.command(
    "onnx-folder",
    epilog="Example: python -m export onnx-folder --adapter vec.safetensors --base optimum-folder -o adapted",
)
def onnx_folder_command(
    adapter: Annotated[list[Path], typer.Option(help="The adapter's file; several for the mode bank.")],
    base: Annotated[Path, typer.Option(metavar="DIR", help="The folder with the ONNX files.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A folder that is not there yet.")],
    mode: Annotated[str, typer.Option(metavar="|".join(MODES), help="As of `export onnx`.")] = "merged",
    compare: Annotated[
        bool | None, typer.Option("--compare/--no-compare", help="As of `export onnx`, for each file.")
    ] = None,
    as_json: AsJson = False,
):
    """Put the adapter into all ONNX files of a folder that are one model: an encoder and its decoders.

    Each file is written and compared as `export onnx --part` does it; what lies beside them is copied.
    """
    with status() as show_step:
        step = interruptible(show_step)
        step("loading ONNX Runtime")
        from ..onnx_base.folder import export_onnx_folder

        adapters = [load_adapter(file) for file in adapter]
        report = export_onnx_folder(base, adapters, output, mode, compare=compare, progress=step)
    tell(report, as_json, show_parts)


@app.command(
    "check",
    epilog="Examples: python -m export check model.onnx --adapter vec.safetensors"
    " · python -m export check out.onnx --adapter vec.safetensors --base deployed.onnx --inputs batch.npz",
)
def check_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The file, exported here or merged elsewhere.")],
    adapter: Annotated[list[Path], typer.Option(help="The adapter's file; for a bank all, in its order.")],
    base: Base = None,
    given: Given = None,
    part: Part = None,
    inputs: Inputs = None,
    as_json: AsJson = False,
):
    """Compare an ONNX file with its base and adapter, in PyTorch or as another ONNX file.

    The status is 1 where an output is off by more than the tolerance.
    """
    with status() as show_step:
        step = interruptible(show_step)
        step("loading ONNX Runtime")
        from ..check import check_with_file, check_with_torch

        adapters = [load_adapter(file) for file in adapter]
        arrays = None if inputs is None else _arrays(inputs)
        if base is not None and base.endswith(".onnx"):
            pairs = dict(_pair(text) for text in given or ())
            report = check_with_file(model, adapters, base, arrays, pairs, step, part)
        else:
            report = check_with_torch(model, adapters, base, arrays, step)
    report["input"] = "made-up input" if inputs is None else str(inputs)
    tell(report, as_json, show_check)
    if not report["comparison"]["within"]:
        raise typer.Exit(1)


def _pair(text: str) -> tuple[str, str]:
    name, equals, initializer = text.partition("=")
    if not (name and equals and initializer):
        raise UniLoraError(f"--map {text!r} is not NAME=INITIALIZER or NAME=INITIALIZER@ROW")
    return name, initializer


def _arrays(path: Path) -> dict:
    import zipfile

    import numpy as np

    size_of(path)
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MOST_INPUTS:
            raise UniLoraError(
                f"{path} unfolds to {unpacked:,} bytes; {MOST_INPUTS:,} is the most, so give smaller batches"
            )
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except UniLoraError:
        raise
    except Exception as error:  # NumPy's, zipfile's and zlib's, of many kinds
        reason = str(error).splitlines() or [type(error).__name__]
        raise UniLoraError(f"{path} is no .npz file with arrays by name: {reason[0]:.200}") from error


# What a run of a file has to do, and where


@app.command("nodes", epilog="Example: python -m export nodes model.onnx")
def nodes_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The file; any ONNX file will do.")],
    as_json: AsJson = False,
):
    """List what ONNX Runtime has to do in each run of a file, and where on a machine with a GPU.

    Where ONNX Runtime has CUDA, it says so itself; elsewhere its table of kernels does. The status is 1 if a node would
    be done on the CPU, other than the shapes that ONNX Runtime computes there by design.
    """
    from ..kernels.nodes import CPU, nodes

    report = nodes(model)
    tell(report, as_json, show_nodes)
    if report["count"][CPU]:
        raise typer.Exit(1)
