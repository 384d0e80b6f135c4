"""What a planner of ranks looks at."""

from torch.utils.data import DataLoader

from ...rows.order import longest_first
from ...rows.split import share
from ...runs.progress import counted
from ...settings import TEXTS


def sample(task, data, progress: bool):
    """The batches that a planner of ranks looks at: as many texts to train on as ``settings.TEXTS`` says, each once and those of
    the smallest ``share``, as files are often sorted by label. With ``progress``, how far they are is shown."""
    settings = task.settings
    texts = task.texts(data.train)
    first = {text: row for row, text in reversed(list(enumerate(texts)))}
    chosen = data.train.select([first[text] for text in sorted(first, key=share)[: TEXTS[settings.ranks]]])
    ordered = chosen.select(longest_first(task.lengths(chosen)))
    batches = DataLoader(ordered, settings.batch_size, collate_fn=task.batch)
    return counted(batches, f"{settings.ranks}: {len(chosen):,} texts through the base") if progress else batches
