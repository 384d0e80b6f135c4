"""What a transformers model learns: its task by its class, the loss, and labels to try it on."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch.nn import functional
from transformers.models.auto import modeling_auto

from unilora_spec import UniLoraError

IGNORED = -100  # a label that is not learned


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean over the labels that are learned, and 0 where none is; ``logits`` have an axis of classes behind those of ``labels``."""
    flat = logits.float().flatten(0, -2), labels.flatten()
    return functional.cross_entropy(*flat, ignore_index=IGNORED, reduction="sum") / (labels != IGNORED).sum().clamp(
        min=1
    )


def next_tokens(logits, labels):
    """``cross_entropy`` where each position predicts the label after it."""
    return cross_entropy(logits[:, :-1], labels[:, 1:])


def squares(logits, labels):
    """The mean of the squared differences."""
    return functional.mse_loss(logits.squeeze(-1), labels)


class Task(NamedTuple):
    """``name`` as ``--task`` has it, empty for a loss that the user gives, and the ``loss`` of logits and labels."""

    name: str
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


LOSSES = {
    "classification": cross_entropy,
    "regression": squares,
    "token-classification": cross_entropy,
    "causal-lm": next_tokens,
}
_OF_CLASSES = {
    "classification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token-classification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "causal-lm": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
}


def task_of(model: torch.nn.Module) -> Task:
    """The task of a transformers model. Raises ``UniLoraError`` for one that has no head whose loss is known."""
    kind, config = type(model).__name__, getattr(model, "config", None)
    name = next((task for task, classes in _OF_CLASSES.items() if kind in _names(classes)), None)
    if name is None or config.is_encoder_decoder:
        raise UniLoraError(
            f"{kind} has no head whose loss --mode step knows; give an adapter of a model for {', '.join(LOSSES)}, or call"
            " export_onnx from Python with a loss"
        )
    if name == "classification":
        problem = config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")
        if problem == "multi_label_classification" or (problem == "regression" and config.num_labels > 1):
            raise UniLoraError(
                f"{kind} has {config.num_labels} outputs for each row ({problem}), and --mode step knows one class or one number;"
                " give export_onnx a loss"
            )
        name = "regression" if problem == "regression" else name
    return Task(name, LOSSES[name])


def _names(classes: Mapping) -> set[str]:
    found = set()
    for each in classes.values():
        found.update((each,) if isinstance(each, str) else each)
    return found


def with_labels(task: Task, model, batch: Mapping[str, torch.Tensor], number: int = 0) -> dict[str, torch.Tensor]:
    """A batch with labels, made up where it has none: the same ones for the same ``number``. Of tokens, a third is not learned, nor is what pads."""
    if "labels" in batch:
        return dict(batch)
    random, ids = torch.Generator().manual_seed(number), batch["input_ids"]
    if task.name == "regression":
        return {**batch, "labels": torch.randn(len(ids), generator=random)}
    if task.name == "classification":
        return {**batch, "labels": torch.randint(model.config.num_labels, (len(ids),), generator=random)}
    drawn = ids if task.name == "causal-lm" else torch.randint(model.config.num_labels, ids.shape, generator=random)
    left_out = torch.rand(ids.shape, generator=random) < 1 / 3
    if "attention_mask" in batch:
        left_out |= batch["attention_mask"] == 0
    return {**batch, "labels": drawn.masked_fill(left_out, IGNORED)}
