"""Splits the rows of a source into rows for training and held-out rows."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import datasets

from unilora_spec import UniLoraError

from ..settings import DataSettings
from .reading import read
from .refusals import LeftOut, WrongCell


@dataclass
class Data:
    """Rows to train on and held-out rows (None where there are none), with the columns of their source.

    ``dropped``  the number of rows that were left out, by what they lacked
    ``said``     sentences for the user on how the rows were read and what is doubtful about them
    """

    train: datasets.Dataset
    held_out: datasets.Dataset | None
    dropped: Counter
    said: tuple[str, ...] = ()


def load(settings: DataSettings, task, learn: Callable) -> Data:
    """Reads, checks and splits the rows that ``settings`` name, for a task (``tasks.Task``); ``learn`` takes its
    classes from the sources.

    Raises ``UniLoraError`` with the source's name and what to do.
    """
    source = Source(settings.data, settings, task)
    held_out, other, dropped = None, None, source.dropped
    train = {row: share for row, share in source.shares.items() if settings.eval or share >= settings.holdout}
    if settings.eval:
        other = Source(settings.eval, settings, task)
        held_out, dropped = other.rows.select(list(other.shares)), dropped + other.dropped
    elif settings.holdout:
        held_out = source.rows.select([row for row in source.shares if row not in train])
    if settings.limit:  # by share, as files are often sorted by label
        train = sorted(sorted(train, key=train.get)[: settings.limit])
    if not train or (held_out is not None and not len(held_out)):
        raise UniLoraError(
            f"{settings.data}: of {len(source.shares)} rows {len(train)} are to train on and "
            f"{0 if held_out is None else len(held_out)} held out; give more rows or another --holdout"
        )
    learn(source, other)
    train = list(train)
    said = *source.said, *(other.said if other else ()), *task.remarks(source, train)
    return Data(source.rows.select(train), held_out, dropped, said)


def share(texts) -> float:
    """A number in [0, 1) for a row's texts: the first 8 bytes of the SHA-256 of their UTF-8, as a big-endian number,
    over 2^64.

    A row is held out where this is below ``--holdout``. The texts of a pair are joined by a line feed.

    >>> round(share(["a fine film"]), 6)
    0.729596
    """
    digest = hashlib.sha256("\n".join(texts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclass
class Source:
    """The usable rows of a source: ``shares`` has the ``share`` of each and ``values`` the values of its label, by the
    row's number, counted from 0.

    ``said``  sentences for the user on how the source was read, where that is unusual
    """

    name: str
    settings: DataSettings
    task: object
    shares: dict[int, float] = field(default_factory=dict)
    values: dict[int, tuple] = field(default_factory=dict)
    dropped: Counter = field(default_factory=Counter)

    def __post_init__(self):
        found = read(self.name, self.settings.separator, self.settings.encoding)
        self.rows, self.is_text, self.said = found.rows, found.is_text, found.said
        where, there = self.settings.where, self.rows.column_names
        try:
            needed = [*self.task.columns(there), *([where[0]] if where else [])]
        except UniLoraError as error:
            raise error.within(self.name) from None
        for column in needed:
            if column not in there:
                raise UniLoraError(f"{self.name}: there is no column {column!r}; {self._instead(there)}")
        self.rows, others = self.task.as_read(self.rows, self.name), Counter()
        for number, row in enumerate(self.rows.select_columns(list(dict.fromkeys(needed)))):
            if where and str(row[where[0]]) != where[1]:
                others[str(row[where[0]])] += 1
                continue
            try:
                texts, values = self.task.look(row, self)
            except LeftOut as lacking:
                self.dropped[str(lacking)] += 1
                continue
            except WrongCell as wrong:
                raise UniLoraError(f"{self.name}: {wrong.column} of row {number + 1} {wrong.what}") from None
            except UniLoraError as error:
                raise error.within(f"{self.name}: row {number + 1}") from None
            self.shares[number], self.values[number] = share(texts), values
        if not self.shares:
            raise UniLoraError(f"{self.name}: {self._why_none(others)}")

    def first(self) -> dict:
        """The first row of each value of the label, such as "row 3". Rows are counted from 1, without a header."""
        return {value: f"row {row + 1}" for row in reversed(self.values) for value in self.values[row]}

    def names(self, column: str) -> list[str] | None:
        """The names of a column's classes, where the data set has them."""
        found = self.rows.features[column]
        return getattr(getattr(found, "feature", found), "names", None)

    def _instead(self, there):
        columns = ", ".join(map(repr, there[:20])) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
        hint = self.task.hint(there)
        if self.is_text:
            hint = hint or "where its first line is a row, put a line with the columns' names above it"
        return f"its columns are {columns}" + (f"; {hint}" if hint else "")

    def _why_none(self, others):
        if others and not self.dropped:
            close = ", ".join(value for value, _ in others.most_common(5))
            return f"no row has {'='.join(self.settings.where)}; values there are {close}"
        if not self.dropped:
            return "there are no rows"
        return "no row can be used: " + without(self.dropped)


def without(dropped: Counter) -> str:
    """The numbers of rows that were left out, and why, as text.

    >>> without(Counter({"label": 2, "text": 1}))
    '2 have no label, 1 has no text'
    """
    return ", ".join(f"{count:,} {'has' if count == 1 else 'have'} no {what}" for what, count in dropped.most_common())
