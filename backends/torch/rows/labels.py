"""What the cells of a column of labels say: nothing, one label, or several; and the classes that the labels are."""

import math
import re
from collections.abc import Iterable

from unilora_spec import UniLoraError

# What pandas and so `datasets` read as a missing value in a file whose cells are all text. Where cells have types, null and NaN are.
MISSING = {
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN",
    "None", "n/a", "nan", "null",
}  # fmt: skip
_LIST = re.compile(r"""\[\s*(["']|[-+.]?\d).*\]|\[\s*\]""", re.DOTALL)  # as Python and JSON write one


def value_of(cell) -> str:
    """A label as text, without blanks around it."""
    return str(cell).strip()


def is_missing(cell, is_text: bool) -> bool:
    """Whether a cell holds no label. ``is_text``: it is of a file whose cells are all text, as a .csv is."""
    nan = isinstance(cell, float) and math.isnan(cell)
    return cell is None or nan or value_of(cell) in (MISSING if is_text else {""})


def check_one(cell, column: str, row: int, source: str) -> None:
    """Raises ``UniLoraError`` for a cell that holds several labels, or an object. Rows are counted from 1, without a header."""
    if isinstance(cell, list | tuple | dict | set | bytes) or _LIST.fullmatch(value_of(cell)):
        raise UniLoraError(
            f"{source}: {column} of row {row} is {str(cell)!r:.60}, and one label is learned for each text; give a column with one label,"
            ' or train several from Python: attach to a model with problem_type="multi_label_classification"'
        )


def is_number(text: str) -> bool:
    """Whether a label is a finite number."""
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


def classes(values: Iterable[str], others: Iterable[str] = ()) -> dict[str, str]:
    """The name of the class of each of ``values``, in the order of the classes: as numbers where all are, else as texts. Behind them
    those of ``others`` that are one of these classes.

    A number is one class however it is written, so that 1.0 is the class 1: a column of whole numbers in which some are missing
    is one of floats to many libraries. Raises ``ValueError`` for numbers that are not whole.
    """
    if not all(map(is_number, values)):
        return {value: value for value in sorted(values)}
    if not all(float(value).is_integer() for value in values):
        raise ValueError("numbers that are not whole")
    ordered = sorted(values, key=lambda value: (float(value), value))
    named = {value: value if re.fullmatch(r"[-+]?[0-9]+", value) else str(int(float(value))) for value in ordered}
    numbers = {float(value): name for value, name in named.items()}
    same = {value: numbers[float(value)] for value in others if is_number(value) and float(value) in numbers}
    return named | {value: name for value, name in same.items() if value not in named}
