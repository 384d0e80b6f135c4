"""Learns classes from the values of a column."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from unilora_spec import UniLoraError

from ..rows.labels import classes, is_as_if_missing, spelled
from ..rows.split import Source

FEW = 5  # names in a sentence
MANY = 50  # classes; with more, it is no matter of chance if each has one row alone


def learned(
    column: str,
    source: Source,
    held_out: Source | None,
    names_in: Callable[[str], Iterable[str]] = lambda value: (value,),
) -> tuple[list[str], dict[str, str]]:
    """(the classes of a column, the class of each name in it); ``names_in`` gives the names that one value holds.

    Where the data set itself names its classes, the values are their numbers. Raises ``UniLoraError`` for values that
    are no classes, for two spellings of one class, and for a class that is only in held-out data.
    """
    names = source.names(column)
    if held_out and names and held_out.names(column) not in (None, names):
        theirs, own = (", ".join(map(repr, each[:FEW])) for each in (held_out.names(column), names))
        raise UniLoraError(
            f"{held_out.name}: the classes of {column} are {theirs}, and those of {source.name} {own}; give rows that number the same classes"
        )
    first, others = (
        {name: row for value, row in reversed(each.first().items()) for name in names_in(value)} if each else {}
        for each in (source, held_out)
    )
    if names:
        named = {str(number): known for number, known in enumerate(names)}
    else:
        rows = {name: f"{row} of {held_out.name}" for name, row in others.items()} | first
        if wrong := spelled(rows):
            raise UniLoraError(f"{source.name}: {column} {wrong}")
        try:
            named = classes(first, others)
        except ValueError:
            raise UniLoraError(f"{source.name}: {column} holds numbers, not classes; use --task regression") from None
        names = list(dict.fromkeys(named.values()))
    if wrong := sorted(first.keys() - named.keys()):
        raise UniLoraError(
            f"{source.name}: {column} is {wrong[0]!r:.60} in {first[wrong[0]]}, and its classes have numbers below {len(names)}"
        )
    if wrong := sorted(others.keys() - named.keys()):
        raise UniLoraError(
            f"{held_out.name}: {column} has the value {wrong[0]!r:.60} in {others[wrong[0]]}, which {source.name} does not have; leave such rows out"
        )
    return names, named


class KnownClasses:
    """The classes of an adapter, in the form of a source of rows, for comparison with those of the source ``other``.

    ``by`` names the adapter. Raises ``UniLoraError`` where the data set itself names its classes, and differently.
    """

    def __init__(self, by: str, labels: Sequence[str], column: str, other: Source):
        self.name, self.labels, self.values, self._names = by, tuple(labels), {}, other.names(column)
        if self._names and set(self._names) != set(labels):
            theirs, own = (", ".join(map(repr, each[:FEW])) for each in (self._names, self.labels))
            raise UniLoraError(
                f"{other.name}: the classes of {column} are {theirs}, and those of {by} {own}; give rows of the adapter's classes"
            )

    def first(self) -> dict:
        """The classes, each with the place where it is found; empty where rows hold numbers of classes."""
        return {} if self._names else dict.fromkeys(self.labels, "its record")

    def names(self, column: str) -> list[str] | None:
        return self._names


def in_order(names: Sequence[str], base_labels: Sequence[str]) -> tuple[str, ...]:
    """The classes, in the order of the base's head where they are the same classes."""
    return tuple(base_labels) if set(names) == set(base_labels) else tuple(names)


def remarks(column: str, name: str, labels: Sequence[str], all_rows: Counter, train: Counter) -> list[str]:
    """Sentences on doubtful classes: names that look like missing values, classes that cannot be learned, and too many
    classes.

    ``all_rows`` and ``train`` count the rows of each class, of all and of those to train on.
    """
    said = [
        f"{name}: {column} {label!r:.60} is taken for the name of a class, of {all_rows[label]:,} rows; leave the cell empty where it means none"
        for label in labels
        if is_as_if_missing(label)
    ]
    if unknown := [label for label in labels if not train[label]]:
        more = f" and {len(unknown) - FEW:,} more" if len(unknown) > FEW else ""
        shown = ", ".join(f"{label!r:.60}" for label in unknown[:FEW])
        said.append(f"{name}: no row to train on is of {column} {shown}{more}, so that it cannot be learned")
    single = sum(count == 1 for count in all_rows.values())
    if single > MANY and single > all_rows.total() / 2:
        said.append(
            f"{name}: {single:,} of {len(all_rows):,} classes have one row each; is {column} the column of the labels?"
        )
    return said
