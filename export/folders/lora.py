"""``python -m export lora``: the adapter as a plain LoRA in PEFT's folder, A and B of every weight in full.

All weights have one rank and one scaling, as the readers agree on nothing else: PEFT takes ranks and alphas by pattern, vLLM
takes one of each, and llama.cpp divides one alpha by each weight's own rank and knows no square root. So a smaller rank is
filled up with zeros, and where its s is another one, B is multiplied by the ratio. Several segments of one weight lie side by side:
their A one below the other, their B in the rows and columns that are theirs, among zeros.

Tested with PEFT and, by ``make vllm``, with vLLM. By its source, llama.cpp's convert_lora_to_gguf.py reads the same two files. Both
take no ``modules_to_save``, so no head; ``export gguf`` writes llama.cpp's own file.
"""

import re
from pathlib import Path

import numpy as np

from unilora_spec import Adapter, LayerMap, Segment, UniLoraError, load_adapter
from unilora_spec.base_folder import base_folder
from unilora_spec.layer_map import SCALINGS

from .base_files import BaseFiles
from .folder import check_new, tensor
from .peft_names import PREFIX, whole_modules, write_folder

EMBEDDINGS = {
    "embed_tokens", "embed_positions", "embed_in", "embeddings", "position_embeddings", "shared", "tok_embeddings",
    "token_type_embeddings", "word_embeddings", "wpe", "wte",
}  # fmt: skip
HEAD_WARNING = "the parameters trained in full are read by PEFT alone; export merge gives what vLLM and llama.cpp read"


def export_lora(adapter: Path, output: Path, base: Path | None = None, progress=lambda step, done, total: None) -> dict:
    """Writes adapter_config.json and adapter_model.safetensors to the folder ``output``, and returns the report.

    ``base`` is a folder with .safetensors files, by default the one that the adapter names: shapes of weights come from it.
    Raises ``BaseMismatch`` for a base that does not fit, ``UniLoraError`` for what a LoRA cannot say (embeddings, stacked
    experts, rank 0), by its name, ``WorkFailed`` where the disk refuses; then nothing is at ``output`` (SPEC 7.7).
    """
    loaded = load_adapter(adapter)
    check_new(output)
    modules_of(loaded)
    files = BaseFiles(loaded, base_folder(loaded, base), progress)
    return write_lora(loaded, files, output, loaded.base.name if base is None else str(base))


def write_lora(adapter: Adapter, files: BaseFiles, output: Path, named: str) -> dict:
    """``export_lora`` of an adapter that has been read and compared with its base; ``named`` is the base's name in the folder."""
    modules, rank = modules_of(adapter), lora_rank(adapter.layer_map)
    whole = whole_modules(adapter, files)
    pairs = _pairs(adapter, files, rank)
    alpha = SCALINGS[adapter.layer_map.scaling](adapter.layer_map.alpha * rank, _largest(adapter.layer_map))
    config = {
        "peft_type": "LORA",
        "task_type": whole.task,
        "base_model_name_or_path": named,
        "r": rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(segment.transposed for segment in adapter.layer_map.segments),
        "inference_mode": True,
        "modules_to_save": whole.modules or None,
        "target_modules": _targets(modules, files),
    }
    return write_folder(output, config, pairs | whole.tensors) | {
        "base": str(files.folder),
        "weights": len(modules),
        "rank": rank,
        "alpha": alpha,
        "saved": sorted(adapter.saved),
        "warnings": files.warnings + whole.warnings + ([HEAD_WARNING] if whole.tensors else []),
    }


def modules_of(adapter: Adapter) -> list[str]:
    """The modules whose weights are adapted. Raises ``UniLoraError`` where one of them has no pair in a LoRA, by its name."""
    return list(dict.fromkeys(_module(segment) for segment in adapter.layer_map.segments))


def lora_rank(layer_map: LayerMap) -> int:
    """The rank of the folder: the largest sum of ranks over the segments of a weight."""
    return max(sum(segment.rank for segment in segments) for segments in layer_map.by_weight().values())


def _module(segment: Segment) -> str:
    """The module that a segment's weight is the ``weight`` of. Raises ``UniLoraError`` where PEFT has no pair for it."""
    module, _, parameter = segment.name.rpartition(".")
    kind = None
    if segment.rank == 0:
        kind = "adapted with rank 0"
    elif segment.index is not None:
        kind = "a stack of experts"
    elif module.rpartition(".")[2] in EMBEDDINGS:
        kind = "an embedding"  # of the input alone: PEFT would leave the output layer as it is, where the two are tied
    elif parameter != "weight" or not module:
        kind = "not the weight of a module"
    if kind:
        raise UniLoraError(
            f"{segment.name} is {kind}, for which a LoRA has no A and B that every reader takes; use export merge"
        )
    return module


def _largest(layer_map: LayerMap) -> int:
    """The rank whose scaling is the one for all."""
    return max(segment.rank for segment in layer_map.segments)


def _pairs(adapter: Adapter, base: BaseFiles, rank: int) -> dict:
    """lora_A (rank, in, …) and lora_B (out, rank, 1 …) of every adapted weight, by PEFT's names."""
    layer_map, filled, arrays = adapter.layer_map, {}, {}
    scale = SCALINGS[layer_map.scaling]
    for segment, A, B in adapter.factors():
        shape = base[segment.name].shape
        rows = shape[1] if segment.transposed else shape[0]
        if segment.name not in arrays:
            arrays[segment.name] = np.zeros((rank, segment.in_features), "f4"), np.zeros((rows, rank), "f4")
        whole_A, whole_B = arrays[segment.name]
        first = filled.get(segment.name, 0)
        columns = slice(first, first + segment.rank)
        filled[segment.name] = columns.stop
        row = segment.row or 0
        relative = scale(layer_map.alpha, segment.rank) / scale(layer_map.alpha, _largest(layer_map))
        whole_A[columns] = A
        whole_B[row : row + segment.out_features, columns] = B * np.float32(relative)
    tensors = {}
    for name, (A, B) in arrays.items():
        kernel = base[name].shape[2:] and base[name].shape[1:]  # of a convolution: A convolves, B mixes the channels
        module = PREFIX + name.removesuffix(".weight")
        tensors[f"{module}.lora_A.weight"] = tensor(A.reshape(rank, *kernel) if kernel else A)
        tensors[f"{module}.lora_B.weight"] = tensor(B.reshape(*B.shape, *[1] * len(kernel[1:])))
    return tensors


def _targets(modules: list[str], base: BaseFiles) -> list[str] | str:
    """The names in full, or one regular expression for them where another module's name ends with one of them, which PEFT would
    adapt as well."""
    ends = tuple(f".{module}" for module in modules)
    others = (name.rpartition(".")[0] for name in base.by_model_name())
    if any(other.endswith(ends) for other in others if other not in modules):
        return "|".join(re.escape(module) for module in modules)
    return modules
