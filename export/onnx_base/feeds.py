"""What an ONNX file is run on where nobody gives it an input: made up from its inputs' names, types and axes."""

import math
import re

import numpy as np
import onnx_ir as ir

from unilora_spec import UniLoraError

SIZES = (
    {"batch": 3, "sequence": 9, "past": 0},
    {"batch": 1, "sequence": 5, "past": 4},
    {"batch": 5, "sequence": 12, "past": 2},
)
"""Three batches of different sizes."""
MOST = 2**26  # entries of an input that is made up
SIDE = 64  # of an image where the axis is open


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
    if min(shape, default=0) < 0 or math.prod(shape) > MOST:
        raise UniLoraError(
            f"the input {value.name} has shape {shape}; give --inputs an .npz file with smaller arrays by name"
        )
    if value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE):
        if "mask" in value.name:
            return np.ones(shape, value.dtype.numpy())
        return random.normal(size=shape).astype(value.dtype.numpy())
    if value.dtype == ir.DataType.BOOL:
        return np.zeros(shape, bool) if "use_cache" in value.name else np.ones(shape, bool)
    if value.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        raise UniLoraError(
            f"the input {value.name} is {value.dtype.name}; give --inputs an .npz file with arrays by name"
        )
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
    """By the axis's name, which may be a sum; where it says nothing, the batch is first, and the cache's third is its past."""
    if isinstance(size, int):
        return size
    name = (size.value or "").lower()
    if "+" in name:
        return sum(_term(part.strip(), sizes) for part in name.split("+"))
    if re.search(r"total|past.*(and|plus)|kv_?len", name) or _is_mask_over_the_past(value, axis, size):
        return sizes["past"] + sizes["sequence"]
    if "past" in name or (axis == 2 and "past" in value.name):
        return sizes["past"]
    if "channel" in name:
        return _channels(value)
    if name in ("height", "width"):
        return SIDE
    return sizes["batch" if "batch" in name or (axis == 0 and "seq" not in name) else "sequence"]


def _term(name, sizes):
    return int(name) if name.isdecimal() else sizes["past" if "past" in name else "sequence"]


def _is_mask_over_the_past(value, axis, size):
    """A decoder's mask covers its cache, whatever its axis is called; that of an encoder says whose it is."""
    mask = "mask" in value.name and "encoder" not in f"{value.name}{size.value}"
    return mask and axis == 1 and any("past" in other.name for other in value.graph.inputs)


def _channels(value):
    """What the first convolution of an image takes."""
    for node, position in value.uses():
        if node.op_type == "Conv" and position == 0:
            return node.inputs[1].shape[1] * (node.attributes["group"].as_int() if "group" in node.attributes else 1)
    return 3


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
