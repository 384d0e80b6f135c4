"""Does a file say what the model says? It is checked by onnx, run in ONNX Runtime, and compared with PyTorch."""

import contextlib
import io
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from unilora_spec import WorkFailed

SILENT, WARNINGS = 4, 2  # severities of ONNX Runtime's log; 2 is its own default
TOLERANCE = 1e-4
"""The largest difference that passes, as a part of the output's largest entry, or absolute where that is below 1.
Both sides compute in float32 (2^-24 = 6e-8 a rounding) and differ in the order of their sums: 1e-7 to 1e-5 for models of
a few to dozens of layers. A wrong entry of the index, a wrong scale or a lost segment moves an output by 1e-3 and more
of it, unless the adapter itself does next to nothing; so the report says how far the adapter moves the outputs."""


def check(path: Path) -> None:
    """onnx's checker and its strict shape inference, on the file. Raises ``WorkFailed``."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
        onnx.shape_inference.infer_shapes(onnx.load(str(path)), check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise WorkFailed(f"onnx's checker refuses the exported file: {str(error).strip().splitlines()[0]}") from error


def session(
    model: Path | bytes, threads: int = 0, options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """A file, or the bytes of one, in ONNX Runtime, on a GPU where its build and the machine have one, on the CPU elsewhere.

    ``threads`` on the CPU; 0 leaves it to ONNX Runtime.
    """
    options = options or onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = SILENT
    with _refusals(), _without_a_word():
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        onnxruntime.preload_dlls()  # CUDA's libraries as pip installs them beside torch
        # TF32 rounds a product's factors to 10 bits, which would be most of any difference seen.
        providers = [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
        return onnxruntime.InferenceSession(model, options, providers=providers)


@contextlib.contextmanager
def _without_a_word():
    """A CUDA build on a machine without a GPU logs errors, prints that it falls back, and goes on with the CPU."""
    onnxruntime.set_default_logger_severity(SILENT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        onnxruntime.set_default_logger_severity(WARNINGS)


def compare(session, batches: list[dict], expected: list[dict]) -> dict:
    """The largest differences between ONNX Runtime's outputs and ``expected``, over all batches; arrays by name.

    ``largest_relative`` is relative to the output's largest entry. Raises ``WorkFailed`` above ``TOLERANCE``.
    """
    result = {
        "largest_absolute": 0.0,
        "largest_relative": 0.0,
        "tolerance": TOLERANCE,
        "changed_labels": 0,
        "labels": 0,
    }
    for batch, wanted in zip(batches, expected):
        with _refusals():
            outputs = session.run(list(wanted), batch)
        for (name, value), output in zip(wanted.items(), outputs):
            if output.shape != value.shape or not np.isfinite(output).all():
                raise WorkFailed(f"{name} of the exported model has another shape than PyTorch's, or is not finite")
            difference = float(np.max(np.abs(output.astype(np.float64) - value), initial=0.0))
            size = float(np.max(np.abs(value), initial=0.0))
            if not difference <= TOLERANCE * max(size, 1.0):
                raise WorkFailed(
                    f"the exported model's {name} disagree with PyTorch's by {difference:.3g}, where they reach"
                    f" {size:.3g} and {TOLERANCE:g} of that may differ; the file was not kept"
                )
            result["largest_absolute"] = max(result["largest_absolute"], difference)
            result["largest_relative"] = max(result["largest_relative"], difference / (size or 1.0))
            if name == "logits" and value.ndim > 1 and value.shape[-1] > 1:
                result["labels"] += value[..., 0].size
                result["changed_labels"] += int((output.argmax(-1) != value.argmax(-1)).sum())
    return result


@contextlib.contextmanager
def _refusals():
    try:
        yield
    except Exception as error:  # ONNX Runtime's have no common class of their own
        raise WorkFailed(
            f"ONNX Runtime refuses the exported file: {str(error).strip().splitlines()[0]:.300}"
        ) from error
