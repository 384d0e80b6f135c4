"""Without targets, those of the model's type: each type of the table is built, and has its targets."""

import importlib

import pytest
import torch
import transformers as T

from backends.torch import plan
from backends.torch.adapter.targets.architectures import _DEFAULTS, DEFAULTS

OPTIONS = {  # of configurations whose defaults build no model, or none with attention
    "autoformer": {"prediction_length": 4},
    "bamba": {"attn_layer_indices": [1], "num_hidden_layers": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    "esm": {"vocab_size": 33, "pad_token_id": 1},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "num_hidden_layers": 2},
    "informer": {"prediction_length": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "time_series_transformer": {"prediction_length": 4},
}
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers")


def of_type(model_type, layers):
    """A model of the type on the meta device, of few layers, or as deep as its configuration is by default."""
    config = T.AutoConfig.for_model(model_type, **OPTIONS.get(model_type, {}))
    if layers:
        shorten(config, layers)
    modeling = type(config).__module__.replace(".configuration_", ".modeling_")
    with torch.device("meta"):
        if type(config) in T.MODEL_MAPPING:
            return T.AutoModel.from_config(config)
        kinds = [kind for kind in vars(importlib.import_module(modeling)).values() if is_model(kind, type(config))]
        return kinds[0](config)


def is_model(kind, of_config):
    model = isinstance(kind, type) and issubclass(kind, T.PreTrainedModel) and kind.config_class is of_config
    return model and not kind.__name__.endswith("PreTrainedModel")


def shorten(config, layers):
    for key, value in vars(config).items():
        if isinstance(value, T.PreTrainedConfig):
            shorten(value, layers)
        elif key in DEPTHS and type(value) is int:
            setattr(config, key, layers)


def unnamed(model_type, layers):
    """The targets by default that name nothing in a model of the type."""
    model = of_type(model_type, layers)
    ends = {segment.name.removesuffix(".weight") for segment in plan(model, None, 0).segments}
    return [target for target in DEFAULTS[model_type] if not any(f".{end}".endswith(f".{target}") for end in ends)]


# Where two layers have not both of the kinds that alternate, or their number is said elsewhere too.
WHOLE = {
    "gemma3n_text", "jamba", "lfm3", "lfm3_vl", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next",
    "recurrent_gemma",
}  # fmt: skip


MANY = 10  # types of one set of targets that `make test` builds; importing and building all 415 takes some 15 seconds


def cases():
    """The types of each set of targets: those whose configuration is named above and the first of the others, and all of them."""
    for targets, types in _DEFAULTS.items():
        types = types.split()
        named = [each for each in types if each in WHOLE or each in OPTIONS]
        yield pytest.param(targets, dict.fromkeys([*named, *types][:MANY]), id=f"{' '.join(targets)}, some")
        yield pytest.param(targets, types, id=" ".join(targets), marks=pytest.mark.thorough)


@pytest.mark.parametrize("targets, types", list(cases()))
def test_the_targets_by_default_are_in_a_model_of_each_type(targets, types):
    wrong = {
        model_type: missing
        for model_type in types
        if (missing := unnamed(model_type, None if model_type in WHOLE else 2))
    }
    assert not wrong
