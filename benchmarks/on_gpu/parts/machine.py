"""Describes the machine. It is the first part, and finds out whether there is a GPU at all."""

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from ..findings import NOTED, Context, finding, guarded

PACKAGES = (
    "torch", "triton", "numpy", "transformers", "peft", "onnx", "onnx-ir", "onnxscript", "onnxruntime-gpu", "onnxruntime",
    "hypothesis", "pytest",
)  # fmt: skip
GPU = "GPU"


def findings(context: Context) -> Iterator[dict]:
    yield finding("Python", NOTED, platform.python_version())
    yield finding("packages", NOTED, ", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    yield finding("load", NOTED, f"{os.getloadavg()[0]:.1f} processes were running before")
    yield from guarded(GPU, _gpu())


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not here)"


def _gpu():
    import torch  # imported here, so that its absence is a finding

    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        memory, processors = about.total_memory / 2**30, about.multi_processor_count
        says = f"{about.name}, {memory:.0f} GiB, {processors} multiprocessors, compute capability {about.major}.{about.minor}"
        yield finding(GPU, NOTED, f"{says}, CUDA {torch.version.cuda}")
    elif torch.version.cuda is None:
        yield finding("no GPU", NOTED, "this torch is built without CUDA")
    else:
        yield finding("no GPU", NOTED, "torch finds none")
