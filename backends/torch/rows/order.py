"""The order in which rows come: those of like length in one batch, which halves the padding and so the time."""

from collections.abc import Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class LikeLengths(Sampler):
    """All rows in a random order in which the texts of one batch are of like length.

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


def longest_first(lengths: Sequence[int]) -> list[int]:
    """The rows' numbers, those of the longest text first: what does not fit in memory fails at once."""
    return sorted(range(len(lengths)), key=lambda row: -lengths[row])
