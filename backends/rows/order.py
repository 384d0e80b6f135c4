"""The order of rows in an epoch: a batch has rows of similar length, which halves the padding and so the time.

Any language can compute it, as the page that trains in a browser does: it takes sorting and the permutation π of SPEC
4, integers alone.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from unilora_spec.permutation import MAX_SEED, Permutation

RUN = 50  # batches whose rows are sorted together


class LikeLengths:
    """A sampler of all rows in a random order for each epoch (``set_epoch``), in which the texts of a batch have
    similar lengths.

    The order follows from ``seed`` and the epoch alone, so that a resumed run sees the same batches.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by transformers' Trainer when an epoch begins."""
        self.epoch = epoch

    def __len__(self):
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(of_like_length(self.lengths, self.batch_size, self.seed, self.epoch))


def of_like_length(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[int]:
    """The numbers of all rows, counted from 0, in the order of an epoch. ``lengths`` are those of the rows' texts, in
    characters.

    The rows stand in the order π(0), π(1), … of SPEC 4, with D the number of rows and the key (seed + epoch) modulo 2^64. They are cut into
    runs of 50 batches, and each run is sorted by length, the longest first; equal ones stay in their order. Then the
    full batches are put in order by the π of their number, with the same key: batch number k is full batch π(k). A last
    batch of fewer rows stays last.

    >>> of_like_length([3, 9, 1, 4, 7, 2, 8], 2, seed=0, epoch=0)
    [1, 6, 4, 3, 0, 5, 2]
    """
    key = (seed + epoch) % MAX_SEED
    rows, lengths = _shuffled(len(lengths), key), np.asarray(lengths)
    for start in range(0, len(rows), RUN * batch_size):
        run = rows[start : start + RUN * batch_size]
        run[:] = run[np.argsort(-lengths[run], kind="stable")]
    full = len(rows) // batch_size
    batches = rows[: full * batch_size].reshape(full, batch_size)
    return [*batches[_shuffled(full, key)].flatten().tolist(), *rows[full * batch_size :].tolist()]


def longest_first(lengths: Sequence[int]) -> list[int]:
    """The numbers of rows, the longest text first, so that a batch that does not fit in memory fails at once."""
    return sorted(range(len(lengths)), key=lambda row: -lengths[row])


def _shuffled(count, key) -> np.ndarray:
    """The numbers 0 … count − 1 in the order of π."""
    numbers = np.arange(count)
    return Permutation(count, key)(numbers) if count else numbers
