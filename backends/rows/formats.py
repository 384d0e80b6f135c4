"""Checks files of rows before a library reads them: pyarrow ends the process where JSON is nested 100,000 deep, and
pandas keeps a line of any length."""

import re
from pathlib import Path

import pyarrow
import pyarrow.parquet

from unilora_spec import UniLoraError
from unilora_spec.documents import MOST_DEPTH, size_of
from unilora_spec.nesting import Nesting

from .packing import ENDS

FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
PIECE = 2**20
MOST_LINE = 2**25  # bytes; a .json file may be one line
MOST_COLUMNS = 1000  # a reader of ten thousand takes minutes
# A JSON file of n bytes may have 16·n + 2^22 cells, rows times columns, where each row may have keys of its own.
CELLS = 16, 2**22
STRING = re.compile(rb'"((?:[^"\\]++|\\.)*+)"(\s*:)?', re.DOTALL)  # and what makes it a key
UNPACKED = 200, 2**26  # a Parquet file of n bytes may unfold to 200·n + 2^26 bytes


def format_of(name: str) -> str | None:
    """The format of a file, which may be compressed, by its name; None where it is none of ``FORMATS``.

    >>> format_of("reviews.csv.gz")
    'csv'
    """
    path = Path(name.lower())
    return FORMATS.get(Path(path.stem).suffix if path.suffix in ENDS else path.suffix)


def look_at(path: Path, form: str, name) -> None:
    """Raises ``UniLoraError`` for a file that is not of its format ``form``, or that would take a reader far more
    memory than its size.

    The file has to be uncompressed, and in UTF-8 where it is text. ``name`` is its name in messages.
    """
    size = size_of(path)
    if form == "parquet":
        _look_at_parquet(path, size, name)
    else:
        _look_at_text(path, form, size, name)


def _look_at_text(path, form, size, name):
    found, keys, first = Nesting(), set(), True
    for piece in _pieces(path, name):
        if first and form == "csv":
            line = piece.partition(b"\n")[0]
            _check_columns(name, 1 + max(map(line.count, (b",", b"\t", b";", b"|"))))
        first = False
        if form == "csv":
            continue
        found.feed(piece)
        if found.deepest > MOST_DEPTH:
            raise UniLoraError(
                f"{name}: lists are nested deeper than {MOST_DEPTH}, or never closed; give rows of texts and labels"
            )
        keys.update(text for text, colon in STRING.findall(piece) if colon)
        _check_columns(name, len(keys))
        if found.opened * len(keys) > CELLS[0] * size + CELLS[1]:
            raise UniLoraError(
                f"{name} has {len(keys)} columns, nearly all of them empty in each row; give rows of like columns"
            )


def _pieces(path, name):
    """Yields a file in pieces of whole lines. Raises ``UniLoraError`` for a line of more than ``MOST_LINE`` bytes."""
    parts, length = [], 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            end = piece.rfind(b"\n") + 1
            length += end or len(piece)
            if length > MOST_LINE:
                raise UniLoraError(
                    f"{name} has a line of more than {MOST_LINE:,} bytes; give a file with a line for each row"
                )
            if end:
                yield b"".join([*parts, piece[:end]])
                parts, length = [], len(piece) - end
                piece = piece[end:]
            parts.append(piece)
    if length:
        yield b"".join(parts)


def _check_columns(name, count):
    if count > MOST_COLUMNS:
        raise UniLoraError(f"{name} has {count:,} columns; {MOST_COLUMNS:,} is the most: leave others out")


def _look_at_parquet(path, size, name):
    times, plus = UNPACKED
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            found = file.metadata
            _check_columns(name, found.num_columns)
            rows = found.num_rows
            unpacked = sum(max(0, found.row_group(i).total_byte_size) for i in range(found.num_row_groups))
            if rows * unpacked > times * size + plus >= unpacked:  # each row may be one entry of a dictionary
                unpacked = 0
                for batch in file.iter_batches(256):
                    unpacked += batch.nbytes
                    if unpacked > times * size + plus:
                        break
    except UniLoraError:
        raise
    except Exception as error:  # pyarrow's and Python's, of many kinds
        raise UniLoraError(
            f"{name}: this is no Parquet file, or a damaged one: {str(error).splitlines()[0]:.200}"
        ) from error
    if unpacked > times * size + plus:
        raise UniLoraError(
            f"{name} has {size:,} bytes and would unfold to more than {times * size + plus:,}; give another file"
        )
