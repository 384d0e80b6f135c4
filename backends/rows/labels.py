"""Reads the cells of a column of labels, which may hold no label, one or several, and finds the classes of the
labels."""

import ast
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation

from .refusals import WrongCell

# The texts that pandas and so `datasets` read as a missing value in a file whose cells are all text. In typed cells,
# null and NaN are missing.
MISSING = {
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN",
    "None", "n/a", "nan", "null",
}  # fmt: skip
_AS_IF_MISSING = {text.casefold() for text in MISSING}
_LIST = re.compile(r"""\[\s*(["']|[-+.]?\d).*\]|\[\s*\]""", re.DOTALL)  # as Python and JSON write one
# Zero-width space, word joiner, byte order mark, soft hyphen, marks of direction: they are invisible, and no word needs
# them.
_UNSEEN = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad\u200e\u200f"))
_ALIKE = str.maketrans("‘’‚‛´`“”„‟‐‑‒–—−", "''''''\"\"\"\"------")


def value_of(cell) -> str:
    """A label as text: without blanks around it and without invisible characters, with one space for blanks within, in
    Unicode's composed form (NFC).

    >>> value_of("\\u00a0very \\u200bgood "), value_of("cafe\\u0301") == value_of("caf\\u00e9"), value_of(True)
    ('very good', True, 'True')
    """
    text = str(cell)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text).translate(_UNSEEN)
    return " ".join(text.split())


def is_missing(cell, is_text: bool) -> bool:
    """Whether a cell holds no label. ``is_text`` says whether it is from a file whose cells are all text, such as a
    .csv."""
    nan = isinstance(cell, float) and math.isnan(cell)
    return cell is None or nan or value_of(cell) in (MISSING if is_text else {""})


def is_as_if_missing(value: str) -> bool:
    """Whether the name of a class looks like a missing value.

    >>> is_as_if_missing("none"), is_as_if_missing("no")
    (True, False)
    """
    return value.casefold() in _AS_IF_MISSING


def is_several(cell) -> bool:
    """Whether a cell is a list or an object, or the text of a list."""
    return isinstance(cell, list | tuple | dict | set | bytes) or bool(_LIST.fullmatch(value_of(cell)))


def labels_in(cell, column: str) -> tuple[str, ...] | str:
    """The labels in a cell that holds a list or the text of one; of any other cell its text, which may have several
    labels in it.

    Raises ``WrongCell`` for lists in lists and for objects.

    >>> labels_in(["a", " b", "a"], "label"), labels_in("[0 1 1]", "label"), labels_in("a;b", "label")
    (('a', 'b', 'a'), ('0', '1', '1'), 'a;b')
    """
    if isinstance(cell, str) and is_several(cell):
        cell = _parsed(cell.strip())
    if not isinstance(cell, list | tuple | dict | set | bytes):
        return value_of(cell)
    if not isinstance(cell, list | tuple) or any(is_several(each) for each in cell):
        raise WrongCell(column, f"is {str(cell)!r:.60}; give a list of names, or of a 0 or 1 for each class")
    return tuple(value for each in cell if each is not None and (value := value_of(each)))


def _parsed(text) -> list:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            pass
    return text[1:-1].split()  # as NumPy writes one


def is_number(text: str) -> bool:
    """Whether a label is a finite number."""
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


def alike(values: Iterable[str]) -> tuple[str, str] | None:
    """Two of ``values`` that are probably one class written in two ways, or None: they differ only in upper and lower
    case, in the form of quotes, dashes or letters (Unicode's NFKC), or as 7 and 007 do. Where all are numbers, 1.0 is 1
    (``classes``).

    >>> alike(["pos", "neg", "Pos"]), alike(["1", "1.0"]), alike(["7", "007"]), alike(["it's", "it’s"])
    (('pos', 'Pos'), None, ('7', '007'), ("it's", 'it’s'))
    """
    values, seen = list(values), {}
    whole_only = all(map(is_number, values))
    for value in values:
        if whole_only and not _is_whole(value):
            continue
        if (other := seen.setdefault(_alike(value), value)) != value:
            return other, value
    return None


def _alike(value):
    if is_number(value):
        return _exact(value)
    text = unicodedata.normalize("NFKC", value).casefold().translate(_ALIKE)
    return "".join(character for character in text if unicodedata.category(character) != "Cf")


def _is_whole(text):
    return re.fullmatch(r"[-+]?[0-9]+", text)


def _exact(text):
    try:
        return Decimal(text)
    except InvalidOperation:
        return Decimal(float(text))


def classes(values: Iterable[str], others: Iterable[str] = ()) -> dict[str, str]:
    """The name of the class of each of ``values``, in the order of the classes: as numbers if all are numbers, else as
    texts. After them come the ``others`` that belong to one of these classes.

    A number is one class however it is written, so that 1.0 is the class 1: many libraries make floats of a column of
    whole numbers in which some are missing. Raises ``ValueError`` for numbers that are not whole.
    """
    if not all(map(is_number, values)):
        return {value: value for value in sorted(values)}
    exact = {value: _exact(value) for value in values}
    if any(number != int(number) for number in exact.values()):
        raise ValueError("numbers that are not whole")
    ordered = sorted(values, key=lambda value: (exact[value], not _is_whole(value), value))
    numbers: dict = {}
    named = {
        value: numbers.setdefault(exact[value], value if _is_whole(value) else str(int(exact[value])))
        for value in ordered
    }
    same = {value: numbers[_exact(value)] for value in others if is_number(value) and _exact(value) in numbers}
    return named | {value: name for value, name in same.items() if value not in named}


def spelled(first: Mapping[str, str]) -> str | None:
    """What is wrong where two values are probably one class, as the rest of a sentence; None otherwise. ``first`` says
    where each value is, such as "row 3"."""
    found = alike(first)
    if not found:
        return None
    one, other = found
    return f"is {one!r:.60} in {first[one]} and {other!r:.60} in {first[other]}; write one class one way, and give two classes names that differ by more"
