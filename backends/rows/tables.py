"""Reads a table of text, CSV or TSV: finds its separator, and gives all cells as texts."""

import csv
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow

from unilora_spec import UniLoraError

from ..settings.options import SEPARATORS

LOOKED_AT = 100  # records that must have as many cells as the header with the right separator
BATCH = 10_000  # rows
MOST_CELL = 2**25  # characters


def separator_of(path: Path, name, usual: str) -> str:
    """The separator with which each of the first records has as many cells as the header, and more than one; ``usual``
    where there is none.

    Raises ``UniLoraError`` where more than one separator fits.
    """
    plausible = [separator for separator in SEPARATORS.values() if _is_even(path, separator)]
    if len(plausible) > 1:
        headers = {
            word: next(_records(path, separator, name))[1]
            for word, separator in SEPARATORS.items()
            if separator in plausible
        }
        columns = " or ".join(f"{word} ({', '.join(header)})" for word, header in headers.items())
        raise UniLoraError(f"{name}: more than one separator fits its columns: {columns:.300}; give --separator")
    return plausible[0] if plausible else usual


def _is_even(path, separator) -> bool:
    with path.open(encoding="utf-8", newline="") as file, _long_cells():
        try:
            records = csv.reader(file, delimiter=separator)
            widths = {len(record) for _, record in zip(range(LOOKED_AT), records) if record}
        except csv.Error:
            return False
    return len(widths) == 1 and widths.pop() > 1


def read_table(path: Path, separator: str, name) -> pyarrow.Table:
    """The rows of a file in UTF-8, without columns that have no name. A row with too few cells is filled up with empty
    ones.

    Raises ``UniLoraError`` with the line of what is wrong. ``name`` is the file's name in messages.
    """
    records = _records(path, separator, name)
    first = next(records, None)
    if first is None:
        raise UniLoraError(
            f"{name}: there are no rows; give a file with a line of column names and a line for each row"
        )
    header = [cell.strip() for cell in first[1]]
    for column, count in Counter(header).items():
        if column and count > 1:
            raise UniLoraError(
                f"{name}: its first line has the column {column!r:.80} {count} times; give each a name of its own"
            )
    named = {column: place for place, column in enumerate(header) if column}
    schema = pyarrow.schema([(column, pyarrow.string()) for column in named])
    batches, columns = [], {column: [] for column in named}
    for number, (line, record) in enumerate(records, 1):
        if any(cell.strip() for cell in record[len(header) :]):
            raise UniLoraError(
                f"{name}: line {line} has {len(record)} cells and the header {len(header)}; put quotes around a text that holds "
                f"{_word(separator)}, or give another --separator"
            )
        record += [""] * (len(header) - len(record))
        for column, place in named.items():
            columns[column].append(record[place])
        if number % BATCH == 0:
            batches.append(pyarrow.record_batch(columns, schema))
            columns = {column: [] for column in named}
    return pyarrow.Table.from_batches([*batches, pyarrow.record_batch(columns, schema)], schema)


def _records(path, separator, name) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of the last line, cells) of the header and of each row. Raises ``UniLoraError`` for broken quotes.

    An empty line is no row. A line of blanks is a row where the table has one column, and a line of "" in quotes is a
    row in every table.
    """
    with path.open(encoding="utf-8", newline="") as file, _long_cells():
        records, last, width = csv.reader(file, delimiter=separator, strict=True), 0, None
        try:
            for record in records:
                blank = len(record) == 1 and not record[0].strip()
                if record and (not blank or width == 1 or (width and record == [""])):
                    width = width or len(record)
                    yield records.line_num, record
                last = records.line_num
        except csv.Error as error:
            reason = "a quote is opened and never closed" if "end of data" in str(error) else str(error)
            raise UniLoraError(
                f"{name}: the row that begins in line {last + 1} could not be read: {reason}; write a quote within quotes twice"
            ) from None


@contextmanager
def _long_cells():
    before = csv.field_size_limit(MOST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _word(separator) -> str:
    return next((f"a {word}" for word, each in SEPARATORS.items() if each == separator), repr(separator))
