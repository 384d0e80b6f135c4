"""A graph in float32 in place of bfloat16, of which ONNX Runtime has no kernels on the CPU.

The weights stay what rounding made them, so that this graph answers as the one in bfloat16 would if sums and products were
exact. What PyTorch gives in bfloat16 differs from that by its own roundings alone.
"""

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir

from unilora_spec.places import PARTIAL

from .. import external

NARROW, WIDE = ir.DataType.BFLOAT16, ir.DataType.FLOAT


def has_bfloat16(model: ir.Model) -> bool:
    """Whether any tensor that is stored, fed or computed is bfloat16."""
    return any(value.dtype == NARROW for value in _values(model))


@contextmanager
def widened(path: Path, model: ir.Model) -> Iterator[Path]:
    """The file of ``model``, which is the one in ``path`` and is changed, in float32: beside it, for as long as it is read."""
    for value in _values(model):
        if value.dtype == NARROW:
            value.dtype = WIDE
            if value.const_value is not None:
                value.const_value = _wide(value.const_value)
    for node in _nodes(model):
        for attribute in list(node.attributes.values()):
            if attribute.name in ("to", "dtype") and attribute.value == NARROW:
                node.attributes[attribute.name] = ir.AttrInt64(attribute.name, WIDE)
            if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype == NARROW:
                node.attributes[attribute.name] = ir.AttrTensor(attribute.name, _wide(attribute.value))
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent) as folder:
        wide = Path(folder) / "float32.onnx"
        external.write_data(model, wide.parent)
        ir.save(model, wide)
        yield wide


def _wide(tensor):
    return ir.LazyTensor(
        lambda: ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name),
        dtype=WIDE, shape=tensor.shape, name=tensor.name,
    )  # fmt: skip


def _nodes(model):
    return itertools.chain(model.graph.all_nodes(), *(function.all_nodes() for function in model.functions.values()))


def _values(model):
    graphs = [*model.graphs()]
    stored = (value for graph in graphs for value in [*graph.inputs, *graph.initializers.values()])
    return itertools.chain(stored, (value for node in _nodes(model) for value in node.outputs))
