"""`export nodes` against ONNX Runtime's own assignment: does its table say of each node where it runs?"""

from collections.abc import Iterator

from ..exported import modes_in
from ..findings import Context, checked, guarded, left_out


def findings(context: Context) -> Iterator[dict]:
    modes = modes_in(context.files)
    if not modes:
        yield left_out("every mode", "there are no files: the part onnx_modes makes them, where the exporter runs")
    for mode in modes:
        yield from guarded(mode, _compared(mode, context.files / f"{mode}.onnx"))


def _compared(mode, path):
    from export.kernels.nodes import compared  # imported here, so that the absence of onnx is a finding

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
