"""``python -m export peft``: an adapter as a folder of PEFT's UniLora, with NumPy alone.

PEFT draws its index in a way of its own, so the folder holds the adapter's whole index (PEFT's ``save_indices``), whatever the kind.
"""

import re
from pathlib import Path

import numpy as np

from unilora_spec import Adapter, Segment, UniLoraError, load_adapter
from unilora_spec.base_folder import base_folder
from unilora_spec.gather import Gather

from .base_files import BaseFiles
from .folder import Tensor, check_new, tensor
from .lora import EMBEDDINGS
from .peft_names import PREFIX, whole_modules, write_folder

THETA = "base_model.unilora_theta_d"


def export_peft(adapter: Path, output: Path, base: Path | None = None, progress=lambda step, done, total: None) -> dict:
    """Writes adapter_config.json and adapter_model.safetensors to the folder ``output``, and returns the report.

    The folder has all indices and scales, s as a factor of B's. ``base`` is a folder with .safetensors files, by default the one
    that the adapter names: shapes of weights come from it, and the tensors of a head that the adapter lacks. Raises ``BaseMismatch`` for a
    base that does not fit, ``UniLoraError`` for what PEFT's UniLora cannot hold, by its name, ``WorkFailed`` where the disk
    refuses; then nothing is at ``output``.
    """
    loaded = load_adapter(adapter)
    check_new(output)
    if not isinstance(loaded.projection, Gather):
        raise UniLoraError(
            f"the kind is {loaded.projection.kind}; {_cannot('one number of theta in each entry of A and B')}"
        )
    ranks = sorted({segment.rank for segment in loaded.layer_map.segments})
    if ranks[0] == 0:
        name = next(segment.name for segment in loaded.layer_map.segments if segment.rank == 0)
        raise UniLoraError(f"{name} is adapted with rank 0, for which PEFT's UniLora has no A and B; use export merge")
    if len(ranks) > 1:
        raise UniLoraError(f"the ranks {ranks[0]} and {ranks[1]} are in the adapter; {_cannot('one for all')}")
    modules = [_module(segment) for segment in loaded.layer_map.segments]
    files = BaseFiles(loaded, base_folder(loaded, base), progress)
    for name in loaded.layer_map.by_weight():
        if len(files[name].shape) != 2:
            raise UniLoraError(f"{name} is the weight of a convolution; {_cannot('Linear and Conv1D alone')}")
    whole = whole_modules(loaded, files)
    config = {
        "peft_type": "UNILORA",
        "task_type": whole.task,
        "base_model_name_or_path": loaded.base.name if loaded.base and base is None else str(files.folder),
        "r": ranks[0],
        "theta_d_length": loaded.projection.d,
        "proj_seed": loaded.projection.seed,
        "save_indices": True,
        "unilora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(segment.transposed for segment in loaded.layer_map.segments),
        "inference_mode": True,
        "modules_to_save": whole.modules or None,
        "target_modules": _targets(modules),
    }
    return write_folder(output, config, _tensors(loaded, modules) | whole.tensors) | {
        "base": str(files.folder),
        "weights": len(modules),
        "rank": ranks[0],
        "saved": sorted(loaded.saved),
        "warnings": files.warnings + whole.warnings,
    }


def _cannot(has: str) -> str:
    return f"PEFT's UniLora has {has}, so use export lora, or export merge"


def _module(segment: Segment) -> str:
    """The module that a segment's weight is the whole ``weight`` of. Raises ``UniLoraError`` for anything else."""
    module, _, parameter = segment.name.rpartition(".")
    kind = None
    if segment.index is not None:
        kind = "a stack of experts"
    elif segment.row is not None:
        kind = "adapted by ranges of rows"
    elif module.rpartition(".")[2] in EMBEDDINGS:
        kind = "an embedding"
    elif parameter != "weight" or not module:
        kind = "not the weight of a module"
    if kind:
        raise UniLoraError(f"{segment.name} is {kind}; {_cannot('whole weights of Linear and Conv1D alone')}")
    return module


def _tensors(adapter: Adapter, modules: list[str]) -> dict[str, Tensor]:
    """θ, and the indices and scales of A (rank, in) and B (out, rank) of every module, by PEFT's names."""
    p, tensors = adapter.projection, {THETA: tensor(adapter.theta)}
    scale = p.scale()
    for module, (segment, offset) in zip(modules, adapter.layer_map.placed(), strict=True):
        A, B = segment.factors(p.index(offset, offset + segment.size))
        for factor, index, s in (("A", A, np.float32(1)), ("B", B, adapter.layer_map.factor_scale(segment))):
            index = np.ascontiguousarray(index, "<i8")
            tensors[f"{PREFIX}{module}.unilora_indices_{factor}"] = Tensor(
                "I64", index.shape, index.nbytes, [index.data]
            )
            tensors[f"{PREFIX}{module}.unilora_scales_{factor}"] = tensor(scale[index] * s)
    return tensors


def _targets(modules: list[str]) -> list[str] | str:
    """The names in full. PEFT takes them for the ends of longer ones too: where one has no dot, a regular expression is exact."""
    return modules if all("." in module for module in modules) else "|".join(map(re.escape, modules))
