"""An adapter on an ONNX file that exists already, from whatever exporter. PyTorch is not needed, nor imported."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from unilora_spec import Adapter, BaseMismatch, UniLoraError, WorkFailed
from unilora_spec.places import PathLike

from .. import external
from ..folders.base_files import OTHER_CONTENTS
from ..graph.adapt import Weight, check_mode, merged
from ..graph.attention import take_apart
from ..graph.heads import Saved, set_values
from ..graph.paths import add_beside
from ..graph.rebuild import GraphTape
from ..graph.sites import uses
from ..modes import STEP, Form
from ..onnx import LARGEST_FILE, advice, cases, check_call, finish, load, outputs
from ..parity import compare as parity
from ..parity import unrounded
from .feeds import feeds_for, keeps_a_window
from .matching import Match, match, not_comparable, prepare, table

LEAST_OPSET = 13  # Split and Unsqueeze take their numbers as inputs since then


def export_onnx_file(
    base: PathLike,
    adapter: Adapter | Sequence[Adapter],
    path: PathLike,
    mode: str = "merged",
    *,
    given: Mapping[str, str] = {},
    feeds: Sequence[Mapping[str, np.ndarray]] | None = None,
    compare: bool | None = None,
    part: str | None = None,
    required_inputs: bool = False,
    inline: bool = False,
    marked: bool = True,
    progress: Callable[[str], None] = lambda step: None,
) -> dict:
    """Writes the model in the ONNX file ``base`` with ``adapter`` to ``path`` and returns a report of it.

    ``adapter``  one, or several of the same form for the mode "bank"
    ``given``    {the adapter's name of a weight: the name of its initializer, or NAME@ROW}, where it cannot be found
    ``feeds``    what the file is compared on; made up from its inputs' names and types where None
    ``compare``  whether it is compared with the base and ΔW as NumPy computes it; by default where it is below 2 GB
    ``required_inputs``  whether what each run may bring (θ, A and B, a head) has no default, for runtimes without optional inputs
    ``inline``           whether the graph has no local functions and needs no 64-bit integers, for runtimes without them
    ``marked``           whether the .onnx_adapter of "input" and "factored" says what it belongs to; graphs of other tools refuse that

    ``part``     of a model in several files, the part that ``base`` is ("encoder"): it need not hold all of the adapter's weights

    The base stays as it is, and its tensors are read one by one as they are written. Raises ``UniLoraError`` for a call that cannot be met
    and ``WorkFailed`` where the file disagrees.
    """
    base, path = Path(base), Path(path)
    adapters = [adapter] if isinstance(adapter, Adapter) else list(adapter)
    form = Form(required_inputs, inline, marked)
    check_call(path, mode, adapters, form)
    if mode == STEP:
        raise UniLoraError(
            f"{base} has no backward pass, which a step needs and PyTorch makes; give --base the model's folder"
        )
    replaced = {Path(os.path.realpath(file)) for file in outputs(path, mode)}
    if Path(os.path.realpath(base)) in replaced:
        raise UniLoraError(f"{path} is the base itself; give another output")
    progress("reading the base")
    graph = read(base)
    if external.files(graph) & replaced:
        raise UniLoraError(f"{path} would replace the data of the base {base}; give another output")
    opset = graph.opset_imports[""]
    if mode != "merged" and opset < LEAST_OPSET:
        raise UniLoraError(
            f"{base} is of opset {opset}, and the mode {mode} needs {LEAST_OPSET}; convert it with onnx.version_converter"
        )
    progress("looking for the adapter's weights")
    matches, same = match(graph, adapters[0], given, part)
    if not matches:
        raise BaseMismatch(
            f"{base} holds none of the adapter's weights as the part {part!r:.40}; it needs no adapter, or give another --part",
            "10.3",
        )
    there = {each.name for each in matches}
    elsewhere = [name for name in (*adapters[0].layer_map.by_weight(), *adapters[0].saved) if name not in there]
    found = {
        "elsewhere": elsewhere,
        "weights": table(matches),
        "same_contents": same,
        "not_comparable": not_comparable(matches, adapters[0]),
    }
    weights, saved = _places(matches, adapters[0])
    take_apart(graph, [each.value for each in weights], mode)
    check_mode(weights, mode)
    if compare is None:
        compare = size_of(graph) <= LARGEST_FILE
    checks, moved = None, None
    if compare:
        made_up, feeds = feeds is None, feeds_for(graph) if feeds is None else feeds
        progress("running the base in ONNX Runtime")
        names = [value.name for value in graph.graph.outputs if not _is_window(value)]
        try:
            plain = answers_of(read(base), feeds, names)
        except WorkFailed as error:
            mend = "what was made up for its inputs may not fit them: give" if made_up else "give other"
            raise UniLoraError(
                f"{base} does not run without the adapter either: {error}; {mend} --inputs, or --no-compare"
            ) from error
        answers = []
        for each in adapters:
            progress("running the base and ΔW as NumPy computes it")
            answers.append(reference(base, each, given, feeds, names, part))
        moved = max(parity.furthest(a[n], p[n]) for a, p in zip(answers[0], plain) for n in names)
        del plain  # logits of a large vocabulary
        checks = cases(mode, adapters, feeds, answers, required_inputs)
    report = finish(graph, adapters, weights, saved, mode, path, checks, progress, form, base)
    warnings = advice(mode, adapters[0].layer_map)
    if same is False:
        warnings.append(OTHER_CONTENTS)
    if any(node.op_type == "QuantizeLinear" for node in graph.graph.all_nodes()):
        warnings.append(
            "the base rounds what it computes in ranges that were measured without the adapter, and cuts off what the"
            " adapter moves out of them: quantize statically after a merge, or take a dynamically quantized base"
        )
    return {**report, **found, "adapter_moves_outputs_by": moved, "warnings": warnings}


def read(path: Path) -> ir.Model:
    """The graph of a file, made ready for ``match``. Raises ``UniLoraError`` where it is no ONNX file."""
    graph = load(path)
    try:
        prepare(graph)
    except Exception as error:  # of a graph whose names or nodes contradict each other
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UniLoraError(f"{path} is no sound ONNX graph; onnx.checker may say why ({reason:.200})") from error
    return graph


def size_of(graph: ir.Model) -> int:
    """Bytes of all tensors."""
    return sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None)


def _is_window(value: ir.Value) -> bool:
    """Whether an output is a cache of which only a part has numbers."""
    node = value.producer()
    return node is not None and value in node.outputs[1:3] and keeps_a_window(node)


def reference(base: Path, adapter: Adapter, given, feeds, names, part=None) -> list[dict[str, np.ndarray]]:
    """What the base with the adapter answers: s·B and A come from NumPy, and act beside W (``x·Aᵀ·(s·B)ᵀ`` is added).

    ΔW itself would take as much memory as the weights of a base in floats, which a quantized one does not."""
    graph = read(base)
    weights, saved = _places(match(graph, adapter, given, part)[0], adapter)
    set_values(graph, saved, adapter)
    for weight in weights:
        found = uses(weight.value)
        if any(use.form == "other" and use.quantized for use in found):
            _add_to_dequantized(graph, adapter, weight)
            continue
        if any(use.form == "other" for use in found):
            tensor = weight.value.const_value
            weight.value.const_value = ir.Tensor(merged(tensor, adapter, weight.placed), name=tensor.name)
            continue
        for number, use in enumerate(found):
            factors = [
                _constant(graph, f"{weight.value.name}.Δ{number}.{i}", array, use.dtype)
                for i, array in enumerate(_factors(adapter, weight.placed, use))
            ]
            add_beside(use, _acting(use, factors))
    return answers_of(graph, feeds, names)


def _add_to_dequantized(graph: ir.Model, adapter: Adapter, weight: Weight) -> None:
    """W + ΔW where a fused attention takes a quantized W: in floats, as that is what the graph is compared in."""
    for use in uses(weight.value):
        unrounded.replace(graph, use.node)
    delta = np.zeros(tuple(weight.value.shape), np.float32)
    adapter.add_deltas(weight.placed, delta)
    for number, node in enumerate(node for node in weight.value.consumers() if node.op_type == "DequantizeLinear"):
        W = node.outputs[0]
        used, tape = W.uses(), GraphTape(f"{weight.value.name}.adapted{number}")
        dtype = node.inputs[1].dtype
        adapted = tape.add("Add", W, tape.constant(f"{weight.value.name}.Δ{number}", delta, dtype.numpy()), dtype=dtype)
        for user, position in used:
            user.replace_input_with(position, adapted)
        for value in tape.initializers:
            graph.graph.register_initializer(value)
        node.graph.insert_after(node, tape.nodes)


def answers_of(graph: ir.Model, feeds, names) -> list[dict[str, np.ndarray]]:
    """What ONNX Runtime answers to each feed, of a graph that may be changed."""
    session = unrounded.session(graph)
    return [parity.run(session, feed, names) for feed in feeds]


def _factors(adapter: Adapter, placed, use) -> list[np.ndarray]:
    """s·B (out, all ranks) and A (all ranks, in) of one weight, zeros where no segment is, as a use takes them in turn; ΔW as it takes
    it where a segment is of rank 0."""
    if all(segment.rank for segment, _ in placed):
        ranks = sum(segment.rank for segment, _ in placed)
        A, B, end = np.zeros((ranks, use.shape[1]), np.float32), np.zeros((use.shape[0], ranks), np.float32), 0
        for segment, offset in placed:
            row, start, end = segment.row or 0, end, end + segment.rank
            own_A, own_B = segment.factors(adapter.projection.expand(adapter.theta, offset, offset + segment.size))
            A[start:end] = own_A
            B[row : row + segment.out_features, start:end] = adapter.layer_map.factor_scale(segment) * own_B
        return [A.T, B.T] if use.form == "product" else [B, A]
    delta = np.zeros(use.shape, np.float32)
    adapter.add_deltas([(replace(s, transposed=False), offset) for s, offset in placed], delta)
    return [delta.T if use.form == "product" else delta]


def _constant(graph: ir.Model, name: str, array: np.ndarray, dtype: ir.DataType) -> ir.Value:
    tensor = ir.Tensor(np.ascontiguousarray(array).astype(dtype.numpy()), name=name)
    value = ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(dtype))
    graph.graph.register_initializer(value)
    return value


def _acting(use, factors):
    def change(tape, x):
        first, *rest = factors
        if use.form == "lookup":
            x = tape.add("Gather", first, x, dtype=use.dtype)
        for factor in rest if use.form == "lookup" else factors:
            x = tape.add("MatMul", x, factor, dtype=use.dtype)
        return x

    return change


def _places(matches: list[Match], adapter: Adapter) -> tuple[list[Weight], list[Saved]]:
    placed, weights, saved = adapter.layer_map.placed_by_weight(), {}, []
    for found in matches:
        if found.name in adapter.saved:
            saved.append(Saved(found.value, found.name, found.transposed))
            continue
        weight = weights.setdefault(found.value.name, Weight(found.value, []))
        for segment, offset in placed[found.name]:
            row = segment.row if found.row is None else found.row + (segment.row or 0)
            weight.placed.append((replace(segment, transposed=found.transposed, row=row), offset))
    return list(weights.values()), saved
