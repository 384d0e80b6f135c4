"""The options that several commands share, and the functions that read their values."""

from pathlib import Path
from typing import Annotated

import typer

from unilora_spec import UniLoraError
from unilora_spec.documents import size_of

from ..modes import MODES

MOST_INPUTS = 2**31  # bytes of the arrays of --inputs
DTYPES = ("float32", "float16", "bfloat16")

Base = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|ID|FILE.onnx",
        help="The base model, or an ONNX file of it; by default the folder that the adapter names. A hub id is downloaded only where"
        " it is given here.",
    ),
]
Given = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="NAME=INITIALIZER[@ROW]",
        help="Which initializer of the ONNX base holds a weight; the option may be repeated.",
    ),
]
Part = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Where a model is in several ONNX files, the part that the base is, as the weights' names call it: encoder, decoder, text,"
        " vision. Weights that the file does not hold are left to the others; onnx-folder writes all of them.",
    ),
]
Inputs = Annotated[
    Path | None,
    typer.Option(metavar="FILE.npz", help="Arrays by input name to compare on; by default they are made up."),
]
Adapters = Annotated[
    list[Path],
    typer.Option("--adapter", metavar="FILE", help="The adapter's file; several, in their order, for the mode bank."),
]
Mode = Annotated[
    str, typer.Option(metavar="|".join(MODES), help="When to choose which: see the list of `export onnx --help`.")
]
RequiredInputs = Annotated[
    bool,
    typer.Option(
        "--required-inputs",
        help="Give the adapter's inputs no default, in input, factored and bank: onnxruntime-node, onnxruntime-web and OpenVINO know no"
        " optional inputs, and ignore or refuse what is fed to them.",
    ),
]
Inline = Annotated[
    bool,
    typer.Option(
        "--inline",
        help="Write a graph without local functions and 64-bit arithmetic, for OpenVINO and others that lack them; the index is stored.",
    ),
]
Unmarked = Annotated[
    bool,
    typer.Option(
        "--unmarked",
        help="Write the .onnx_adapter of input or factored without the mark of its graph, for graphs of other tools such as Olive's.",
    ),
]
Compare = Annotated[
    bool | None,
    typer.Option(
        "--compare/--no-compare", help="Compare each file with its base and ΔW; by default where it is below 2 GB."
    ),
]


def pair(text: str) -> tuple[str, str]:
    """The weight's name and its place in the ONNX base, from a value of --map."""
    name, equals, initializer = text.partition("=")
    if not (name and equals and initializer):
        raise UniLoraError(f"--map {text!r} is not NAME=INITIALIZER or NAME=INITIALIZER@ROW")
    return name, initializer


def arrays(path: Path) -> dict:
    """The arrays of an .npz file by name. Raises ``UniLoraError`` where it is no such file, or unfolds to too much."""
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
