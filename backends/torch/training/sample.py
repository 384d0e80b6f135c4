"""Chooses the texts that a planner of ranks runs through the base."""

from torch.utils.data import DataLoader

from ...rows.order import longest_first
from ...rows.split import share
from ...runs.progress import counted
from ...settings import TEXTS


def sample(task, data, progress: bool):
    """The batches that a planner of ranks runs through the base: as many different training texts as ``settings.TEXTS``
    says, those with the smallest ``share``, as files are often sorted by label. ``progress`` shows how many batches are
    done."""
    settings = task.settings
    texts = task.texts(data.train)
    first = {text: row for row, text in reversed(list(enumerate(texts)))}
    chosen = data.train.select([first[text] for text in sorted(first, key=share)[: TEXTS[settings.ranks]]])
    ordered = chosen.select(longest_first(task.lengths(chosen)))
    batches = DataLoader(ordered, settings.batch_size, collate_fn=task.batch)
    return counted(batches, f"{settings.ranks}: {len(chosen):,} texts through the base") if progress else batches
