"""The modules of a transformers model by its configuration: their classes and their order, which no file of weights holds."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from unilora_spec import UniLoraError
from unilora_spec.base_model import check_base_folder

AUTO = {
    "SEQ_CLS": "AutoModelForSequenceClassification", "CAUSAL_LM": "AutoModelForCausalLM", "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "TOKEN_CLS": "AutoModelForTokenClassification", "QUESTION_ANS": "AutoModelForQuestionAnswering",
}  # fmt: skip
"""What PEFT's tasks are in transformers."""


class Module(NamedTuple):
    """A Linear, or (``transposed``) a Conv1D of transformers, by its name in the model."""

    name: str
    out_features: int
    in_features: int
    transposed: bool


class Shell(NamedTuple):
    """A model without weights: its Linears and Conv1Ds, the names of its other modules, both in its order; its class, labels."""

    modules: list[Module]
    others: list[str]
    architecture: str
    id2label: dict[int, str]


def shell_of(folder: Path, architecture: str | None, task: str | None, rows: Mapping[str, int] | None = None) -> Shell:
    """The model of class ``architecture``, or of one of PEFT's tasks, that the configuration in ``folder`` describes.

    ``rows`` has the number of rows of each parameter that an adapter brings: a head with other rows has as many labels. Raises
    ``UniLoraError`` where the class is none of transformers', or the folder is no model's.
    """
    check_base_folder(folder)
    import torch  # these two take seconds, and most of what is exported needs neither
    import transformers
    from transformers.pytorch_utils import Conv1D

    from ..torch_base.strangers import config_of, reason

    try:
        config = config_of(folder)
        with torch.device("meta"):
            model = _model(transformers, config, architecture, task)
            mine = {name: p.shape[0] for name, p in model.named_parameters() if p.dim()}
            for name, count in (rows or {}).items():
                if mine.get(name) == config.num_labels != count:
                    config.num_labels = count
                    model = _model(transformers, config, architecture, task)
                    break
    except UniLoraError:
        raise
    except Exception as error:  # a configuration's own and a class's own errors, of many kinds
        raise UniLoraError(f"{folder} is no model that transformers can make: {reason(error)}") from error
    modules, others = [], []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            modules.append(Module(name, module.out_features, module.in_features, False))
        elif isinstance(module, Conv1D):
            columns, out = module.weight.shape
            modules.append(Module(name, out, columns, True))
        else:
            others.append(name)
    return Shell(modules, others, type(model).__name__, config.id2label)


def _model(transformers, config, architecture, task):
    from ..torch_base.strangers import NO_CODE

    if not architecture:
        return getattr(transformers, AUTO.get(task, "AutoModel")).from_config(config, **NO_CODE)
    found = getattr(transformers, architecture, None) if architecture.isidentifier() else None
    if not (inspect.isclass(found) and issubclass(found, transformers.PreTrainedModel)):
        raise UniLoraError(f"the model's class is {architecture!r:.80}, which is no model class of transformers")
    return found(config)
