"""Rows through a model in batches of like length, without a gradient."""

from collections.abc import Iterator, Sequence

import torch

from ...rows.order import longest_first
from ...runs.progress import counted


def batches(lengths: Sequence[int], size: int, what: str, progress: bool) -> Iterator[list[int]]:
    """The numbers of rows of these ``lengths`` in batches of ``size``, the longest first; with ``progress``, how many are done is shown."""
    order = longest_first(lengths)
    numbers = [order[start : start + size] for start in range(0, len(order), size)]
    return counted(numbers, what) if progress else iter(numbers)


def on_device(batch: dict[str, torch.Tensor], model) -> dict[str, torch.Tensor]:
    """A batch of tensors or arrays as tensors, where the model is."""
    return {name: torch.as_tensor(value).to(model.device) for name, value in batch.items()}
