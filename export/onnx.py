"""A graph with its adapter as an ONNX file: written, checked and compared before it takes its place. Knows no PyTorch."""

import glob
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from unilora_spec import Adapter, LayerMap, UniLoraError
from unilora_spec.places import check_output, digest, is_data_of
from unilora_spec.placing import placing
from unilora_spec.program import Program
from unilora_spec.serialization import encode

from . import external
from .graph.adapt import Saved, Weight, adapt
from .graph.marks import marks
from .graph.rebuild import index_words, pairs
from .modes import BESIDE, MODES, PLAIN, STEP, Form
from .onnx_limits import check_limits
from .parity import compare as parity
from .parity.file import compare_file, compare_step

OPSETS = range(18, 23)
"""What torch can be asked for: it writes 18, and converts. At 23 onnxscript fuses rotary embeddings in a form that ONNX
Runtime 1.32 refuses (cos_cache and sin_cache of one row for the whole batch)."""
LARGEST_FILE = 2**31 - 2**24  # protobuf's limit, less room for the nodes; above it the tensors go into a file beside
GATHERED = {"input": 2**22, "bank": 2**20}
"""Entries of θ_D from where gathering them in each run is worth a warning: 3 ns an entry on one core, thus 12 ms for 2^22, and
for a bank so much for each row of the batch, with 4 bytes an entry. python -m benchmarks.large_onnx --adapter measures it."""


def check_call(path: Path, mode: str, adapters: Sequence[Adapter], form: Form = PLAIN) -> None:
    """Raises ``UniLoraError`` for a call that can be refused before anything is loaded."""
    if mode not in MODES:
        raise UniLoraError(f"mode is {mode!r}; give {', '.join(MODES)}")
    form.check(mode)
    if not path.parent.is_dir():
        raise UniLoraError(f"{path}: the folder {path.parent} does not exist; make it, or give another output")
    check_output(path)
    for file in outputs(path, mode)[1:]:
        check_output(file)
    if mode != "bank" and len(adapters) > 1:
        raise UniLoraError(
            f"{len(adapters)} adapters are given, and the mode {mode} takes one; --mode bank takes several"
        )
    first = adapters[0]
    if mode == "bank" and isinstance(first.projection, Program):
        raise UniLoraError(
            f"the kind {first.projection.kind} has no vector for each row of a batch: its entries depend on several numbers;"
            " --mode input takes one adapter for all rows"
        )
    if mode == "factored" and (without := [s.name for s in first.layer_map.segments if s.rank == 0]):
        raise UniLoraError(f"{without[0]} is adapted with rank 0, without an A and B to feed; --mode input feeds theta")
    for number, other in enumerate(adapters[1:], 2):
        for what, same in (
            ("projection", first.projection == other.projection),
            ("layer map", first.layer_map == other.layer_map),
            ("base", (first.base and first.base.contents) == (other.base and other.base.contents)),
            ("parameters trained in full", _shapes(first.saved) == _shapes(other.saved)),
        ):
            if not same:
                raise UniLoraError(
                    f"adapter {number} has another {what} than the first; a bank holds adapters that differ in their"
                    " values alone: train them with the same seed, d, rank, targets and base"
                )


def load(path: Path) -> ir.Model:
    """The graph of a file, its tensors where they are. Raises ``UniLoraError`` where it is no ONNX file, asks for too much
    (``onnx_limits``), or has data that are not its own (``external.resolve``)."""
    check_limits(path)
    try:
        graph = ir.load(path)
        external.resolve(graph, path)
        return graph
    except UniLoraError:
        raise
    except Exception as error:  # onnx-ir's, of many kinds
        raise UniLoraError(f"{path} is no ONNX file: {str(error).splitlines()[0]:.200}") from error


def outputs(path: Path, mode: str) -> list[Path]:
    """The files that an export to ``path`` writes, the graph first. The data of a large graph are not among them."""
    return [path, *(path.with_suffix(suffix) for suffix in BESIDE.get(mode, ()))]


def advice(mode: str, layer_map: LayerMap) -> list[str]:
    """Warnings for a report where D is so large that another mode is faster."""
    D = layer_map.D
    if D <= GATHERED.get(mode, D):
        return []
    each, instead = "", "a file for each adapter does not"
    if mode == "bank":
        each = f" for each row of the batch, {4 * D / 1e6:,.0f} MB a row"
    elif all(segment.rank for segment in layer_map.segments):
        instead = "--mode factored does it once for an adapter, by its expander"
    return [f"each run gathers {D:,} entries of theta_D{each}, some {3e-6 * D:,.0f} ms on one core; {instead}"]


def feeds_of(adapter: Adapter) -> dict[str, np.ndarray]:
    """What the mode "factored" is fed beside the model's inputs: A and s·B of each segment, float32, and their marks."""
    return pairs(adapter) | marks(adapter)


def cases(
    mode: str,
    adapters: Sequence[Adapter],
    batches: Sequence[Mapping],
    answers: Sequence[Sequence[Mapping]],
    required: bool = False,
) -> list[tuple[dict, dict]]:
    """What an exported graph is fed and has to answer, from ``answers[adapter][batch]``, outputs by name; where its inputs are
    ``required``, with what they would have as their defaults."""
    found, defaults = [], _defaults(mode, adapters) if required else {}
    for number, batch in enumerate(batches):
        expected = answers[0][number]
        feed = dict(batch) | defaults
        if mode == "factored":
            feed |= feeds_of(adapters[0])
        if mode == "bank":
            rows = len(next(iter(batch.values())))
            feed["adapter"] = np.arange(rows, dtype=np.int64) % len(adapters)
            mixed = {
                name: [answers[k][number][name][row] for row, k in enumerate(feed["adapter"])] for name in expected
            }
            expected = {name: np.stack(values) for name, values in mixed.items()}
        found.append((feed, expected))
    return found


def _defaults(mode, adapters):
    if mode == "bank":
        found = {"theta": np.stack([np.asarray(each.theta, np.float32) for each in adapters])}
        saved = {
            f"{name}.bank": np.stack([np.asarray(a.saved[name], np.float32) for a in adapters])
            for name in adapters[0].saved
        }
        return found | saved
    found = {"theta": np.asarray(adapters[0].theta, np.float32)} if mode == "input" else {}
    return found | {name: np.asarray(value, np.float32) for name, value in adapters[0].saved.items()}


def finish(
    graph: ir.Model,
    adapters: Sequence[Adapter],
    weights: list[Weight],
    saved: list[Saved],
    mode: str,
    path: Path,
    checks: list[tuple[dict, dict]] | None,
    progress: Callable[[str], None],
    form: Form = PLAIN,
    base: Path | None = None,
) -> dict:
    """Puts the adapters into ``graph``, writes it to ``path``, and returns a report of it.

    It is checked by onnx, as far as the ONNX file ``base`` that it was made of passes, and, unless ``checks`` is None, has to
    answer what these say, in ONNX Runtime. Raises
    ``UniLoraError`` where the graph does not allow the mode, ``WorkFailed`` where the file is not sound or disagrees; then nothing at
    ``path`` has changed.
    """
    progress("putting the adapter in")
    keep = external.files(graph)
    adapt(graph, adapters, weights, saved, mode, form)
    graph.metadata_props.update(metadata(adapters, mode))
    return place(graph, adapters, mode, path, checks, progress, form, base, keep)


def place(
    graph: ir.Model,
    adapters: Sequence[Adapter],
    mode: str,
    path: Path,
    checks: list[tuple[dict, dict]] | None,
    progress: Callable[[str], None],
    form: Form = PLAIN,
    base: Path | None = None,
    keep: Iterable[Path] = (),
) -> dict:
    """Writes a graph that has its adapter in it, as ``finish`` does. When a graph is replaced its data are removed, but not the files ``keep``."""
    graph.ir_version = max(graph.ir_version, 8)  # the first with functions
    # The data that a graph refers to has its digest in its name, so that an old graph finds its old data until it is replaced.
    with placing(path, lambda: _data_of(path) - set(keep)) as folder:
        progress("writing the file")
        files = _write(graph, folder / path.name)
        files += _write_beside(adapters[0], graph.opset_imports[""], folder, path, mode, form)
        progress("checking it with onnx")
        parity.check(files[0], base)
        comparison, providers = None, ["CPUExecutionProvider"]
        if checks is not None:
            progress("running it in ONNX Runtime")
            comparison, providers = (compare_step if mode == STEP else compare_file)(files[0], checks)
            parity.check_tolerance(comparison)
        sizes = {str(path.parent / file.name): file.stat().st_size for file in files}
    return {
        "file": str(path),
        "files": sizes,
        "bytes": sum(sizes.values()),
        "mode": mode,
        "opset": graph.opset_imports[""],
        "nodes": len(graph.graph),
        "nodes_inlined": _count_nodes(graph),
        "index": None if mode == "merged" else index_words(adapters[0], graph.opset_imports[""], form.inline),
        "inputs": {v.name: [str(d) for d in v.shape] for v in graph.graph.inputs},
        "defaults": [v.name for v in graph.graph.inputs if v.name in graph.graph.initializers],
        "outputs": {v.name: [str(d) for d in v.shape or ()] for v in graph.graph.outputs},
        "providers": providers,
        "comparison": comparison,
    }


def metadata(adapters: Sequence[Adapter], mode: str) -> dict[str, str]:
    """The metadata of a file that describe its adapter, by key."""
    adapter = adapters[0]
    p, base = adapter.projection, adapter.base
    name = base.name if base else ""
    thetas = (hashlib.sha256(np.ascontiguousarray(each.theta, "<f4")).hexdigest() for each in adapters)
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
        "unilora.base_structure": base.structure if base else "",
        "unilora.base_contents": base.contents if base else "",
        "unilora.theta_sha256": ",".join(thetas),
    }


def _count_nodes(model: ir.Model) -> int:
    """How many nodes the graph has with its functions inlined, which is what a runtime begins with."""
    sizes = {}

    def size(nodes):
        return sum(function_size(node.op_identifier()) for node in nodes)

    def function_size(identifier):
        if identifier not in model.functions:
            return 1
        if identifier not in sizes:
            sizes[identifier] = size(model.functions[identifier])
        return sizes[identifier]

    return size(model.graph)


def _shapes(saved):
    return {name: value.shape for name, value in saved.items()}


def _data_of(path: Path) -> set[Path]:
    """The data that an export to ``path`` wrote beside it, and that the graph there refers to; a renamed graph took its own along.

    They are regular files and no links, bear the graph's name, and are what the digest in their own name says: what else the
    graph may refer to is not this project's, and stays.
    """
    if not path.is_file() or not any(path.parent.glob(f"{glob.escape(path.name)}.*.data")):
        return set()
    try:
        own = (file for file in external.files(load(path)) if file.parent == path.parent.resolve())
        return {file for file in own if is_data_of(path, file)}
    except UniLoraError:  # what is replaced may be anything
        return set()


def _write(model: ir.Model, path: Path) -> list[Path]:
    """Writes the graph, and its data beside it where it is too large for one file or its base had them so. Returns the files, the graph
    first."""
    values, data = [value for graph in model.graphs() for value in graph.initializers.values()], None
    if external.files(model) or sum(value.const_value.nbytes for value in values) > LARGEST_FILE:
        data = external.write_data(
            model, path.parent, lambda file: file.rename(path.with_name(f"{path.name}.{digest(file)}.data"))
        )
    path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    return [path, *([data] if data else [])]


def _write_beside(adapter: Adapter, opset: int, folder: Path, path: Path, mode: str, form: Form) -> list[Path]:
    """Writes the files that belong beside a graph: the .onnx_adapter with what is fed, and the expander; for a step, the adapter itself."""
    from .graph.expander import expander, write_adapter

    files = [folder / file.name for file in outputs(path, mode)[1:]]
    for file in files:
        if file.suffix == ".safetensors":
            file.write_bytes(encode(adapter))
        elif file.suffix == ".onnx":
            model = expander(adapter, opset, form)
            model.metadata_props.update(metadata([adapter], "expander"))
            file.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
        else:
            write_adapter(adapter, mode, file, form.marked)
    return files
