"""`export nodes` against ONNX Runtime's own assignment: does its table say of each node where it runs?"""

from collections.abc import Iterator

from ..exported import MODES
from ..findings import Given, checked, left_out, tried
from .onnx_modes import files_of


def findings(given: Given) -> Iterator[dict]:
    from export.kernels.nodes import compared  # within, so that onnx's absence is told as one

    files = files_of(given)
    for mode in [mode for mode in MODES if (files / f"{mode}.onnx").exists()]:
        yield from tried(mode, _compared(mode, compared(files / f"{mode}.onnx")))


def _compared(mode, found):
    if found is None:
        yield left_out(mode, "ONNX Runtime assigns nothing to CUDA here; the table was asked alone")
        return
    count, others = found
    faults = [f"{node['operator']} {node['first']} is said to run on {node['said']}, and runs on {node['where']}" for node in others]
    yield checked(f"{mode}: the places of its nodes", count, faults)
