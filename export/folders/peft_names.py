"""What a folder of PEFT's holds beside the adapter itself: the kind of task, and the parameters trained in full by PEFT's rules.

PEFT keeps whole modules, `modules_to_save`, and looks for each of their tensors in the file. It takes every module whose name
ends with one of the names given, and for a task with a head the head's usual names with them, asked for or not.
"""

from pathlib import Path
from typing import NamedTuple

from unilora_spec import Adapter, UniLoraError
from unilora_spec.base_model import read_pieces
from unilora_spec.documents import read_json

from .base_files import BaseFiles
from .folder import Tensor, new_folder, tensor, write_json, write_tensors

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"

PREFIX = "base_model.model."  # before a model's own names in a file of PEFT's
TASKS = {
    "ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS", "ForQuestionAnswering": "QUESTION_ANS",
    "ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM",
}  # fmt: skip
HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",)}


class Whole(NamedTuple):
    """``task`` is PEFT's task type or None, ``modules`` its modules_to_save, ``tensors`` theirs by their names in its file;
    ``warnings`` say what PEFT has no place for."""

    task: str | None
    modules: list[str]
    tensors: dict[str, Tensor]
    warnings: list[str]


def whole_modules(adapter: Adapter, base: BaseFiles) -> Whole:
    """The modules that hold ``adapter.saved``, complete: what the adapter lacks of them comes from the base's files.

    Raises ``UniLoraError`` for a parameter that is in no module, and for a module that an adapted weight lies in.
    """
    architecture = (adapter.base and adapter.base.architecture) or ""
    task = next((task for end, task in TASKS.items() if architecture.endswith(end)), None)
    heads = HEADS.get(task, ())
    modules = sorted({_module(name, heads) for name in adapter.saved})
    known = base.by_model_name()
    # A task with a head is named only where PEFT will find the head in the file.
    if heads and not any(_is_in_one_of(name, heads) for name in (*adapter.saved, *known)):
        task, heads = None, ()
    for name in adapter.layer_map.by_weight():
        if _is_in_one_of(name, (*modules, *heads)):
            raise UniLoraError(f"{name} is adapted in a module that PEFT keeps whole; use export merge")
    tensors = {
        PREFIX + name: Tensor(t.dtype, t.shape, t.size, read_pieces(t, t.size or 1))
        for name, t in known.items()
        if _is_in_one_of(name, (*modules, *heads))
    }
    tensors |= {PREFIX + name: tensor(value) for name, value in adapter.saved.items()}
    return Whole(task, modules, tensors, _outputs_warning(adapter, base))


def _module(name: str, heads: tuple[str, ...]) -> str:
    module, _, parameter = name.rpartition(".")
    if not module:
        raise UniLoraError(f"the parameter {parameter} is in no module that PEFT could keep; use export merge")
    first = module.partition(".")[0]
    return first if first in heads else module  # a head of several layers is one module to PEFT


def _is_in_one_of(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a tensor is in a module that PEFT takes for one of ``modules``."""
    parts = name.split(".")
    return any(".".join(["", *parts[:i]]).endswith(module) for i in range(1, len(parts)) for module in modules)


def _outputs_warning(adapter: Adapter, base: BaseFiles) -> list[str]:
    """A warning where the head's outputs are of another kind than the base's config.json says: PEFT's folder has no place for it."""
    path, outputs = base.folder / "config.json", adapter.base and adapter.base.problem_type
    if not (outputs and adapter.saved) or (path.is_file() and read_json(path).get("problem_type") == outputs):
        return []
    return [f"PEFT's files do not say that the outputs are of a {outputs}; load the base with problem_type={outputs!r}"]


def write_folder(output: Path, config: dict, tensors: dict[str, Tensor]) -> dict:
    """Writes a folder of PEFT's, and returns the first fields of its report."""
    with new_folder(output) as target:
        write_json(target / CONFIG, config)
        write_tensors(target / TENSORS, dict(sorted(tensors.items())), {"format": "pt"})
        size = sum(path.stat().st_size for path in target.iterdir())
    return {"output": str(output), "files": 2, "bytes": size}
