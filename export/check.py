"""Compares an ONNX file, written by this project or another, with its base and adapter: does it answer as they do?"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from unilora_spec import Adapter, UniLoraError
from unilora_spec.serialization import encode

from .modes import BESIDE, MODES, STEP
from .onnx import cases, load, metadata, outputs
from .parity import compare as parity
from .parity.file import compare_file, compare_step

Progress = Callable[[str], None]


def check_with_file(
    path: Path,
    adapters: Sequence[Adapter],
    base,
    arrays,
    given: Mapping[str, str],
    progress: Progress,
    part: str | None = None,
) -> dict:
    """How far the outputs of ``path`` are from those of the ONNX file ``base`` with ΔW as NumPy computes it.

    ``arrays``, by input name, are what both are run on; they are made up where None. Raises ``UniLoraError`` where ``path`` is no ONNX
    file or another adapter's, ``WorkFailed`` where it cannot be run. PyTorch is not needed.
    """
    from .onnx_base.feeds import feeds_for
    from .onnx_base.from_file import read, reference

    graph = _of_these(path, adapters)
    if _mode(graph) == STEP:
        raise UniLoraError(
            f"{path} is a step of training, whose gradients no ONNX base has; give --base the model's folder"
        )
    feeds = [arrays] if arrays is not None else feeds_for(read(Path(base)))
    names = _outputs(graph)
    progress("running the base and ΔW")
    answers = [reference(Path(base), each, given, feeds, names, part) for each in adapters]
    return _compared(path, graph, adapters, feeds, answers, progress) | {"reference": f"{base} and ΔW"}


def check_with_torch(path: Path, adapters: Sequence[Adapter], base: str | None, arrays, progress: Progress) -> dict:
    """How far the outputs of ``path`` are from those of the transformers model ``base``, by default the folder that the adapter names,
    run in PyTorch with the adapter. ``arrays`` and errors are as in ``check_with_file``."""
    graph = _of_these(path, adapters)
    if _mode(graph) == STEP:
        return _check_step(path, graph, adapters[0], base, arrays, progress)
    progress("loading PyTorch")
    from .torch_base.base import load_base
    from .torch_base.cache import PAST
    from .torch_base.from_torch import after_a_past, reference
    from .torch_base.inputs import real_inputs, tensors
    from .torch_base.model import arrays as as_arrays

    model, tokenizer, _ = load_base(adapters[0], base, parity.precision(graph))
    batches = real_inputs(model, tokenizer) if arrays is None else [tensors(arrays)]
    if arrays is None and any(value.name.startswith(PAST) for value in graph.graph.inputs):
        batches = after_a_past(model, batches)
    progress("running the model in PyTorch")
    answers = [reference(model, each, batches, _outputs(graph)) for each in adapters]
    feeds = [as_arrays(batch, batch) for batch in batches]
    return _compared(path, graph, adapters, feeds, answers, progress) | {"reference": "PyTorch"}


def _check_step(path: Path, graph: ir.Model, adapter: Adapter, base: str | None, arrays, progress: Progress) -> dict:
    """``check_with_torch`` for a step of training, of which loss, logits and gradients are compared."""
    said = graph.metadata_props
    if not said.get("unilora.task"):
        raise UniLoraError(
            f"{path} was exported with a loss from Python, which the file does not hold; compare it by export_onnx"
        )
    progress("loading PyTorch")
    from .torch_base.base import load_base
    from .torch_base.inputs import real_inputs, tensors
    from .torch_base.step.export import cases as of_step

    model, tokenizer, _ = load_base(adapter, base)
    batches = real_inputs(model, tokenizer) if arrays is None else [tensors(arrays)]
    progress("running a step in PyTorch")
    checks = of_step(model, adapter, batches, said.get("unilora.weights", "float32"))
    progress("running the file in ONNX Runtime")
    comparison, providers = compare_step(path, checks)
    return {"file": str(path), "mode": STEP, "providers": providers, "comparison": comparison, "reference": "PyTorch"}


def _of_these(path: Path, adapters: Sequence[Adapter]) -> ir.Model:
    """The graph of a file. Raises ``UniLoraError`` where the file's metadata, if it has any, are those of other adapters."""
    graph = load(path)
    mode = _mode(graph)
    if mode not in MODES:
        raise UniLoraError(f"{path} says of itself that its mode is {mode!r:.40}; give a model, not the expander")
    if "unilora.mode" in graph.metadata_props:
        for key, value in metadata(adapters, mode).items():
            said = graph.metadata_props.get(key)
            if said != value and key != "unilora.base":
                raise UniLoraError(
                    f"{path} is another adapter's: its {key} is {said!r:.80}, the adapter's {value!r:.80}"
                )
    elif len(adapters) > 1:
        raise UniLoraError(f"{path} does not say that it is a bank; give one adapter")
    if mode in BESIDE:
        _check_beside(path, mode, adapters[0])
    return graph


def _check_beside(path: Path, mode: str, adapter: Adapter) -> None:
    """Raises ``UniLoraError`` where the expander, the .onnx_adapter or the start beside a graph is another adapter's: a killed export may have
    placed them alone."""
    from .graph.expander import check_adapter

    def is_own(file):
        if file.suffix == ".safetensors":
            return file.read_bytes() == encode(adapter)
        if file.suffix != ".onnx":
            return check_adapter(adapter, mode, file)
        said = load(file).metadata_props
        return all(
            said.get(key) == value for key, value in metadata([adapter], "expander").items() if key != "unilora.base"
        )

    for file in outputs(path, mode)[1:]:
        if file.exists() and not is_own(file):
            raise UniLoraError(f"{file} is another adapter's than {path} beside it; export them again, together")


def _mode(graph):
    return graph.metadata_props.get("unilora.mode", "merged")  # a file of others takes the base's inputs alone


def _outputs(graph):
    return [value.name for value in graph.graph.outputs]


def _compared(path, graph, adapters, feeds: Sequence[Mapping[str, np.ndarray]], answers, progress):
    progress("running the file in ONNX Runtime")
    required = any(
        value.name not in graph.graph.initializers
        for value in graph.graph.inputs
        if value.name in ("theta", *adapters[0].saved)
    )
    checks = cases(_mode(graph), adapters, feeds, answers, required)
    comparison, providers = compare_file(path, checks)
    return {"file": str(path), "mode": _mode(graph), "providers": providers, "comparison": comparison}
