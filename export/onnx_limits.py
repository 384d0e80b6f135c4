"""Checks an ONNX file before a library loads it: what the file asks for is bounded by what it holds.

ONNX Runtime, onnx and onnx-ir put a function's nodes in the place of each call, compute what depends on no input when a file is loaded,
and read as many bytes as a tensor says. So a file of 7 kB can ask for 2^40 nodes, or for a terabyte.
"""

import functools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from unilora_spec import UniLoraError
from unilora_spec.calls import Body, check_calls
from unilora_spec.documents import size_of

from .external import own_data

MOST_FILE = 2**31  # protobuf's limit
MOST_SPARSE = 2**24  # entries of a sparse tensor, which is made whole when it is read
MOST_RESULT = 2**31  # bytes of one value that a run computes
FOLDED = 32, 2**26  # bytes of all that is computed when the file is loaded: times those of its tensors, plus so many
SMALL = 1024  # bytes of a tensor from which a shape may be computed
MOST_TRIES = 2000  # nodes that are computed to learn a shape
GROWING = {  # operators whose results may be larger than their inputs, and whose shapes onnx infers; and those that draw at random
    "ConstantOfShape", "Expand", "Range", "Tile", "Pad", "Resize", "Upsample", "OneHot", "EyeLike", "AffineGrid", "Col2Im", "Unique",
    "HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix", "MaxUnpool", "ConvTranspose", "GridSample", "CenterCropPad",
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout",
}  # fmt: skip


def check_limits(path: Path) -> None:
    """Raises ``UniLoraError`` for a file that is no ONNX model, and for one that asks for more than any has."""
    if (size := size_of(path)) > MOST_FILE:
        raise UniLoraError(f"{path} has {size:,} bytes; an ONNX file has at most 2 GiB, and its data in another")
    _check_limits(path, size, path.stat().st_mtime_ns)


@functools.lru_cache(4)
def _check_limits(path, size, changed):
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's, of many kinds
        raise UniLoraError(f"{path} is no ONNX file: {str(error).splitlines()[0]:.200}") from error
    if not model.graph.node:
        raise UniLoraError(f"{path} is no ONNX file, or one without nodes")
    if not any(opset.domain in ("", "ai.onnx") for opset in model.opset_import):
        raise UniLoraError(f"{path} names no version of ONNX's operators (opset_import); export it again")
    try:
        _check_functions(model)
        tensors = [tensor for graph in _graphs(model) for tensor in _tensors(graph)]
        stored = sum(_stored(tensor, path) for tensor in tensors)
        _check_results(model, stored)
    except UniLoraError as error:
        raise error.within(path) from None


# What is in a file


def _graphs(model):
    """The graph, the functions, and what lies in their nodes. protobuf itself bounds how deep."""
    waiting = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs]


def _tensors(graph):
    sparse = []
    if isinstance(graph, onnx.GraphProto):
        yield from graph.initializer
        sparse += graph.sparse_initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from [*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors]
            sparse += [
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else ()),
                *attribute.sparse_tensors,
            ]
    for tensor in sparse:
        if min(tensor.dims, default=0) < 0 or math.prod(tensor.dims) > MOST_SPARSE:
            raise UniLoraError(
                f"the sparse tensor {tensor.values.name!r:.200} has shape {list(tensor.dims)}; store it whole"
            )
        yield from (tensor.values, tensor.indices)


def _stored(tensor, path) -> int:
    """The bytes of a tensor. Raises ``UniLoraError`` unless they are as many as its shape says, and there."""
    name, shape = f"the tensor {tensor.name!r:.200}", list(tensor.dims)
    if min(shape, default=0) < 0:
        raise UniLoraError(f"{name} has shape {shape}; export the file again")
    count = math.prod(shape)
    if tensor.data_type == onnx.TensorProto.STRING:
        if len(tensor.string_data) != count:
            raise UniLoraError(f"{name} has shape {shape} and {len(tensor.string_data)} texts; export the file again")
        return count
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (ValueError, TypeError):
        raise UniLoraError(
            f"{name} is of type {tensor.data_type}, which ONNX does not have; export the file again"
        ) from None
    needed = -(-count * bits // 8)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, path, name, needed)
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != needed:
            raise UniLoraError(
                f"{name} has shape {shape}, {needed:,} bytes, and {len(tensor.raw_data):,} are there; export the file again"
            )
    else:
        fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        if sum(map(len, fields)) not in (count, 2 * count, -(-count // 2), -(-count // 4)):
            raise UniLoraError(f"{name} has shape {shape} and {sum(map(len, fields)):,} numbers; export the file again")
    return needed


def _check_external(tensor, path, name, needed):
    said = {entry.key: entry.value for entry in tensor.external_data}
    try:
        offset, length = int(said.get("offset") or 0), int(said.get("length") or needed)
    except ValueError:
        raise UniLoraError(f"{name} lies at {said}, which are no numbers of bytes; export the file again") from None
    own_data(path, tensor.name, said.get("location", ""), offset, length, needed)


# What it asks for


def _check_functions(model) -> None:
    """Raises ``UniLoraError`` where functions call themselves, or where there are too many nodes with each call's own."""
    bodies = {(f.domain, f.name, f.overload): f for f in model.functions}
    check_calls(_counted(model.graph, bodies), {key: _counted(body, bodies) for key, body in bodies.items()})


def _counted(graph, bodies):
    """The nodes of a graph or a function, those of graphs in them as well, and how often each function is called."""
    own, calls, waiting = 0, Counter(), [graph]
    while waiting:
        for node in waiting.pop().node:
            key = (node.domain, node.op_type, node.overload)
            if key in bodies:
                calls[key] += 1
            own += 1
            for attribute in node.attribute:
                waiting += [*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs]
    return Body(own, calls)


def _check_results(model, stored: int) -> None:
    """Raises ``UniLoraError`` for a value too large to be computed, as far as onnx tells its shape without computing it."""
    skeleton = _skeleton(model)
    try:
        if skeleton.functions:
            skeleton = onnx.inliner.inline_local_functions(skeleton)
        found = onnx.shape_inference.infer_shapes(_with_small_values(skeleton), data_prop=True)
    except Exception:  # noqa: BLE001  of a graph that ONNX Runtime refuses as well
        return
    folded = 0
    waiting = [(found.graph, {value.name for value in found.graph.input} - {t.name for t in found.graph.initializer})]
    while waiting:
        graph, fed = waiting.pop()
        sizes = {value.name: _size(value.type.tensor_type) for value in (*graph.value_info, *graph.output)}
        for node in graph.node:
            bodies = [a.g for a in node.attribute if a.HasField("g")]
            depends = bool(bodies) or any(name in fed for name in node.input)
            if depends:
                fed |= set(node.output)
            waiting += [(body, fed | {value.name for value in body.input}) for body in bodies]
            size = sum(sizes.get(name, 0) for name in node.output)
            folded += 0 if depends else size
            if size > MOST_RESULT or folded > FOLDED[0] * stored + FOLDED[1]:
                what = "what it computes of no input" if size <= MOST_RESULT else "this alone"
                raise UniLoraError(
                    f"the node {node.name or node.output[0]!r:.200} ({node.op_type}) makes {size:,} bytes, and {what} is more than a "
                    f"model of {stored:,} bytes has use for; export the file again"
                )


def _skeleton(model):
    """The model without the tensors that are too large to be a shape."""
    made = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    given = model.graph
    made.graph.name = given.name or "graph"
    for field in ("node", "input", "output", "value_info"):
        getattr(made.graph, field).extend(getattr(given, field))
    for tensor in given.initializer:
        if _is_small(tensor):
            made.graph.initializer.append(tensor)
        else:
            made.graph.initializer.append(
                onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            )
    return made


def _with_small_values(model):
    """The model with what can be computed of small constants as constants too: onnx tells a shape of some of these computations alone,
    and ONNX Runtime does all of them."""
    known = {tensor.name: tensor for tensor in model.graph.initializer if _is_small(tensor)}
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    left, tries = [], MOST_TRIES
    for node in model.graph.node:
        small = (
            node.domain == "" and node.op_type not in GROWING and all(not name or name in known for name in node.input)
        )
        if not small or not tries or len(node.output) != 1 or any(a.HasField("g") for a in node.attribute):
            left.append(node)
            continue
        tries -= 1
        try:
            with np.errstate(all="ignore"):
                feed = {name: onnx.numpy_helper.to_array(known[name]) for name in node.input if name}
                (value,) = ReferenceEvaluator(node, opsets=opsets).run(None, feed)
                made = onnx.numpy_helper.from_array(np.asarray(value), node.output[0])
        except Exception:  # noqa: BLE001  of an operator that the evaluator lacks, or of values that it refuses
            left.append(node)
            continue
        if _is_small(made):
            known[made.name] = made
            model.graph.initializer.append(made)
        else:
            left.append(node)
    del model.graph.node[:]
    model.graph.node.extend(left)
    return model


def _is_small(tensor) -> bool:
    """Whether a tensor may be a shape, or what one is computed of, and its values are here."""
    return tensor.ByteSize() <= SMALL and math.prod(tensor.dims) <= SMALL and _has_values(tensor)


def _has_values(tensor):
    fields = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")
    return tensor.data_type != onnx.TensorProto.STRING and any(len(getattr(tensor, field)) for field in fields)


def _size(kind) -> int:
    """The bytes of a value whose shape is known, else 0."""
    if not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in kind.shape.dim):
        return 0
    try:
        bits = ir.DataType(kind.elem_type).bitwidth
    except (ValueError, TypeError):  # texts, and what is unknown
        bits = 64
    return math.prod(max(0, dim.dim_value) for dim in kind.shape.dim) * bits // 8
