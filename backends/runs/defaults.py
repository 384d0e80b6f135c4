"""The default targets, d and learning rates of a run, as found by the measurements of docs/language-models.md.

P is isometric, so that a step of Adam's moves each entry of θ_D by the rate over √(D / d): one rate of the entries serves every d, and
``identity``, which is LoRA, has d = D.
"""

import math
from dataclasses import replace

from unilora_spec.projection import kind_named

from ..settings import AdapterSettings, DataSettings, TrainSettings
from ..settings.options import LANGUAGE

ALL_LINEAR = ("all-linear",)
TEXT_SHARE, TEXT_MOST = 6.4, 23_040  # D / d, and the largest d, of the authors' RoBERTa
IMAGE_SHARE = 2.0  # of the authors' ViT
LANGUAGE_SHARE = 16  # at most: d is the power of two below, which is the authors' 2^19 for 7B
GATHERS = ("balanced", "uniform", "layerwise", "nonuniform", "fastfood", "chain", "identity")
"""The kinds whose rates follow from those of the entries of θ_D."""


def with_targets(settings: AdapterSettings) -> AdapterSettings:
    """``settings`` with default targets for a causal language model: all linear maps, as the authors have them. Other
    tasks keep those of the model type."""
    language = isinstance(settings, DataSettings) and settings.task == "causal-lm"
    return replace(settings, targets=ALL_LINEAR) if language and settings.targets is None else settings


def completed(settings: TrainSettings, D: int, parameters: int) -> tuple[TrainSettings, list[str]]:
    """``settings`` with a d and learning rates, and each value that was not given as an option's text.

    ``D`` is the length of θ_D, ``parameters`` the number of the base's parameters.
    """
    given, said = {}, [f"--targets {','.join(settings.targets)}"] if settings.targets == ALL_LINEAR else []
    free = kind_named(settings.kind).d_is_free
    if settings.dim is None and free:
        given["dim"] = dim_of(settings.task, D)
        said.append(f"--dim {given['dim']}")
    if settings.lr is None:
        d = settings.dim or given.get("dim") or D
        given["lr"] = rate_of(settings.task, settings.kind, D / d, parameters)
        said.append(f"--lr {given['lr']:g}")
    return replace(settings, **given), said


def dim_of(task: str, D: int) -> int:
    """The default d of a run on a θ_D with ``D`` entries."""
    if task in LANGUAGE:
        return 2 ** max(0, math.floor(math.log2(max(D / LANGUAGE_SHARE, 1))))
    if task == "image-classification":
        return max(1, round(D / IMAGE_SHARE))
    return max(1, min(round(D / TEXT_SHARE), TEXT_MOST))


def rate_of(task: str, kind: str, share: float, parameters: int) -> float:
    """The default learning rate of θ, to two digits; ``share`` is D / d, ``parameters`` the number of the base's
    parameters."""
    language = task in LANGUAGE
    if kind not in GATHERS:  # the entries of θ are then no entries of θ_D; the rates are those of docs/comparison.md
        return 2e-3 if language else 1e-2
    if language:
        of_entries = 4e-4
    elif task == "image-classification":
        of_entries = 7e-3
    else:
        of_entries = 4e-3 if parameters < 50e6 else 2e-3 if parameters < 200e6 else 1.2e-3
    return float(f"{of_entries * math.sqrt(share):.1e}")
