"""``export_onnx``: a model and its adapter as one ONNX file, checked before it is left behind."""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from unilora_spec import Adapter, UniLoraError, replacing

from . import parity
from .graph import count_nodes, trace
from .model import array, arrays, inference, run, values
from .rebuild import LARGEST_COMPUTED, index_is_computed, rebuild

MODES = ("merged", "reconstruct")
OPSETS = range(18, 23)  # the Bitwise operators came with 18; at 23 onnxscript fuses rotary embeddings in a form that
# ONNX Runtime 1.32 refuses (cos_cache and sin_cache of one row for the whole batch)
DEFAULT_OPSET = 20  # torch's own default, written down so that a newer torch gives the same file
LARGEST_FILE = 2**31 - 2**24  # protobuf's limit, less room for the nodes


def export_onnx(
    model: torch.nn.Module,
    adapter: Adapter,
    example_inputs: Mapping[str, torch.Tensor],
    path,
    mode: str = "merged",
    opset: int | None = None,
    *,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    more_inputs: list[Mapping[str, torch.Tensor]] = (),
    progress: Callable[[str], None] = lambda step: None,
) -> dict:
    """Writes ``model`` with ``adapter`` to ``path`` as ONNX and returns a report of it.

    ``model``           the base model, without the adapter; it is left as it was
    ``example_inputs``  what its ``forward`` takes, by name, with at least two rows and two positions
    ``mode``            "merged": W + ΔW in the file. "reconstruct": W and θ in it, ΔW rebuilt by the graph
    ``dynamic``         the axes that may change, {input: {axis: name}}; by default the first axis of each input
                        ("batch") and the second of two-dimensional integers ("sequence")
    ``more_inputs``     further batches, of other sizes, on which the file is compared with PyTorch

    The file is checked by onnx and run in ONNX Runtime against PyTorch before it takes its place at ``path``. Raises
    ``UniLoraError`` for a call that cannot be met and ``WorkFailed`` where the export fails or disagrees.
    """
    path = Path(path)
    opset = DEFAULT_OPSET if opset is None else opset
    check_call(path, mode, opset)
    batches = [dict(example_inputs), *map(dict, more_inputs)]
    parameters = dict(model.named_parameters(remove_duplicate=False))
    warnings = _check_base(model, adapter, parameters)
    merged = {name: array(parameters[name]) for name in {**adapter.layer_map.by_weight(), **adapter.saved}}
    adapter.merge(merged)
    dynamic = _default_dynamic(batches[0]) if dynamic is None else dynamic

    with inference(model):
        with values(parameters, adapter.saved):
            names = list(run(model, batches[0]))
            wanted = ["logits"] if "logits" in names else names
            plain = arrays(run(model, batches[0]), wanted)
        with values(parameters, merged):
            progress("running the model in PyTorch")
            expected = [arrays(run(model, batch), wanted) for batch in batches]
        with values(parameters, merged if mode == "merged" else adapter.saved):
            progress("tracing the model")
            keep = adapter.layer_map.by_weight() if mode == "reconstruct" else ()
            outputs = [name if name in wanted else None for name in names]
            graph, kept = trace(model, batches[0], dynamic, outputs, opset, keep)
            if mode == "reconstruct":
                rebuild(graph, adapter, kept)
            graph.metadata_props.clear()
            graph.metadata_props.update(_metadata(adapter, mode))
            progress("writing the file")
            data = ir.to_proto(graph).SerializeToString(deterministic=True)

    with replacing(path) as temporary:
        temporary.write_bytes(data)
        progress("checking it with onnx")
        parity.check(temporary)
        progress("running it in ONNX Runtime")
        session = parity.session(temporary)
        feeds = [{name: value.cpu().numpy() for name, value in batch.items()} for batch in batches]
        used = {value.name for value in session.get_inputs()}
        feeds = [{name: value for name, value in feed.items() if name in used} for feed in feeds]
        comparison = parity.compare(session, feeds, expected)
    return {
        "file": str(path),
        "bytes": len(data),
        "mode": mode,
        "opset": opset,
        "nodes": len(graph.graph),
        "nodes_inlined": count_nodes(graph),
        "index": _index_words(adapter) if mode == "reconstruct" else None,
        "inputs": {v.name: [str(d) for d in v.shape] for v in graph.graph.inputs},
        "outputs": {v.name: [str(d) for d in v.shape] for v in graph.graph.outputs},
        "providers": session.get_providers(),
        "comparison": {"batches": [_sizes(batch) for batch in feeds], **comparison},
        "adapter_moves_outputs_by": max(float(np.max(np.abs(expected[0][n] - plain[n]), initial=0)) for n in wanted),
        "warnings": warnings,
    }


def check_call(path: Path, mode: str, opset: int) -> None:
    """Refuses what can be refused before anything is loaded. Raises ``UniLoraError``."""
    if mode not in MODES:
        raise UniLoraError(f"mode is {mode!r}; give {' or '.join(MODES)}")
    if opset not in OPSETS:
        raise UniLoraError(f"opset is {opset}; give one from {OPSETS[0]} (it has the operators needed) to {OPSETS[-1]}")
    if not path.parent.is_dir():
        raise UniLoraError(f"{path}: the folder {path.parent} does not exist; make it, or give another output")
    if path.is_dir():
        raise UniLoraError(f"{path} is a folder; give the name of a file in it")


def check_size(model: torch.nn.Module) -> None:
    """Refuses a model that one ONNX file cannot hold. Raises ``UniLoraError``."""
    tensors = {id(value): value.numel() * 4 for value in [*model.parameters(), *model.buffers()]}
    if (size := sum(tensors.values())) > LARGEST_FILE:
        raise UniLoraError(
            f"the model has {size / 1e9:.1f} GB of float32 weights; files above 2 GB cannot be exported yet"
        )


def _check_base(model, adapter: Adapter, parameters) -> list[str]:
    if hasattr(model, "unilora"):
        raise UniLoraError("the model has an adapter on it, which would count twice; call model.detach() first")
    check_size(model)
    shapes = {name: tuple(value.shape) for name, value in parameters.items()}
    adapter.check_base(shapes)
    adapter.check_saved(shapes)
    for name, value in parameters.items():
        if value.is_floating_point() and value.dtype != torch.float32:
            raise UniLoraError(f"{name} is {value.dtype}; export works in float32: call model.float() first")
    if adapter.same_contents(lambda name: array(parameters[name])) is False:
        return ["the base's weights are not those that the adapter was trained on: another checkpoint of its form"]
    return []


def _default_dynamic(inputs) -> dict[str, dict[int, str]]:
    axes = {}
    for name, value in inputs.items():
        axes[name] = {0: "batch"}
        if value.dim() == 2 and not value.is_floating_point():
            axes[name][1] = "sequence"
        for axis, kind in axes[name].items():
            if value.shape[axis] < 2:
                raise UniLoraError(f"{name} has {value.shape[axis]} along {kind}; give an example with at least two")
    return axes


def _metadata(adapter: Adapter, mode: str) -> dict[str, str]:
    p = adapter.projection
    name = adapter.base.name if adapter.base else ""
    return {
        "format": "unilora",
        "unilora.mode": mode,
        "unilora.projection": p.kind,
        "unilora.seed": str(p.seed),
        "unilora.d": str(p.d),
        "unilora.D": str(p.D),
        "unilora.alpha": f"{adapter.layer_map.alpha:.17g}",
        "unilora.scaling": adapter.layer_map.scaling,
        "unilora.base": os.path.basename(name) if os.path.isabs(name) else name,  # a model's name, not a machine's path
        "unilora.theta_sha256": hashlib.sha256(np.ascontiguousarray(adapter.theta, "<f4")).hexdigest(),
    }


def _index_words(adapter: Adapter) -> str:
    if adapter.projection.kind == "identity":
        return "none needed: theta is theta_D"
    if index_is_computed(adapter):
        return "computed in the graph"
    return (
        f"stored, 4 bytes an entry: D = {adapter.projection.D:,} is above {LARGEST_COMPUTED:,}, from where computing it"
        " would slow down loading"
    )


def _sizes(batch) -> list[int]:
    return list(next(iter(batch.values())).shape)
