"""The commands ``push`` and ``pull``, which bring an adapter to the Hugging Face Hub and from it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from unilora_spec.command import printable

from .app import app

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


@app.command(epilog="Example: python -m backends.torch push --adapter vec.safetensors --to me/film-reviews")
def push(
    adapter: Annotated[Path, typer.Option(help="The adapter's file.")],
    to: Annotated[
        str, typer.Option(metavar="ID", help="A repository, NAME/REPOSITORY; it is made where there is none.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="If the repository is made, it is open to you alone.")
    ] = False,
    card: Annotated[bool, typer.Option(help="Push its card too, vec.md beside the file, as README.md.")] = True,
    as_json: AsJson = False,
):
    """Upload an adapter's file and its card to a repository of the Hugging Face Hub.

    You have to be logged in there: hf auth login, or HF_TOKEN.
    """
    from ..using import hub

    report = hub.push(adapter, to, private, card)
    sizes = ", ".join(f"{name} of {size:,} bytes" for name, size in report["files"].items())
    print(json.dumps(report, indent=2) if as_json else printable(f"{to}: {sizes}"))


@app.command(epilog="Example: python -m backends.torch pull --from me/film-reviews -o vec.safetensors")
def pull(
    repository: Annotated[str, typer.Option("--from", metavar="ID", help="A repository, NAME/REPOSITORY.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The adapter's file, such as vec.safetensors.")],
    revision: Annotated[str | None, typer.Option(help="A branch, a tag or a commit.")] = None,
    file: Annotated[str, typer.Option(help="The file's name in the repository.")] = "unilora.safetensors",
    as_json: AsJson = False,
):
    """Download an adapter from a repository of the Hugging Face Hub, with its card; the file is checked as a whole
    before it is written."""
    from ..using import hub

    report = hub.pull(repository, output, revision, file)
    card = f", its card {report['card']}" if report["card"] else ""
    print(
        json.dumps(report, indent=2)
        if as_json
        else printable(f"{output}: {report['bytes']:,} bytes, θ of {report['d']:,} numbers for {report['base']}{card}")
    )
