"""What is adapted where a user names no targets: the projections of queries and values, by the names of each model type."""

from collections.abc import Sequence

from torch import nn

from unilora_spec import LayerMapError

from .candidates import Candidate, Unfit
from .mismatch import ends

_DEFAULTS = {
    ("q_proj", "v_proj"): "llama mistral",
    ("query", "value"): "bert",
}
DEFAULTS = {model_type: targets for targets, types in _DEFAULTS.items() for model_type in types.split()}


def default_targets(model: nn.Module, found: Sequence[Candidate | Unfit]) -> list[str]:
    """The targets of the first model type that a part of ``model`` has, ``model`` first.

    Raises ``LayerMapError`` where there is none, where the table has none for it, and where the model has none of its names; with
    the ends of the names that could be targets.
    """
    model_type = next(filter(None, map(_model_type, model.modules())), None)
    names = [each.target for each in found if each.is_linear]
    targets = [end for end in DEFAULTS.get(model_type, ()) if any(f".{name}".endswith(f".{end}") for name in names)]
    if not targets:
        whose = f"the model type {model_type!r}" if model_type else "a model without a model_type in its config"
        raise LayerMapError(
            f"there are no default targets for {whose}; name some: {ends(names) or 'it has no linear map'}"
        )
    return targets


def _model_type(module):
    found = getattr(getattr(module, "config", None), "model_type", None)
    return found if isinstance(found, str) else None
