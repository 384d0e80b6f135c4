"""Writes tables: CSV, TSV, or JSON with an object in each line."""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import datasets

from unilora_spec.placing import replacing

SEPARATORS = {".csv": ",", ".tsv": "\t"}


def write_table(output: Path, columns: Sequence[str], rows: Iterable[dict]) -> None:
    """Writes ``rows`` to ``output`` in UTF-8, whole or not at all, in the form that the end of its name says. A row may
    lack columns.

    In CSV and TSV lists and objects are written as JSON, and a missing value is an empty cell. Raises ``WorkFailed`` where the disk
    refuses.
    """
    suffix = output.suffix.lower()
    with replacing(output) as path, path.open("w", encoding="utf-8", newline="") as file:
        if suffix == ".jsonl":
            for row in rows:
                file.write(
                    json.dumps({name: row[name] for name in columns if name in row}, ensure_ascii=False, default=str)
                    + "\n"
                )
            return
        table = csv.writer(file, delimiter=SEPARATORS[suffix], lineterminator="\n")
        table.writerow(columns)
        table.writerows([_cell(row.get(name)) for name in columns] for row in rows)


def as_given(rows: datasets.Dataset) -> Iterator[dict]:
    """Yields rows as a table holds them: classes by their names, and images as ``shown`` has them."""
    names = {}
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
        elif isinstance(feature, datasets.ClassLabel):
            names[name] = feature.names
    for row in rows:
        for name, known in names.items():
            if row[name] is not None and row[name] >= 0:
                row[name] = known[row[name]]
        yield {name: shown(cell) for name, cell in row.items()}


def shown(cell):
    """A cell as a table holds it: for an image the path of its file, or else the SHA-256 of its bytes in hexadecimal
    digits."""
    if not isinstance(cell, Mapping) or set(cell) != {"bytes", "path"}:
        return cell
    return cell["path"] or (cell["bytes"] and hashlib.sha256(cell["bytes"]).hexdigest())


def _cell(value):
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


def rounded(number: float) -> float:
    """A float32 with six significant digits."""
    return float(f"{number:.6g}")
