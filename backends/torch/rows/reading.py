"""The rows of a file or of a data set."""

from pathlib import Path

import datasets
import pandas

from unilora_spec import UniLoraError

from .formats import FORMATS, look_at


def read(source: str) -> datasets.Dataset:
    """The rows of a file, or of a data set's id or folder, given as ID, ID:SPLIT or ID:CONFIGURATION:SPLIT.

    Raises ``UniLoraError`` where there is none, or none that can be read.
    """
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix in FORMATS:
        look_at(path)
    elif "\0" not in source and path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in FORMATS:
                look_at(file)
    elif "\0" not in source and path.exists():
        raise UniLoraError(f"{source}: a data file's name must end in one of {', '.join(FORMATS)}")
    try:
        if suffix in FORMATS:
            options = _all_text(path, suffix) if is_text(source) else {}
            return datasets.load_dataset(FORMATS[suffix], data_files=str(path), split="train", **options)
        name, *rest = source.split(":", 2)
        return datasets.load_dataset(name, *rest[:-1], split=rest[-1] if rest else "train")
    except Exception as error:  # datasets lets the errors of every reader beneath it through
        what = "this could not be read" if suffix in FORMATS else "no such file, nor a data set that can be loaded here"
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise UniLoraError(f"{source}: {what}: {reason}") from error


def is_text(source: str) -> bool:
    """Whether the cells of a source are texts all, as those of a .csv file are."""
    return FORMATS.get(Path(source).suffix.lower()) == "csv"


def _all_text(path, suffix):
    """All columns as text: the sentence "null" stays one, and no type depends on what the first rows look like."""
    separator = "\t" if suffix == ".tsv" else ","
    columns = pandas.read_csv(path, sep=separator, nrows=0).columns
    features = datasets.Features({str(column): datasets.Value("string") for column in columns})
    return {"sep": separator, "keep_default_na": False, "features": features}
