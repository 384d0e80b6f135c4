"""``export_onnx``: a PyTorch model and its adapter as an ONNX file."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from unilora_spec import Adapter, UniLoraError
from unilora_spec.places import PathLike
from unilora_spec.rest import warnings_of

from ..folders.base_files import OTHER_CONTENTS
from ..graph.adapt import Saved, Weight
from ..modes import STEP, Form
from ..onnx import OPSETS, advice, cases, check_call, finish
from .cache import PAST, PRESENT, split
from .model import array, arrays, inference, run, sampled, values
from .trace import trace

DEFAULT_OPSET = OPSETS[0]  # the lowest that has the operators: what torch writes itself, before it converts
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def export_onnx(
    model: torch.nn.Module,
    adapter: Adapter | Sequence[Adapter],
    example_inputs: Mapping[str, torch.Tensor],
    path: PathLike,
    mode: str = "merged",
    opset: int | None = None,
    *,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    more_inputs: list[Mapping[str, torch.Tensor]] = (),
    with_past: bool = False,
    compare: bool = True,
    required_inputs: bool = False,
    inline: bool = False,
    marked: bool = True,
    loss: Callable | None = None,
    weights: str = "float32",
    progress: Callable[[str], None] = lambda step: None,
) -> dict:
    """Writes ``model`` with ``adapter`` to ``path`` as ONNX and returns a report of it.

    ``model``           the base model, without the adapter, in float32, float16 or bfloat16; it is left as it was
    ``adapter``         one, or several of the same form for the mode "bank"
    ``example_inputs``  what its ``forward`` takes, by name, with at least two rows and two positions
    ``mode``            one of ``export.modes.MODES``
    ``opset``           18 to 22; by default the lowest that has the operators: 18, or 22 for bfloat16
    ``dynamic``         the axes that may change, {input: {axis: name}}; by default the first axis of each input
                        ("batch") and the second of two-dimensional integers ("sequence")
    ``more_inputs``     further batches, of other sizes, on which the file is compared with PyTorch
    ``with_past``       whether the graph of a decoder takes and gives its cache of keys and values (cache.py), so that a
                        text costs one position a token: ``input_ids`` then are what follows the past, of which there may be
                        none, ``attention_mask`` covers both. The examples are whole sequences of six positions and more.
    ``compare``         whether the file is compared with PyTorch
    ``required_inputs``  whether what each run may bring (θ, A and B, a head) has no default, for runtimes without optional inputs
    ``inline``           whether the graph has no local functions and needs no 64-bit integers, for runtimes without them
    ``marked``           whether the .onnx_adapter of "input" and "factored" says what it belongs to; graphs of other tools refuse that
    ``loss``    of the mode "step": a function of what the model's forward gives and of ``labels``, a tensor that the examples hold beside the
                inputs, to a mean; None for a transformers model whose task has one (export.torch_base.step.tasks)
    ``weights`` of the mode "step": how the large weights that nobody trains are stored, float32, float16 or int8

    An encoder-decoder is one graph from both its inputs to its logits: without a cache, and not as two files.
    The file is checked by onnx and run in ONNX Runtime against PyTorch before it takes its place at ``path``. Raises
    ``UniLoraError`` for a call that cannot be met and ``WorkFailed`` where the export fails or disagrees.
    """
    path, adapters = Path(path), [adapter] if isinstance(adapter, Adapter) else list(adapter)
    if opset is None:
        narrow = any(value.dtype == torch.bfloat16 for value in model.parameters())
        opset = OPSETS[-1] if narrow else DEFAULT_OPSET  # 22 is the first whose convolutions take bfloat16
    form = Form(required_inputs, inline, marked)
    check_call(path, mode, adapters, form)
    check_opset(opset)
    batches = [dict(example_inputs), *map(dict, more_inputs)]
    parameters = dict(model.named_parameters(remove_duplicate=False))
    warnings = _check_base(model, adapters, parameters)
    if mode != STEP and (loss or weights != "float32"):
        raise UniLoraError(f"loss and weights are of the mode step, and the mode is {mode}; leave them out")
    if mode == STEP:
        return _step(
            model,
            adapters[0],
            batches,
            path,
            opset,
            dynamic,
            loss,
            weights,
            with_past,
            compare,
            form,
            progress,
            warnings,
        )
    placed, saved = adapters[0].layer_map.placed_by_weight(), adapters[0].saved

    with inference(model):
        with values(parameters, saved):
            if with_past:
                batches = after_a_past(model, batches)
            dynamic = default_dynamic(batches[0]) if dynamic is None else dynamic
            first = run(model, batches[0])
            names = [name for name in first if name == "logits" or name.startswith(f"{PRESENT}.")]
            wanted = names if "logits" in names else list(first)
            plain = arrays(first, wanted)
        progress("running the model in PyTorch")
        answers = [reference(model, each, batches, wanted) for each in adapters]
        in_place = mode == "merged"  # then torch's exporter sees W + ΔW, and may fold it as it likes
        with values(parameters, merged(model, adapters[0]) if in_place else saved):
            progress("tracing the model")
            keep = {} if in_place else {name: parameters[name] for name in [*placed, *sorted(saved)]}
            graph, kept = trace(model, batches[0], dynamic, wanted, opset, keep)
            graph.metadata_props.clear()
            feeds = [arrays(batch, batch) for batch in batches]
            weights = [Weight(value, placed[name]) for name, value in kept.items() if name in placed]
            heads = [Saved(value, name) for name, value in kept.items() if name in saved]
            checks = cases(mode, adapters, feeds, answers, required_inputs) if compare else None
            report = finish(graph, adapters, weights, heads, mode, path, checks, progress, form)
    moved = max(float(np.max(np.abs(answers[0][0][n].astype("f4") - plain[n]), initial=0)) for n in wanted)
    warnings += advice(mode, adapters[0].layer_map)
    return {**report, "adapter_moves_outputs_by": moved, "warnings": warnings}


def _step(model, adapter, batches, path, opset, dynamic, loss, weights, with_past, compare, form, progress, warnings):
    from .step.export import LABELS, export_step

    if with_past:
        raise UniLoraError(
            "--with-past is for a decoder that generates, and a step learns whole sequences; leave it out"
        )
    if dynamic is None:
        dynamic = default_dynamic({name: value for name, value in batches[0].items() if name != LABELS})
    report = export_step(model, adapter, batches, path, opset, dynamic, loss, weights, compare, form, progress)
    return {**report, "warnings": warnings}


def merged(model, adapter: Adapter) -> dict[str, np.ndarray]:
    """The values that an adapter changes, by name, in float32: W + ΔW, and what was trained in full."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found = {name: array(parameters[name]) for name in {**adapter.layer_map.by_weight(), **adapter.saved}}
    adapter.merge(found)
    return found


def reference(model, adapter: Adapter, batches: Sequence[Mapping], names: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """What the model with the adapter merged answers in PyTorch to each batch, the outputs ``names``."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with inference(model), values(parameters, merged(model, adapter)):
        return [arrays(run(model, batch), names) for batch in batches]


def check_opset(opset: int) -> None:
    """Raises ``UniLoraError`` for an operator set that cannot be exported to."""
    if opset not in OPSETS:
        raise UniLoraError(f"opset is {opset}; give one from {OPSETS[0]} (it has the operators needed) to {OPSETS[-1]}")


def _check_base(model, adapters, parameters) -> list[str]:
    if hasattr(model, "unilora"):
        raise UniLoraError("the model has an adapter on it, which would count twice; call model.detach() first")
    shapes = {name: tuple(value.shape) for name, value in parameters.items()}
    for adapter in adapters:
        adapter.check_base(shapes)
        adapter.check_saved(shapes)
    for name, value in parameters.items():
        if value.is_floating_point() and value.dtype not in FLOATS:
            raise UniLoraError(
                f"{name} is {value.dtype}; export works in float32, float16 and bfloat16: call model.float()"
            )
    exact = all(parameters[name].dtype == torch.float32 for name in adapters[0].layer_map.by_weight())
    same = adapters[0].same_contents(lambda name: array(parameters[name])) if exact else None
    return [OTHER_CONTENTS] * (same is False) + warnings_of(adapters[0].other_rest(sampled(model)))


def after_a_past(model, batches: Sequence[Mapping]) -> list[dict]:
    """Each batch with its first third as the past, and the first batch again, once without a past and once with a step of one token."""
    first, columns = batches[0], batches[0]["input_ids"].shape[1] if "input_ids" in batches[0] else 0
    pasts = [(batch, batch["input_ids"].shape[1] // 3) for batch in batches] if columns else [(first, 0)]
    return [split(model, batch, past) for batch, past in [*pasts, (first, 0), (first, columns - 1)]]


def default_dynamic(inputs) -> dict[str, dict[int, str]]:
    """The axes that may change where a call names none. Raises ``UniLoraError`` for an example of one row or position."""
    axes, has_past = {}, any(name.startswith(f"{PAST}.") for name in inputs)
    for name, value in inputs.items():
        axes[name] = {0: "batch"}
        if name.startswith(f"{PAST}."):
            axes[name][2] = "past"
        elif value.dim() == 2 and not value.is_floating_point():
            sequence = "decoder_sequence" if name.startswith("decoder_") else "sequence"
            axes[name][1] = "past + sequence" if has_past and name == "attention_mask" else sequence
        for axis, kind in axes[name].items():
            if value.shape[axis] < 2:
                raise UniLoraError(f"{name} has {value.shape[axis]} along {kind}; give an example with at least two")
    return axes
