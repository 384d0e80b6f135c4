"""`export nodes` against ONNX Runtime's own assignment: does its table say of each node where it runs?"""

from collections.abc import Iterator

from ..exported import written
from ..findings import Given, checked, left_out, tried


def findings(given: Given) -> Iterator[dict]:
    modes = written(given.files)
    if not modes:
        yield left_out("every mode", "there are no files: the part onnx_modes makes them, where the exporter runs")
    for mode in modes:
        yield from tried(mode, _compared(mode, given.files / f"{mode}.onnx"))


def _compared(mode, path):
    from export.kernels.nodes import compared  # within, so that onnx's absence is told as one

    found = compared(path)
    if found is None:
        yield left_out(mode, "ONNX Runtime assigns nothing to CUDA here; the table was asked alone")
        return
    count, others = found
    faults = [
        f"{node['operator']} {node['first']} is said to run on {node['said']}, and runs on {node['where']}"
        for node in others
    ]
    yield checked(f"{mode}: the places of its nodes", count, faults)
