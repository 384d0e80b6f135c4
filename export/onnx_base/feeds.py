"""Makes up what an ONNX file is run on where the user gives no inputs, from its inputs' names, types and axes."""

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
SIZES_GROUPED = (*SIZES[:2], {"batch": 5, "sequence": 1, "past": 6})
"""GroupQueryAttention takes several tokens after a past for one row alone."""
SIZES_WINDOW = (
    {"batch": 1, "sequence": 3, "past": 0},
    {"batch": 1, "sequence": 2, "past": 4},
    {"batch": 2, "sequence": 1, "past": 6},
)
"""With a cache that keeps a window it takes no row that ends early. Each row's caches are whole windows, and so take memory."""
ATTENTION = {  # where ONNX Runtime's attention takes its past, and gives the one that is then
    "GroupQueryAttention": {3: 1, 4: 2},
    "SparseAttention": {3: 1, 4: 2},
    "MultiHeadAttention": {6: 1, 7: 2},
    "DecoderMaskedMultiHeadAttention": {5: 1, 6: 2},
}
LENGTHS = {("GroupQueryAttention", 5): -1, ("SparseAttention", 6): 0}
"""Where it takes the length of each row, its past included, as so much more than it is."""
TOTALS = {("GroupQueryAttention", 6), ("SparseAttention", 5)}  # and that of the longest
UNCHANGED = (
    "Cast",
    "Identity",
    "Reshape",
    "Unsqueeze",
    "Squeeze",
    "Flatten",
)  # the same numbers in another shape or type
MOST = 2**26  # entries of an input that is made up
SIDE = 64  # of an image where the axis is open


def feeds_for(model: ir.Model) -> list[dict[str, np.ndarray]]:
    """Three batches. The same graph gets the same ones.

    Numbers of rows stay below the number of rows of the table that they look up, masks hide the end of the second row.
    Raises ``UniLoraError`` for an input of a type or an axis that cannot be made up.
    """
    given = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    random = np.random.default_rng(0)
    nodes = list(model.graph.all_nodes())
    grouped = any(node.op_type in ("GroupQueryAttention", "SparseAttention") for node in nodes)
    batches = SIZES_WINDOW if any(map(keeps_a_window, nodes)) else SIZES_GROUPED if grouped else SIZES
    return [{value.name: _array(value, sizes, random) for value in given} for sizes in batches]


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
        made = np.zeros(shape, value.dtype.numpy())
        filled = made[:, :, : sizes["past"]] if len(shape) == 4 and _window(value) else made
        filled[...] = random.normal(size=filled.shape)
        return made
    if value.dtype == ir.DataType.BOOL:
        return np.full(shape, sizes["past"] > 0 if "use_cache" in value.name else True)
    if value.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        raise UniLoraError(
            f"the input {value.name} is {value.dtype.name}; give --inputs an .npz file with arrays by name"
        )
    made = _integers(value, shape, sizes, random)
    return made.astype(value.dtype.numpy())


def _integers(value, shape, sizes, random):
    reached = list(_reached(value))
    for node, position in reached:
        length = sizes["past"] + sizes["sequence"]
        if (node.op_type, position) in TOTALS:
            return np.full(shape, length)
        if (node.op_type, position) in LENGTHS:
            return np.full(shape, length + LENGTHS[node.op_type, position])
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
    """By the axis's name, which may be a sum; where it says nothing, the batch is first, and the cache's third is its past. Its heads
    and their size are what the attention that takes it has."""
    if isinstance(size, int):
        return size
    name = (size.value or "").lower()
    if axis in (1, 3) and len(value.shape) == 4 and (known := _of_attention(value)[axis == 3]):
        return known
    if axis == 2 and (window := _window(value)):
        return window
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


def _reached(value, depth=4):
    """(node, position) of what uses a value, or its numbers in another shape or type."""
    for node, position in value.uses() if depth else ():
        if node.op_type in UNCHANGED and position == 0:
            yield from _reached(node.outputs[0], depth - 1)
        else:
            yield node, position


def _of_attention(past):
    """(heads, the size of one) of a cache, each None where nothing tells."""
    for node, position in _reached(past):
        if position not in ATTENTION.get(node.op_type, {}):
            continue
        present = node.outputs[ATTENTION[node.op_type][position]].shape or (None,) * 4
        heads = [node.attributes[name].as_int() for name in ("num_heads", "kv_num_heads") if name in node.attributes]
        widths = [_width(each) for each in node.inputs[:3]]
        packed = node.inputs[1] is None and len(heads) == 2
        size = widths[0] and widths[0] // (heads[0] + 2 * heads[1] if packed else heads[0])
        return [
            known if isinstance(known, int) else told for known, told in ((present[1], heads[-1]), (present[3], size))
        ]
    return None, None


def _window(past):
    """The length of a cache that keeps no more than a window, whatever the past is; None of any other."""
    for node, position in _reached(past):
        if position in ATTENTION.get(node.op_type, {}) and keeps_a_window(node):
            return node.attributes["local_window_size"].as_int()
    return None


def keeps_a_window(node: ir.Node) -> bool:
    """Whether the caches of an attention are as long as its window from the first token on. What they hold beyond these tokens may
    differ from run to run."""
    return "sliding_window_cache" in node.attributes and node.attributes["sliding_window_cache"].as_int() == 1


def _width(value):
    """The last axis of a value, where the file says it."""
    return value.shape[-1] if value is not None and value.shape and isinstance(value.shape[-1], int) else None


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
        elif node.op_type in UNCHANGED and position == 0:
            found.append(_rows(node.outputs[0], depth - 1))
    return min((rows for rows in found if rows > 2), default=2)
