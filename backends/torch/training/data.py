"""From a file or a data set to rows for training and rows held out, and from rows to batches."""

import hashlib
import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import pandas
import torch
from torch.utils.data import DataLoader, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from unilora_spec import UniLoraError

from ..settings import TEXTS, PlanSettings
from .labels import check_one, classes, is_missing, is_number, value_of
from .progress import counted
from .rows import FORMATS, look_at


@dataclass
class Data:
    """Rows to train on and rows held out (None: there are none), with the columns of their source.

    ``labels``   the classes' names in the order of their numbers; None for tasks without classes
    ``numbers``  the class number of each label value, the value as text
    ``dropped``  how many rows had an empty text or no label
    """

    train: datasets.Dataset
    held_out: datasets.Dataset | None
    labels: tuple[str, ...] | None
    numbers: dict[str, int]
    dropped: int


def load(settings: PlanSettings, base_labels=()) -> Data:
    """Reads, checks and splits what ``settings`` name; classes that are the base's own keep the base's order.

    Raises ``UniLoraError`` with the source's name and the mend.
    """
    source = _Source(settings.data, settings)
    held_out, dropped, values = None, source.dropped, set(source.values)
    train = {row: share for row, share in source.shares.items() if settings.eval or share >= settings.holdout}
    if settings.eval:
        other = _Source(settings.eval, settings)
        held_out, dropped = other.rows.select(list(other.shares)), dropped + other.dropped
        values |= set(other.values)
    elif settings.holdout:
        held_out = source.rows.select([row for row in source.shares if row not in train])
    if held_out:
        held_out = _longest_first(held_out, settings.text)
    if settings.limit:  # by share, as files are often sorted by label
        train = sorted(sorted(train, key=train.get)[: settings.limit])
    if not train or (held_out is not None and not len(held_out)):
        raise UniLoraError(
            f"{settings.data}: of {len(source.shares)} rows {len(train)} are to train on and "
            f"{0 if held_out is None else len(held_out)} held out; give more rows or another --holdout"
        )
    labels, numbers = None, {}
    if settings.task == "classification":
        labels, numbers = source.classes(values, base_labels)
    return Data(source.rows.select(list(train)), held_out, labels, numbers, dropped)


def _longest_first(rows, columns):
    """Rows of like length together: half the padding, so half the time; and what does not fit in memory fails at once."""
    lengths = text_lengths(rows, columns)
    return rows.select(sorted(range(len(rows)), key=lambda row: -lengths[row]))


def text_lengths(rows: datasets.Dataset, columns) -> list[int]:
    """The characters of each row's text, or of both texts of a pair: near enough to tokens to sort by."""
    return [sum(map(len, texts)) for texts in zip(*(rows[column] for column in columns))]


class LikeLengths(Sampler):
    """All rows in a random order in which the texts of one batch are of like length: half the padding, so half the time.

    The order follows from ``seed`` and the epoch alone, so that a resumed run sees what it would have seen.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer when an epoch begins."""
        self.epoch = epoch

    def __len__(self):
        return len(self.lengths)

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        rows = get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)
        full = len(rows) // self.batch_size  # a last batch of fewer rows stays the last
        for batch in torch.randperm(full, generator=generator).tolist():
            yield from rows[batch * self.batch_size : (batch + 1) * self.batch_size]
        yield from rows[full * self.batch_size :]


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
            options = _all_text(path, suffix) if FORMATS[suffix] == "csv" else {}
            return datasets.load_dataset(FORMATS[suffix], data_files=str(path), split="train", **options)
        name, *rest = source.split(":", 2)
        return datasets.load_dataset(name, *rest[:-1], split=rest[-1] if rest else "train")
    except Exception as error:  # datasets lets the errors of every reader beneath it through
        what = "this could not be read" if suffix in FORMATS else "no such file, nor a data set that can be loaded here"
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise UniLoraError(f"{source}: {what}: {reason}") from error


def _all_text(path, suffix):
    """All columns as text: the sentence "null" stays one, and no type depends on what the first rows look like."""
    separator = "\t" if suffix == ".tsv" else ","
    columns = pandas.read_csv(path, sep=separator, nrows=0).columns
    features = datasets.Features({str(column): datasets.Value("string") for column in columns})
    return {"sep": separator, "keep_default_na": False, "features": features}


def share(texts) -> float:
    """Where texts fall in [0, 1]: the first 8 bytes of the SHA-256 of their UTF-8, as a big-endian number, over 2^64.

    A row is held out where this is below ``--holdout``. The texts of a pair are joined by a line feed.

    >>> round(share(["a fine film"]), 6)
    0.729596
    """
    digest = hashlib.sha256("\n".join(texts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclass
class _Source:
    """A source's usable rows: the share of each by its number, and the label values that occur among them."""

    name: str
    settings: PlanSettings
    shares: dict[int, float] = field(default_factory=dict)
    values: Counter = field(default_factory=Counter)
    dropped: int = 0

    def __post_init__(self):
        self.rows = read(self.name)
        texts, where = self.settings.text, self.settings.where
        label = None if self.settings.task == "causal-lm" else self.settings.label
        needed = [*texts, *([label] if label else []), *([where[0]] if where else [])]
        for column in needed:
            if column not in self.rows.column_names:
                there = ", ".join(self.rows.column_names)
                raise UniLoraError(f"{self.name}: there is no column {column!r}; its columns are {there}")
        others = Counter()
        for number, row in enumerate(self.rows.select_columns(list(dict.fromkeys(needed)))):
            if where and str(row[where[0]]) != where[1]:
                others[str(row[where[0]])] += 1
                continue
            words = [row[text] for text in texts]
            if not all(isinstance(word, str) and word.strip() for word in words) or (label and self._empty(row[label])):
                self.dropped += 1
                continue
            self.shares[number] = share(words)
            if label:
                check_one(row[label], label, number + 1, self.name)
                self.values[value_of(row[label])] += 1
        if not self.shares:
            raise UniLoraError(f"{self.name}: {self._why_none(others)}")
        if self.settings.task == "regression":
            for value in self.values:
                if not is_number(value):
                    raise UniLoraError(f"{self.name}: {label} has the value {value!r}; regression needs numbers")

    def _names(self):
        return getattr(self.rows.features[self.settings.label], "names", None)

    def _empty(self, value):
        unlabelled = value == -1 and self._names()  # as the test splits of the Hub have it
        return unlabelled or is_missing(value, FORMATS.get(Path(self.name).suffix.lower()) == "csv")

    def _why_none(self, others):
        if others and not self.dropped:
            close = ", ".join(value for value, _ in others.most_common(5))
            return f"no row has {'='.join(self.settings.where)}; values there are {close}"
        return f"no row has both a text and a label ({self.dropped} are empty)" if self.dropped else "there are no rows"

    def classes(self, values, base_labels) -> tuple[tuple[str, ...], dict[str, int]]:
        """The classes' names in order, and the number of each of ``values``: those of this source and of one held out beside it.

        Raises ``UniLoraError`` for a value that is none of this source's classes.
        """
        column, names = self.settings.label, self._names()
        if names:
            named = {str(number): name for number, name in enumerate(names)}
        else:
            try:
                named = classes(self.values, values)
            except ValueError as error:
                raise UniLoraError(
                    f"{self.name}: {column} holds numbers, not classes; use --task regression"
                ) from error
            names = list(dict.fromkeys(named.values()))
        if strangers := sorted(values - named.keys()):
            raise UniLoraError(
                f"{self.settings.eval}: {column} has the value {strangers[0]!r}, which {self.name} has not"
            )
        if len(names) < 2:
            raise UniLoraError(f"{self.name}: {column} has the one value {names[0]!r}; classification needs two")
        order = tuple(base_labels) if set(names) == set(base_labels) else tuple(names)
        return order, {value: order.index(name) for value, name in named.items()}


@dataclass
class Batches:
    """Makes one batch of rows, each a dict by column: the model's ``inputs`` and ``labels``, padded to the longest.

    Texts are tokenized here, batch by batch: no copy of the data in tokens, on disk or in memory.
    """

    tokenize: Callable  # by this name: a Trainer saves what is named tokenizer with every checkpoint
    settings: PlanSettings
    numbers: dict[str, int]
    max_length: int
    inputs: frozenset[str]

    def __call__(self, rows) -> dict:
        task, columns = self.settings.task, self.settings.text
        texts = [[row[column] for row in rows] for column in columns]
        if task == "causal-lm":  # so that the model learns where a text ends
            texts = [[text + (self.tokenize.eos_token or "") for text in texts[0]]]
        batch = self.tokenize(*texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        if task == "causal-lm":
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        elif task == "regression":
            labels = torch.tensor([float(row[self.settings.label]) for row in rows])
        else:
            labels = torch.tensor([self.numbers[value_of(row[self.settings.label])] for row in rows])
        return {name: value for name, value in batch.items() if name in self.inputs} | {"labels": labels}


def collator(model, settings: PlanSettings, rows: Data, tokenizer) -> Batches:
    """The ``Batches`` of a model: of the inputs that it takes, and of texts that are not longer than it can read."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or settings.max_length
    longest = min(settings.max_length, positions, tokenizer.model_max_length)
    return Batches(tokenizer, settings, rows.numbers, longest, frozenset(inspect.signature(model.forward).parameters))


def sample(model, settings: PlanSettings, rows: Data, tokenizer, progress: bool):
    """The batches that a planner of ranks looks at: as many texts to train on as ``settings.TEXTS`` says, each once and those of
    the smallest ``share``, as files are often sorted by label. With ``progress``, how far they are is shown."""
    texts = list(zip(*(rows.train[column] for column in settings.text)))
    first = {text: row for row, text in reversed(list(enumerate(texts)))}
    chosen = rows.train.select([first[text] for text in sorted(first, key=share)[: TEXTS[settings.ranks]]])
    collate = collator(model, settings, rows, tokenizer)
    batches = DataLoader(_longest_first(chosen, settings.text), settings.batch_size, collate_fn=collate)
    return counted(batches, f"{settings.ranks}: {len(chosen):,} texts through the base") if progress else batches
