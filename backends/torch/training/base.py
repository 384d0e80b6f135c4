"""Loads the base model of a training run, its tokenizer or image processor and its data, without a word on the
terminal."""

import contextlib
import logging
from pathlib import Path

import datasets
import transformers
from transformers import PreTrainedConfig

from unilora_spec import UniLoraError
from unilora_spec.base_model import check_base_folder
from unilora_spec.command import say

from ...runs.waiting import waiting
from ...settings import PlanSettings
from ..tasks import ForModel, rows_and_task
from .precision import disable_cpu_packing, loading
from .strangers import WEIGHTS, config_of, reason


def prepare(settings: PlanSettings, progress: bool = False, dropout: float | None = None):
    """(model, names of the parameters that the base lacks, data, task) of a run; ``progress`` shows what is being done.

    The parameters that the base lacks are the head's; they start as ``settings.seed`` says. ``dropout`` takes the place
    of all probabilities of dropout in the base's config. Raises ``UniLoraError`` where base or data are wrong.
    """
    config = config_at(settings.base)
    if dropout is not None and not _set_dropout(config, dropout):
        raise UniLoraError(f"{settings.base}: its config.json has no dropout; leave --dropout out")
    with waiting(lambda: f"reading {settings.data}") if progress else contextlib.nullcontext():
        rows, task = rows_and_task(settings, labels_in(config))
    model, new = loaded(settings, config, task, progress)
    return model, new, task.ready(rows, progress), task


def config_at(base: str) -> PreTrainedConfig:
    """The configuration of the base in a folder or of a hub id. Raises ``UniLoraError`` where there is none."""
    if Path(base).is_dir():
        check_base_folder(Path(base))
    return _from_base(config_of, base)


def labels_in(config: PreTrainedConfig) -> list[str]:
    """The names of a configuration's classes, in the order of their numbers."""
    return [name for _, name in sorted((config.id2label or {}).items())]


def loaded(settings, config: PreTrainedConfig, task: ForModel, progress: bool = False):
    """(model, names of the parameters that the base lacks) of a run whose ``task`` knows its classes; from here on
    ``task`` prepares rows for this model.

    ``settings`` say the base, how it is held and the seed. Raises ``UniLoraError`` where the base is wrong.
    """
    held_in, said = loading(settings, config)
    if said and progress:
        say(said)
    with waiting(lambda: f"loading {settings.base}") if progress else contextlib.nullcontext():
        reader = _from_base(task.reader, settings.base)
        model, new = _base_model(settings, config, task, reader, held_in)
        task.read_by(model, reader)
    return model, new


@contextlib.contextmanager
def quiet():
    """Within the block, libraries show no warnings and bars: what they warn of, a new head or a short text, is intended
    here."""
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    more_bars = datasets.are_progress_bars_disabled()
    packed = logging.getLogger("bitsandbytes")
    packed_level = packed.level
    packed.setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        packed.setLevel(packed_level)
        if bars:
            transformers.logging.enable_progress_bar()
        if not more_bars:
            datasets.enable_progress_bars()


def _from_base(load, base, **options):
    try:
        return load(base, **options)
    except UniLoraError:
        raise
    except Exception as error:  # transformers passes on the errors of all libraries that it reads with
        if Path(base).is_dir():
            raise UniLoraError(f"{base}: the base model could not be loaded: {reason(error)}") from error
        if base.count("/") > 1 or base.startswith((".", "/", "~")):  # no id, for which the Hub's error would not help
            raise UniLoraError(f"{base}: there is no such folder; give the base model's folder or id") from error
        raise UniLoraError(
            f"{base}: there is no such folder, and no base model with this id can be loaded: {reason(error)}"
        ) from error


def _set_dropout(config, probability) -> int:
    """Sets each probability of dropout in a configuration and in those within it; returns how many there are.
    Probabilities of leaving out whole layers (layerdrop, drop_path) stay."""
    named = [name for name in vars(config) if "dropout" in name or name.endswith("pdrop")]
    names = [name for name in named if isinstance(getattr(config, name), float | int)]
    for name in names:
        setattr(config, name, probability)
    inner = [value for value in vars(config).values() if isinstance(value, PreTrainedConfig)]
    return len(names) + sum(_set_dropout(each, probability) for each in inner)


def _base_model(settings, config, task, reader, held_in):
    """(the base with a head for the task, the names of the parameters that it lacks, which are the head's)."""
    transformers.set_seed(settings.seed % 2**32)  # the new head's start; NumPy's seeds end at 2^32
    task.configure(config)
    text = config.get_text_config()
    if getattr(text, "pad_token_id", 0) is None:
        text.pad_token_id = getattr(reader, "pad_token_id", None)
    model, found = _from_base(
        task.model_class.from_pretrained,
        settings.base,
        config=config,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **held_in,
        **WEIGHTS,
    )
    disable_cpu_packing(model)
    new = set(found["missing_keys"]) | {name for name, *_ in found["mismatched_keys"]}
    parameters = dict(model.named_parameters())
    new = [name for name in parameters if name in new]
    lacking, total = (sum(parameters[name].numel() for name in names) for names in (new, parameters))
    if lacking > total / 2:
        raise UniLoraError(
            f"{settings.base}: its weights lack {lacking:,} of the {total:,} parameters of {type(model).__name__}; give a base with weights for it"
        )
    return model, new
