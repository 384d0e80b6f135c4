"""Classes, learned from the values of a column."""

from collections import Counter
from collections.abc import Mapping, Sequence

from unilora_spec import UniLoraError

from ..rows.labels import classes, is_as_if_missing, spelled

FEW = 5  # names that a sentence holds
MANY = 50  # classes, from which on each having one row alone is no matter of chance


def learned(
    column: str, name: str, first: Mapping[str, str], held_out: Mapping[str, str], names: Sequence[str] | None
) -> dict[str, str]:
    """The class's name of each value of a label, in the order of the classes.

    ``first`` and ``held_out`` say where each value is, of the rows of the source ``name`` and of held-out data of their own.
    ``names`` are those that a data set gives its classes; the values then are their numbers. Raises ``UniLoraError`` for what
    are no classes, for two spellings of one class, and for a class that is in held-out data alone.
    """
    if names:
        named = {str(number): known for number, known in enumerate(names)}
    else:
        if wrong := spelled({**held_out, **first}):
            raise UniLoraError(f"{name}: {column} {wrong}")
        try:
            named = classes(first, held_out)
        except ValueError:
            raise UniLoraError(f"{name}: {column} holds numbers, not classes; use --task regression") from None
    if strangers := sorted({*first, *held_out} - named.keys()):
        value = strangers[0]
        if value in first:
            raise UniLoraError(
                f"{name}: {column} is {value!r:.60} in {first[value]}, and its classes have numbers to {len(named) - 1}"
            )
        where = held_out[value].partition(" of ")
        raise UniLoraError(f"{where[2]}: {column} has the value {value!r:.60} in {where[0]}, which {name} has not")
    return named


def in_order(names: Sequence[str], base_labels: Sequence[str]) -> tuple[str, ...]:
    """The classes, in the order of the base's head where they are the base's own."""
    return tuple(base_labels) if set(names) == set(base_labels) else tuple(names)


def remarks(column: str, name: str, labels: Sequence[str], all_rows: Counter, train: Counter) -> list[str]:
    """What is worth a word of classes, a sentence each: names as if a value was missing, classes that cannot be learned, and too many.

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
