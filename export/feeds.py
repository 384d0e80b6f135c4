"""What an ONNX file is run on where nobody gives it an input: made up from its inputs' names, types and axes."""

import re

import numpy as np
import onnx_ir as ir

from unilora_spec import UniLoraError

SIZES = ({"batch": 3, "sequence": 9, "past": 0}, {"batch": 1, "sequence": 5, "past": 4}, {"batch": 5, "sequence": 12, "past": 2})
"""Three batches of different sizes. An axis is "past" where its name says so, the sum of past and sequence where it says
that, the batch where it is an input's first, and else the sequence."""


def feeds_for(model: ir.Model) -> list[dict[str, np.ndarray]]:
    """Three batches. The same graph gets the same ones.

    Numbers of rows stay below the number of rows of the table that they look up, masks hide the end of the second row.
    Raises ``UniLoraError`` for an input of a type or an axis that cannot be made up.
    """
    given = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    random = np.random.default_rng(0)
    return [{value.name: _array(value, sizes, random) for value in given} for sizes in SIZES]


def _array(value, sizes, random):
    if value.shape is None:
        raise UniLoraError(f"the input {value.name} has no shape; give --inputs an .npz file with arrays by name")
    shape = [_size(value, axis, size, sizes) for axis, size in enumerate(value.shape)]
    if value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE):
        return random.normal(size=shape).astype(value.dtype.numpy())
    if value.dtype == ir.DataType.BOOL:
        return np.zeros(shape, bool) if "use_cache" in value.name else np.ones(shape, bool)
    if value.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        raise UniLoraError(f"the input {value.name} is {value.dtype.name}; give --inputs an .npz file with arrays by name")
    made = _integers(value, shape, sizes, random)
    return made.astype(value.dtype.numpy())


def _integers(value, shape, sizes, random):
    if "mask" in value.name:
        made = np.ones(shape, np.int64)
        if len(shape) == 2 and shape[0] > 1:
            made[1, sizes["past"] + (shape[1] - sizes["past"]) // 2 + 1 :] = 0
        return made
    if "position" in value.name and len(shape):
        return np.broadcast_to(np.arange(shape[-1]) + sizes["past"], shape)
    if "type" in value.name:
        return np.zeros(shape, np.int64)
    return random.integers(0, _rows(value), shape)


def _size(value, axis, size, sizes):
    if isinstance(size, int):
        return size
    name = (size.value or "").lower()
    if re.search(r"total|\+|past.*(and|plus)|kv_?len", name) or ("mask" in value.name and axis == 1 and _has_past(value)):
        return sizes["past"] + sizes["sequence"]
    if "past" in name or (axis == 2 and "past" in value.name):
        return sizes["past"]
    return sizes["batch"] if axis == 0 else sizes["sequence"]


def _has_past(value):
    return any("past" in other.name for other in value.graph.inputs)


def _rows(value, depth=8):
    """The rows of the smallest table that a value's numbers look up; 2 where none is found."""
    found = []
    for node, position in value.uses() if depth else ():
        if node.op_type == "Gather" and position == 1 and node.inputs[0].shape is not None:
            axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
            if isinstance(rows := node.inputs[0].shape[axis], int):
                found.append(rows)
        elif node.op_type in ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten") and position == 0:
            found.append(_rows(node.outputs[0], depth - 1))
    return min((rows for rows in found if rows > 2), default=2)
