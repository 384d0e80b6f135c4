"""``python -m export gguf``: the adapter as a LoRA for llama.cpp, one GGUF file, with NumPy and package gguf alone.

llama.cpp multiplies B·A by alpha / rank, with one alpha for the file and the columns of each B as its rank. Where the
scale s differs from that, B is multiplied by the ratio; with one rank, or plain scaling, it does not differ. Several segments of one weight lie side by side, their B
in the rows that are theirs, among zeros; of stacked experts each has its matrix, filled up with zeros to the largest rank.

Both factors are float32, as llama.cpp computes with them, whatever the base is quantized to.
"""

from collections import defaultdict
from pathlib import Path

import gguf
import numpy as np

from unilora_spec import Adapter, Segment, UniLoraError, load_adapter
from unilora_spec.base_folder import base_folder
from unilora_spec.layer_map import SCALINGS
from unilora_spec.places import check_output
from unilora_spec.placing import replacing

from .base_files import BaseFiles
from .gguf_names import MEND, Names, Target


def export_gguf(adapter: Path, output: Path, base: Path | None = None, progress=lambda step, done, total: None) -> dict:
    """Writes the file ``output``, and returns the report.

    ``base`` is a folder with a config.json and .safetensors files, by default the one that the adapter names: the type of the model
    and the shapes of its weights come from it. Raises ``BaseMismatch`` for a base that does not fit, ``UniLoraError`` for what
    llama.cpp has no LoRA for, by its name, ``WorkFailed`` where the disk refuses; then ``output`` is as it was.
    """
    loaded = load_adapter(adapter)
    check_output(output)
    if loaded.saved:
        raise UniLoraError(f"{min(loaded.saved)} is trained in full, and llama.cpp's LoRA has A and B alone; {MEND}")
    for segment in loaded.layer_map.segments:
        if segment.rank == 0:
            raise UniLoraError(
                f"{segment.name} is adapted with rank 0, without the A and B of llama.cpp's LoRA; {MEND}"
            )
    files = BaseFiles(loaded, base_folder(loaded, base), progress)
    names = Names(files.folder, set(files.tensors))
    targets = _targets(loaded, files, names)
    alpha = _alpha(loaded)
    pairs = _pairs(loaded, files, alpha)

    with replacing(output) as path:
        writer = gguf.GGUFWriter(path, names.architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for name, pair in pairs.items():
            for target in targets[name]:
                for end, factor in zip((".lora_a", ".lora_b"), _laid_out(*pair, target), strict=True):
                    writer.add_tensor(target.name + end, np.ascontiguousarray(factor))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        size = path.stat().st_size
    return {
        "output": str(output),
        "files": 1,
        "bytes": size,
        "base": str(files.folder),
        "architecture": names.architecture,
        "weights": len(pairs),
        "rank": max(A.shape[-2] for A, _ in pairs.values()),
        "alpha": alpha,
        "warnings": files.warnings,
    }


def _targets(adapter: Adapter, base: BaseFiles, names: Names) -> dict[str, list[Target]]:
    """The tensors of llama.cpp that each adapted weight is. Raises ``UniLoraError`` where llama.cpp has no LoRA for a weight, or one
    tensor for two weights."""
    targets, owners = {}, {}
    for name, segments in adapter.layer_map.by_weight().items():
        if segments[0].index is None and len(base[name].shape) > 2:
            raise UniLoraError(f"{name} is the weight of a convolution, for which llama.cpp has no LoRA; {MEND}")
        rows = _rows(segments[0], base[name].shape)
        if (rank := _rank(segments)) > (most := min(rows, segments[0].in_features)):
            raise UniLoraError(f"the ranks of {name} add up to {rank}, and as one LoRA it can have {most}; {MEND}")
        targets[name] = list(names.targets(name, rows))
        for target in targets[name]:
            if (owner := owners.setdefault(target.name, name)) != name:
                raise UniLoraError(f"{owner} and {name} are one tensor in llama.cpp, {target.name}; {MEND}")
    return targets


def _rank(segments: list[Segment]) -> int:
    """The rank of a weight's LoRA: the sum over its segments, or for a stack the largest such sum of one matrix."""
    ranks = defaultdict(int)
    for segment in segments:
        ranks[segment.index] += segment.rank
    return max(ranks.values())


def _rows(segment: Segment, shape: tuple[int, ...]) -> int:
    """Rows (out) of the whole matrix that a segment lies in; ``shape`` is the stored weight's."""
    return shape[-1] if segment.transposed else shape[-2]


def _alpha(adapter: Adapter) -> float:
    """The one alpha of the file: that of the adapter, or with `rslora` the one with which the largest rank keeps its s."""
    rank = max(segment.rank for segment in adapter.layer_map.segments)
    return float(np.float32(SCALINGS[adapter.layer_map.scaling](adapter.layer_map.alpha, rank) * rank))


def _pairs(adapter: Adapter, base: BaseFiles, alpha: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A (rank, in) and B (out, rank) of every adapted weight, or of a stack A (n, rank, in) and B (n, out, rank)."""
    layer_map, pairs, filled = adapter.layer_map, {}, defaultdict(int)
    scale = SCALINGS[layer_map.scaling]
    for name, segments in layer_map.by_weight().items():
        stack, rank = base[name].shape[:-2], _rank(segments)
        pairs[name] = (
            np.zeros((*stack, rank, segments[0].in_features), np.float32),
            np.zeros((*stack, _rows(segments[0], base[name].shape), rank), np.float32),
        )
    for segment, A, B in adapter.factors():
        whole_A, whole_B = pairs[segment.name]
        if segment.index is not None:
            whole_A, whole_B = whole_A[segment.index], whole_B[segment.index]
        first = filled[segment.name, segment.index]
        columns = slice(first, first + segment.rank)
        filled[segment.name, segment.index] = columns.stop
        row = segment.row or 0
        relative = np.float32(scale(layer_map.alpha, segment.rank) * whole_A.shape[0] / alpha)
        whole_A[columns] = A
        whole_B[row : row + segment.out_features, columns] = B * relative
    return pairs


def _laid_out(A: np.ndarray, B: np.ndarray, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """The two factors as llama.cpp has them: rows in its order, and for a table of tokens one row of the first for each token."""
    if target.rows is not None:
        B = B[..., target.rows, :]
    return (B, A.T) if target.table else (A, B)
