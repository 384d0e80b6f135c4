"""Compares a file with its model: onnx checks the file, ONNX Runtime runs it, and its answers are compared with PyTorch's."""

import contextlib
import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from unilora_spec import WorkFailed

from .. import external
from .widen import has_bfloat16, widened

NO_BFLOAT16 = "in float32, as ONNX Runtime has no bfloat16 on the CPU"
PART = 2**18  # entries that are compared at once
SILENT, WARNINGS = 4, 2  # severities of ONNX Runtime's log; 2 is its own default
TOLERANCES = {"float64": 1e-4, "float32": 1e-4, "float16": 1e-2, "bfloat16": 8e-2}
"""The largest difference that passes, as a part of the output's largest entry, or absolute where that is below 1.
In float32 (2^-24 = 6e-8 a rounding) both sides differ in the order of their sums: 1e-7 to 1e-5 for models of a few to
dozens of layers. A wrong entry of the index, a wrong scale or a lost segment moves an output by 1e-3 and more of it, unless
the adapter itself does next to nothing; so the report says how far the adapter moves the outputs. float16 and bfloat16
round at 2^-11 and 2^-8, each side elsewhere: seen are 3e-3 and 2e-2 in small models that such an adapter moves far, 1e-3 and
1.2e-2 in MiniLM's six layers, and three to ten times that are allowed."""


GRADIENT = ".grad"  # the end of the name of an output that is one
OF_GRADIENTS = 1e-4
"""The same for gradients, as a part of the largest entry of each, or of a hundredth of the largest of all gradients where that is more: one
that is 0 but for rounding, as that of attention's key bias, is a sum whose terms are as large as the others'. They are sums over all rows
and back through all layers; seen are 1e-6 in MiniLM. A lost term, a wrong scale or a wrong column moves them by 1e-2 and more."""


def check(path: Path, base: Path | None = None) -> None:
    """onnx's checker and its strict shape inference, on the file. Raises ``WorkFailed``.

    onnx knows no operators of ONNX Runtime's, and its inference takes some sound graphs for wrong ones. What the ONNX file
    ``base`` itself fails is therefore not asked of a file that was made of it; instead ONNX Runtime has to load the file.
    """
    left_open = False
    for judge in (onnx.checker.check_model, _infer, functools.partial(_infer, with_values=True)):
        error = _refusal(judge, path)
        if error and (base is None or not _refusal(judge, base)):
            raise WorkFailed(f"onnx's checker refuses the exported file: {error}")
        left_open |= bool(error)
    if left_open:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")  # copies, which nothing is computed with
        session_to_compare(path, options)


def _refusal(judge, path) -> str:
    try:
        judge(str(path))
    except Exception as error:  # noqa: BLE001  onnx's, of many kinds
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ""


def _infer(path, with_values=False):
    graph = onnx.load(path, load_external_data=False)
    onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True, data_prop=with_values)


def session(
    model: Path | bytes, threads: int = 0, options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """A file, or the bytes of one, in ONNX Runtime, on a GPU where its build and the machine have one, on the CPU elsewhere.

    ``threads`` on the CPU; 0 leaves it to ONNX Runtime.
    """
    options = options or onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = SILENT
    with _refusals(), _silenced():
        if not _has_cuda():
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        onnxruntime.preload_dlls()  # CUDA's libraries as pip installs them beside torch
        # TF32 rounds a product's factors to 10 bits, which would be most of any difference seen.
        providers = [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
        return onnxruntime.InferenceSession(model, options, providers=providers)


def session_to_compare(path: Path, options: onnxruntime.SessionOptions | None = None) -> onnxruntime.InferenceSession:
    """A file in ONNX Runtime; one with bfloat16, of which the CPU has no kernels, in float32 there (widen.py)."""
    if not _has_cuda() and has_bfloat16(graph := ir.load(path)):
        external.resolve(graph, path)
        with widened(path, graph) as wide:
            return session(wide, options=options)
    return session(path, options=options)


def _has_cuda() -> bool:
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@contextlib.contextmanager
def _silenced():
    """A CUDA build on a machine without a GPU logs errors, prints that it falls back, and goes on with the CPU."""
    onnxruntime.set_default_logger_severity(SILENT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        onnxruntime.set_default_logger_severity(WARNINGS)


def run(session, feed: Mapping, names: Sequence[str]) -> dict[str, np.ndarray]:
    """What a session answers, by name, of the feed what it takes: an exporter leaves out an input that has no effect."""
    takes = {value.name for value in session.get_inputs() + session.get_overridable_initializers()}
    with _refusals():
        answers = session.run(names, {name: value for name, value in feed.items() if name in takes})
    return dict(zip(names, answers))


def precision(graph: ir.Model) -> str:
    """The coarsest floats that are stored in a graph."""
    found = {value.dtype.name.lower() for value in graph.graph.initializers.values()}
    return next((name for name in reversed(TOLERANCES) if name in found), "float32")


def compare(session, cases: Sequence[tuple[Mapping, Mapping]], floats: str = "float32") -> dict:
    """What a session answers to each case's feed against what the case expects, arrays by name; ``floats`` are the coarsest
    that either of them computes in.

    "outputs" has for each of them the largest absolute difference and the largest one relative to its largest entry, and
    how many labels (the largest of the last axis) changed; "within" says whether all is within the tolerance. Raises
    ``WorkFailed`` where an output has another shape or is not finite.
    """
    outputs = {}
    for feed, expected in cases:
        slopes = [float(np.abs(wanted).max(initial=0)) for name, wanted in expected.items() if name.endswith(GRADIENT)]
        least = max(0.01 * max(slopes, default=0), float(np.finfo(np.float32).tiny))  # of a gradient's size
        for name, answer in run(session, feed, list(expected)).items():
            wanted = expected[name]
            if answer.shape != wanted.shape or not np.isfinite(answer).all():
                raise WorkFailed(f"{name} of the exported model has another shape than is expected, or is not finite")
            row = outputs.setdefault(name, {"absolute": 0.0, "relative": 0.0, "size": 0.0, "labels": 0, "changed": 0})
            difference = furthest(answer, wanted)
            size = max(float(wanted.max(initial=0)), -float(wanted.min(initial=0)))
            if name.endswith(GRADIENT):
                tolerance = OF_GRADIENTS
            elif answer.dtype.kind != "f":  # numbers of a class, or results that are quantized: by a step at most
                tolerance = float(answer.dtype.itemsize == 1) / max(size, 1.0)
            else:
                tolerance = max(TOLERANCES[floats], TOLERANCES[str(answer.dtype)])
            row["absolute"] = max(row["absolute"], difference)
            row["relative"] = max(row["relative"], difference / max(size, least if name.endswith(GRADIENT) else 1.0))
            row["size"] = max(row["size"], size)
            row["tolerance"] = max(row.get("tolerance", 0.0), tolerance)
            if name == "logits" and wanted.ndim > 1 and wanted.shape[-1] > 1:
                row["labels"] += wanted[..., 0].size
                row["changed"] += int((answer.argmax(-1) != wanted.argmax(-1)).sum())
    return {
        "batches": [list(next(iter(feed.values())).shape) for feed, _ in cases],
        "outputs": outputs,
        "note": NO_BFLOAT16 if floats == "bfloat16" and not _has_cuda() else None,
        "within": all(row["relative"] <= row["tolerance"] for row in outputs.values()),
    }


def furthest(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two arrays of one shape, a part at a time, as logits may be large."""
    pairs = zip(*(np.array_split(array.ravel(), -(-array.size // PART) or 1) for array in (one, other)))
    return max(float(np.max(np.abs(a.astype(np.float64) - b), initial=0.0)) for a, b in pairs)


def check_tolerance(comparison: dict) -> None:
    """Raises ``WorkFailed`` where a comparison is not within the tolerance."""
    for name, row in comparison["outputs"].items():
        if not row["relative"] <= row["tolerance"]:
            raise WorkFailed(
                f"the exported model's {name} disagree with what the adapter makes of the base by {row['absolute']:.3g},"
                f" where they reach {row['size']:.3g} and {row['tolerance']:g} of that may differ; the file was not kept"
            )


@contextlib.contextmanager
def _refusals():
    try:
        yield
    except Exception as error:  # ONNX Runtime's have no common class of their own
        raise WorkFailed(
            f"ONNX Runtime refuses the exported file: {str(error).strip().splitlines()[0]:.300}"
        ) from error
