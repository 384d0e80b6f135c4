"""Puts the adapter of a run on its base, and says at which rate each trained parameter is trained."""

from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from unilora_spec import LayerMap, UniLoraError

from ...rows.split import Data
from ...runs.defaults import completed, with_targets
from ...settings import BEFORE, TrainSettings
from ..adapter.attach import attach
from ..adapter.sites.noise import Noise
from ..ranks.before import ranked
from ..tasks import ForModel
from .base import prepare
from .sample import sample


class Planned(NamedTuple):
    """A base, its rows and its task, and the layer map of the adapter that is to be put on it.

    ``new``       the names of the parameters that the base lacks
    ``settings``  complete with defaults, of which ``taken`` names each as an option's text
    ``ranks``     the report of the planner that made the ranks; None without a planner
    ``size``      the number of the base's parameters; ``dtype`` is their dtype
    """

    model: PreTrainedModel
    new: list[str]
    rows: Data
    task: ForModel
    settings: TrainSettings
    taken: list[str]
    layer_map: LayerMap
    ranks: dict | None
    size: int
    dtype: torch.dtype


def planned(settings: TrainSettings, progress: bool) -> Planned:
    """Prepares all of a run up to the adapter. Raises ``UniLoraError`` where settings, base or data are wrong."""
    model, new, rows, task = prepare(settings, progress, settings.dropout)
    size, dtype = sum(parameter.numel() for parameter in model.parameters()), model.dtype
    looked_at = sample(task, rows, progress) if settings.ranks in BEFORE else ()
    settings = with_targets(settings)
    layer_map, ranks = ranked(model, settings, looked_at)
    settings, taken = completed(settings, layer_map.D, size)
    return Planned(model, new, rows, task, settings, taken, layer_map, ranks, size, dtype)


def attach_planned(model, settings, layer_map, new, **options) -> None:
    """Puts the adapter of ``settings`` on ``model``; the parameters ``new``, which the base lacked, are trained in full beside it."""
    attach(
        model,
        d=settings.dim,
        seed=settings.seed,
        targets=layer_map,
        kind=settings.kind,
        options=settings.options,
        storage=settings.storage,
        train_in_full=(*new, *settings.train_in_full),
        **options,
    )
    if settings.head_only:
        if not model.unilora.trained_in_full():
            raise UniLoraError(f"{settings.base}: it has a head for this task; --head-only has nothing to train")
        theta = model.unilora.theta
        theta.requires_grad_(False)
        theta.detach().zero_()  # the delta weights are exactly zero
    elif settings.noise:
        model.unilora.noise = Noise(settings.noise, settings.seed)


def parameter_groups(model, settings) -> list[dict]:
    """The parameter groups of an optimizer: θ first, then the parameters trained in full."""
    theta, parts = model.unilora.theta, {}
    for name in model.unilora.trained_in_full():
        parameter = model.get_parameter(name)
        parts.setdefault(settings.rate_and_decay(parameter.dim()), []).append(parameter)
    if theta.requires_grad:
        parts = {("theta", *settings.rate_and_decay()): [theta]} | parts
    return [{"params": parameters, "lr": lr, "weight_decay": decay} for (*_, lr, decay), parameters in parts.items()]
