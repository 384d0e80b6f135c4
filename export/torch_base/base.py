"""The transformers model that an adapter names, loaded as it was trained on, and its tokenizer."""

import inspect
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, apply_renamings

from unilora_spec import Adapter, BaseMismatch, UniLoraError
from unilora_spec.base_folder import base_folder, is_folder
from unilora_spec.base_model import check_base_folder

from .strangers import NO_CODE, WEIGHTS, config_of, reason


def load_base(adapter: Adapter, where: str | None = None, dtype: str = "float32"):
    """The base model in ``dtype`` without the adapter, its tokenizer or None, and a list of warnings.

    ``where`` is a folder or hub id, by default the folder that the adapter names (``unilora_spec.base_folder.recorded_folder``). Nothing in it is
    run (strangers.py). Whether the model fits is decided from its configuration, before its weights are read. Raises
    ``UniLoraError`` where there is no such base and ``BaseMismatch`` where it is another one.
    """
    if adapter.base is None or adapter.base.architecture is None:
        raise UniLoraError(
            "the adapter does not name a transformers model as its base; export it from Python with export.export_onnx"
        )
    where = where or str(base_folder(adapter))
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    architecture = _architecture(adapter.base.architecture)
    config = _config(where)
    if not isinstance(config, architecture.config_class):
        raise BaseMismatch(
            f"{where} holds a {config.model_type} model, and the adapter was trained on a {architecture.__name__}",
            "10.3",
        )
    if adapter.base.labels:
        config.num_labels = len(adapter.base.labels)
        config.id2label = dict(enumerate(adapter.base.labels))
        config.label2id = {label: i for i, label in enumerate(adapter.base.labels)}
    if adapter.base.problem_type:
        config.problem_type = adapter.base.problem_type
    shell = _shell(architecture, config, where)
    adapter.check_base(
        {name: tuple(value.shape) for name, value in shell.named_parameters(remove_duplicate=False)}, where
    )
    torch.manual_seed(0)  # parameters without values are drawn at random, and the same call has to give the same file
    try:
        model, loading = architecture.from_pretrained(
            where,
            config=config,
            dtype=getattr(torch, dtype),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **WEIGHTS,
        )
    except Exception as error:  # transformers lets the errors of every reader beneath it through
        raise UniLoraError(f"{where}: its weights could not be read: {reason(error)}") from error
    tokenizer = _tokenizer(where)
    if tokenizer is not None and config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer, _missing(loading, adapter, where)


def names_in_model(adapter: Adapter, folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The names of a base's tensors, as its files have them, by those that transformers gives them while loading, as it does for ViT.

    The names are not changed where transformers has no model of the adapter's record and the folder's config.json, nor where loading
    does more to the tensors than to rename them.
    """
    as_they_are = {name: name for name in names}
    try:
        config = _config(str(folder))
        architecture = _architecture((adapter.base and adapter.base.architecture) or "")
        if not isinstance(config, architecture.config_class):
            return as_they_are
        changes = get_model_conversion_mapping(_shell(architecture, config, folder))
    except UniLoraError:
        return as_they_are
    if not all(isinstance(change, WeightRenaming) for change in changes):
        return as_they_are
    renamed = {apply_renamings(name, changes): name for name in names}
    return renamed if len(renamed) == len(as_they_are) else as_they_are


def _architecture(name: str):
    """The class of that name. The name comes from a file, so nothing but a model class of transformers is accepted."""
    found = getattr(transformers, name, None) if name.isidentifier() and not name.startswith("_") else None
    if not (inspect.isclass(found) and issubclass(found, PreTrainedModel) and found.config_class is not None):
        raise UniLoraError(f"the adapter's base.architecture is {name!r:.80}, which is no model class of transformers")
    return found


def _config(where: str):
    if is_folder(Path(where)) and not (Path(where) / "config.json").is_file():
        raise UniLoraError(f"{where} is a folder without config.json; give --base the folder of a transformers model")
    if Path(where).is_dir():
        check_base_folder(Path(where))
    try:
        return config_of(where)
    except UniLoraError:
        raise
    except Exception as error:  # each configuration checks in its own way
        if is_folder(Path(where)):
            raise UniLoraError(f"{where}: transformers cannot read its config.json: {reason(error)}") from error
        raise UniLoraError(
            f"no base model {where!r}: it is neither a folder here nor a model that the hub gives;"
            " give --base a folder or a hub id"
        ) from error


def _shell(architecture, config, where) -> PreTrainedModel:
    """The model without values."""
    try:
        with torch.device("meta"):
            return architecture(config)
    except Exception as error:  # a class's own errors, about values that it cannot be built of
        reason = " ".join(str(error).split())
        raise UniLoraError(f"{where}: transformers cannot build a model of its config.json: {reason:.200}") from error


def _tokenizer(where: str):
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **NO_CODE)
    except Exception:  # noqa: BLE001  many models have none; what is raised then differs from version to version
        return None
    words = tokenizer("film word house", add_special_tokens=False)["input_ids"]
    if not set(words) - {tokenizer.unk_token_id}:  # transformers makes up an empty one for a folder that has none
        return None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = (
        "right"  # to the left, a decoder's first positions attend to nothing: no value is right there
    )
    return tokenizer


def _missing(loading, adapter, where) -> list[str]:
    mismatched = {name if isinstance(name, str) else name[0] for name in loading["mismatched_keys"]}
    missing = sorted((set(loading["missing_keys"]) | mismatched) - set(adapter.saved))
    if adapted := [name for name in missing if name in adapter.layer_map.by_weight()]:
        raise BaseMismatch(
            f"the files in {where} have no values for {adapted[0]}; give the base that was adapted", "10.3"
        )
    return [f"neither {where} nor the adapter has values for {name}: they are random" for name in missing]
