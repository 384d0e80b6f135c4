"""Which differences of accuracy are significant: paired by seed and by sentence, both with a 95 % interval that leaves out zero."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST_SEEDS = 10
# Student's t at 97.5 %, for 2 to MOST_SEEDS seeds; that of a thousand sentences is the normal distribution's.
T = dict(zip(range(2, MOST_SEEDS + 1), (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)))
NORMAL = 1.960


@dataclass(frozen=True)
class Difference:
    """The difference of two methods' accuracies: its mean over the seeds, and how far a 95 % interval reaches on either side of it.

    ``of_seeds``       for a training with other seeds, judged by the same sentences: t over the differences of the seeds
    ``of_sentences``   for a judgement by other sentences, trained with the same seeds: over the differences of the sentences, each
                       the mean of all seeds
    """

    mean: float
    of_seeds: float
    of_sentences: float

    @property
    def is_significant(self) -> bool:
        """Whether zero is outside of both intervals."""
        return abs(self.mean) > max(self.of_seeds, self.of_sentences)


def difference(right: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> Difference | None:
    """The ``Difference`` of two methods from which sentences each had right: bool[sentences] for each seed, with the same seeds in the same
    order. None for a single seed, which has no spread."""
    if len(right) < 2:
        return None
    apart = np.asarray(right, float) - np.asarray(others, float)
    seeds, sentences = apart.mean(1), apart.mean(0)
    return Difference(
        float(apart.mean()),
        float(T[len(seeds)] * seeds.std(ddof=1) / len(seeds) ** 0.5),
        float(NORMAL * sentences.std(ddof=1) / len(sentences) ** 0.5),
    )
