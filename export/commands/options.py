"""What several commands take, each said once, and what is made of it."""

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
        help="The adapter's inputs have no default, in input, factored and bank: onnxruntime-node, onnxruntime-web and OpenVINO"
        " know no optional inputs, and ignore or refuse what is fed.",
    ),
]
Inline = Annotated[
    bool,
    typer.Option(
        "--inline",
        help="A graph without local functions and 64-bit arithmetic, for OpenVINO and others that lack them; the index is stored.",
    ),
]
Unmarked = Annotated[
    bool,
    typer.Option(
        "--unmarked",
        help="An .onnx_adapter of input or factored for graphs of other tools, as Olive's: without the mark of what it belongs to.",
    ),
]
Compare = Annotated[
    bool | None,
    typer.Option(
        "--compare/--no-compare", help="Compare each file with its base and ΔW; by default where it is below 2 GB."
    ),
]


def pair(text: str) -> tuple[str, str]:
    """A weight's name and its place, of --map."""
    name, equals, initializer = text.partition("=")
    if not (name and equals and initializer):
        raise UniLoraError(f"--map {text!r} is not NAME=INITIALIZER or NAME=INITIALIZER@ROW")
    return name, initializer


def arrays(path: Path) -> dict:
    """The arrays of an .npz file by name. Raises ``UniLoraError`` where it is none, or unfolds to too much."""
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
