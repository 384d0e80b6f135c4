"""Reads the rows of a file or of a data set."""

import codecs
import json
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets

from unilora_spec import UniLoraError

from ..settings.options import SEPARATORS
from . import encodings
from .formats import FORMATS, format_of, look_at
from .packing import ENDS, kind_of, unfold
from .tables import read_table, separator_of


@dataclass(frozen=True)
class Read:
    """The rows of a source.

    ``is_text``  whether all cells are texts, as in a .csv file
    ``said``     sentences for the user on how it was read, where that is unusual
    """

    rows: datasets.Dataset
    is_text: bool = False
    said: tuple[str, ...] = ()


def read(source: str, separator: str | None = None, encoding: str | None = None) -> Read:
    """The rows of a file, or of a data set's id or folder, given as ID, ID:SPLIT or ID:CONFIGURATION:SPLIT.

    ``separator`` and ``encoding`` are found where they are None. Raises ``UniLoraError`` where there is no such source,
    or it cannot be read.
    """
    path = Path(source)
    if format_of(path.name) or path.suffix.lower() == ".zip":
        with TemporaryDirectory(prefix="unilora-") as folder:
            return _read_file(path, Path(folder), separator, encoding)
    name, *rest = re.split(r":(?![^\[]*\])", source, maxsplit=2)  # a split may be train[:1000]
    is_folder = "\0" not in source and Path(name).is_dir()
    if not is_folder and "\0" not in source and path.exists():
        raise UniLoraError(
            f"{source}: a data file's name must end in one of {', '.join(FORMATS)}, or in that and one of {', '.join(ENDS)}"
        )
    if is_folder:
        _look_at_folder(Path(name))
    return Read(_loaded(source, None, name, *rest[:-1], split=rest[-1] if rest else "train"))


def _read_file(path, folder, separator, encoding) -> Read:
    plain, form, said = _unpacked(path, folder)
    if form != "parquet":
        plain, found = _in_utf8(plain, folder, encoding, path)
        if encoding is None and found == encodings.WESTERN:
            said.append(f"it is read as {found}, such as {encodings.example(plain)!r}; --encoding says otherwise")
        elif encoding is None and found not in ("utf-8", "utf-8-sig"):
            said.append(f"it is read as {found}")
    if not plain.stat().st_size:
        raise UniLoraError(f"{path}: it is empty; give a file with rows")
    look_at(plain, form, path)
    if form == "csv":
        usual = "\t" if path.name.lower().endswith((".tsv", *(f".tsv{end}" for end in ENDS))) else ","
        found = separator or separator_of(plain, path, usual)
        word = next((word for word, each in SEPARATORS.items() if each == found), repr(found))
        said += [f"its separator is the {word}"] * (found != usual and separator is None)
        rows = datasets.Dataset(read_table(plain, found, path))
    elif plain == path:
        rows = _loaded(path, plain, form, data_files=str(path), split="train")
    else:  # what ``datasets`` makes of a copy is removed with it
        rows = _loaded(
            path, plain, form, data_files=str(plain), split="train", cache_dir=str(folder), keep_in_memory=True
        )
    return Read(rows, form == "csv", tuple(f"{path}: {how}" for how in said))


def _unpacked(path, folder) -> tuple[Path, str, list[str]]:
    """(a plain file with the content of ``path``, its format, sentences on how it was unpacked)."""
    kind = kind_of(path)
    if kind is None:
        return path, format_of(path.name), []
    plain = folder / "unfolded"
    name = unfold(path, kind, plain)
    form = format_of(name)
    if form is None:
        raise UniLoraError(f"{path} holds {name!r:.80}; the name of a data file ends in one of {', '.join(FORMATS)}")
    if kind_of(plain):
        raise UniLoraError(f"{path} is an archive in another one; unpack it, and give the file that is in it")
    return plain, form, [f"it is unpacked, {kind}"] if path.suffix.lower() not in ENDS else []


def _in_utf8(plain, folder, encoding, name) -> tuple[Path, str]:
    found = encoding or encodings.encoding_of(plain, name)
    if encoding or found != "utf-8":
        encodings.check(plain, found, name)
    if codecs.lookup(found).name == "utf-8":
        return plain, found
    target = folder / "text"
    encodings.to_utf8(plain, found, target)
    return target, found


def _look_at_folder(path):
    for file in sorted(path.rglob("*")):
        if file.is_file() and (format_of(file.name) or file.suffix.lower() == ".zip"):
            with TemporaryDirectory(prefix="unilora-") as folder:
                plain, form, _ = _unpacked(file, Path(folder))
                look_at(plain, form, file)


def _loaded(source, plain, *arguments, **options) -> datasets.Dataset:
    """The data set that ``datasets`` loads with ``arguments``; ``plain`` is the file that it reads, or None for another
    source."""
    try:
        return datasets.load_dataset(*arguments, **options)
    except Exception as error:  # datasets passes on the errors of all libraries that it reads with
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        what = "no such file, nor a data set that can be loaded here"
        if plain is not None:
            what, reason = "this could not be read", (arguments[0] == "json" and _wrong_json(plain)) or reason
        raise UniLoraError(f"{source}: {what}: {reason}") from error


def _wrong_json(path) -> str | None:
    """The line of the first invalid JSON, and what is wrong; None where all is valid. pyarrow would count rows from 0,
    anew in each block."""
    with path.open(encoding="utf-8") as file:
        if file.read(1) == "[":
            file.seek(0)
            return _wrong(file.read(), 1)
        file.seek(0)
        return next(
            (wrong for number, line in enumerate(file, 1) if line.strip() and (wrong := _wrong(line, number))), None
        )


def _wrong(text, line) -> str | None:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return f"line {line + error.lineno - 1}: {error.msg}"
