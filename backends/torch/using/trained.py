"""Loads a trained adapter on its base, ready for use: the model's class, its head and the task follow from the
adapter's record."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
)

import unilora_spec
from unilora_spec import Adapter, BaseMismatch, UniLoraError
from unilora_spec.base_folder import base_folder
from unilora_spec.command import say

from ...runs.outputs import check_place
from ...settings import UseSettings
from ...settings.options import LANGUAGE
from ..adapter.attach import load_adapter
from ..tasks import TASKS, ForModel
from ..training.base import config_at, labels_in, loaded

TASK_OF = (
    (MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, "classification"),
    (MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES, "token-classification"),
    (MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, "image-classification"),
    (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "causal-lm"),
    (MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, "seq2seq"),
)
WITHOUT_CLASSES = ("regression", *LANGUAGE)
OF_HEAD = {"regression": "regression", "multi_label_classification": "multi-label"}


@dataclass
class Trained:
    """An adapter on its base.

    ``base``            the folder or id from which the base was loaded
    ``task``            the task that it was trained for, with the adapter's ``labels`` where it has classes
    ``base_can_answer`` whether the base without the adapter answers too: it has a head of its own, for the same classes
    ``warnings``        sentences for the user, such as that the base's weights are not those of the record
    """

    adapter: Adapter
    base: str
    task: ForModel
    model: transformers.PreTrainedModel
    base_can_answer: bool
    warnings: list[str]

    @property
    def tokenizer(self):
        return self.task.tokenize


def load_trained(settings: UseSettings, outputs: Mapping[str, Path | None], progress: bool) -> Trained:
    """The adapter that ``settings`` name, on its base, in evaluation mode, on the accelerator where there is one.

    ``outputs`` are the files that the call is to write, by their options; a place that cannot be written to is refused before the
    base is read. ``progress`` shows on standard error what is loaded. Raises ``UniLoraError`` where the adapter is no
    sound file, the base is not here, or they do not fit.
    """
    adapter = unilora_spec.load_adapter(settings.adapter)
    if adapter.base is None or adapter.base.architecture is None:
        raise UniLoraError(
            f"{settings.adapter}: it does not name a transformers model as its base; use it from Python, by load_adapter"
        )
    try:
        settings.base = settings.base or str(base_folder(adapter))
    except UniLoraError as error:
        raise error.within(settings.adapter) from None
    read = {"--adapter": settings.adapter, "--data": getattr(settings, "data", None), "the base": settings.base}
    for option, output in outputs.items():
        if output:
            check_place(output, option, read)
    if progress:
        say(f"loading {settings.adapter} on {settings.base}")
    config = config_at(settings.base)
    base_labels = labels_in(config)
    labels = tuple(adapter.base.labels or base_labels)
    name = _task_of(adapter, settings.adapter, labels)
    task = TASKS[name](settings.rows_for(name), _as_in_rows(labels))
    if name not in WITHOUT_CLASSES:
        task.labels = task.base_labels
    model, new = loaded(settings, config, task, progress)
    if type(model).__name__ != adapter.base.architecture:
        raise BaseMismatch(
            f"{settings.adapter}: it was trained on a {adapter.base.architecture}, and {settings.base} holds a"
            f" {type(model).__name__}; give --base the base that was adapted",
            "10.3",
        )
    if lacking := [name for name in new if name not in adapter.saved]:
        raise BaseMismatch(
            f"neither {settings.base} nor {settings.adapter} has values for {lacking[0]}; give --base the base that was adapted",
            "10.3",
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            load_adapter(model, settings.adapter)
        except UniLoraError as error:
            raise error if str(settings.adapter) in error.message else error.within(settings.adapter) from None
    where = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    same_classes = name in WITHOUT_CLASSES or labels == tuple(base_labels)
    return Trained(
        adapter,
        settings.base,
        task,
        model.eval().to(where),
        not new and same_classes,
        [str(each.message) for each in caught],
    )


def _task_of(adapter, file, labels) -> str:
    architecture, problem = adapter.base.architecture, adapter.base.problem_type
    name = next((name for names, name in TASK_OF if _has(names, architecture)), None)
    if name == "classification":
        name = OF_HEAD.get(problem or ("regression" if len(labels) == 1 else ""), name)
    if name not in TASKS:
        raise UniLoraError(
            f"{file}: it was trained on a {architecture:.80}, for which there is no task here; use it from Python, by load_adapter"
        )
    return name


def _has(names, architecture) -> bool:
    """Whether a table of transformers' classes by model type has this class; some model types have several classes."""
    return any(architecture in ([found] if isinstance(found, str) else found) for found in names.values())


def _as_in_rows(labels) -> tuple[str, ...]:
    """The classes as rows name them: numbers where the configuration has transformers' default names LABEL_0, LABEL_1,
    …"""
    plain = labels == tuple(f"LABEL_{number}" for number in range(len(labels)))
    return tuple(map(str, range(len(labels)))) if plain else tuple(labels)
