"""Checks the place of a command's output."""

import os
from collections.abc import Mapping
from pathlib import Path

from unilora_spec import UniLoraError
from unilora_spec.places import check_output


def check_place(output: Path, option: str, read: Mapping[str, object]) -> None:
    """Raises ``UniLoraError`` unless a file can be written to ``output``, the value of ``option``: its folder exists
    and can be written to, and the call reads nothing that is in its place. ``read`` has the files and folders that the
    call reads, by option; None stands for none."""
    parent = output.parent
    if not parent.is_dir():
        raise UniLoraError(f"{option}: there is no folder {parent}; make it first")
    try:
        check_output(output)
    except UniLoraError as error:
        raise error.within(option) from None
    if not os.access(parent, os.W_OK):
        raise UniLoraError(f"{option}: the folder {parent} cannot be written to; give another one")
    if output.exists():
        for name, source in read.items():
            if source and os.path.realpath(source) in (os.path.realpath(output), os.path.realpath(parent)):
                raise UniLoraError(f"{option}: {output} is there, in what {name} reads; give another file")
