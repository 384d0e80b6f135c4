"""What ONNX Runtime has left to do in each run of a file, and where each of it would run on a GPU.

Much of a file is computed once, when it is loaded. So ONNX Runtime loads it here and writes what is left, with local
functions inlined and constants folded. Where its build and the machine have CUDA, it also says where it put each node;
elsewhere the table of its CUDA kernels is asked (cuda_kernels.json) and its rule for shapes followed.

What the table cannot know: attributes and inputs that a kernel refuses (ArgMax's last index, an LSTM's peepholes, the
padding of some convolutions), functions of the standard that only one of the two providers inlines, and versions of ONNX
Runtime other than its own. And where there is no CUDA, a file that the CPU cannot run at all (products in bfloat16) is
not loaded.
"""

import functools
import json
import math
import tempfile
from collections import Counter, defaultdict
from importlib.resources import files
from pathlib import Path

import onnx
import onnxruntime

from unilora_spec import UniLoraError, WorkFailed

from ..onnx_limits import check_limits
from ..parity.compare import session
from .cuda_kernels import operator

CUDA, CPU, BY_DESIGN = "CUDA", "CPU", "CPU by design"
SMALL = 100
"""The entries of a constant that a shape computation may use and still be left on the CPU, ONNX Runtime's own limit."""
CPU_INPUTS = {
    "AffineGrid": {1}, "ConstantOfShape": {0}, "CumSum": {1}, "Dropout": {1, 2}, "Expand": {1}, "If": {0}, "Loop": {0, 1},
    "OneHot": {1}, "Pad": {1, 2}, "Range": {0, 1, 2}, "Reshape": {1}, "Resize": {1, 2, 3}, "Slice": {1, 2, 3, 4},
    "Split": {1}, "Squeeze": {1}, "Tile": {1}, "TopK": {1}, "Trilu": {1}, "Unsqueeze": {1}, "Upsample": {1},
}  # fmt: skip
"""Inputs that a CUDA kernel takes from the CPU's memory, so that a shape computed there is no reason to leave the GPU."""
NEVER_ON_CPU = {"float16", "bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"}
HALF_ON_CPU = "InsertedPrecisionFreeCast_"
"""How ONNX Runtime names what it inserts where the CPU has no float16 kernel: a GPU would not see it."""


def nodes(path: Path) -> dict:
    """The nodes of the per-run path of an ONNX file, by operator and place, as the report of ``python -m export nodes``.

    The keys: ``file``; ``source``, by which the places are known; ``nodes``, a list of ``{operator, count, where, first}``
    with the first node's name; ``count``, the nodes of each place. Raises ``UniLoraError`` for a file that ONNX Runtime
    does not load, or whose data are not its own.
    """
    check_limits(Path(path))
    model, assigned = _optimized(Path(path))
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    rows, first = Counter(), {}
    for node, place in _places(model.graph, opsets, assigned):
        row = operator(node.domain, node.op_type), place
        rows[row] += 1
        first.setdefault(row, node.name)
    order = [CPU, CUDA, BY_DESIGN]
    source = f"ONNX Runtime {onnxruntime.__version__}'s own assignment" if assigned is not None else _table()["source"]
    return {
        "file": str(path),
        "source": source,
        "nodes": [
            {"operator": name, "count": rows[name, place], "where": place, "first": first[name, place]}
            for name, place in sorted(rows, key=lambda row: (order.index(row[1]), row[0]))
        ],
        "count": {place: sum(count for row, count in rows.items() if row[1] == place) for place in order},
    }


def compared(path: Path) -> tuple[int, list[dict]] | None:
    """How many nodes the per-run path has, and ``{operator, first, said, where}`` of each that the table and its rule place elsewhere
    than ONNX Runtime has put it; None where it has no CUDA to put any on."""
    check_limits(Path(path))
    model, assigned = _optimized(Path(path))
    if assigned is None:
        return None
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    by_table, by_runtime = (list(_places(model.graph, opsets, known)) for known in (None, assigned))
    others = [
        {"operator": operator(node.domain, node.op_type), "first": node.name, "said": said, "where": where}
        for (node, said), (_, where) in zip(by_table, by_runtime)
        if said != where
    ]
    return len(by_table), others


def _optimized(path: Path) -> tuple[onnx.ModelProto, dict | None]:
    """What ONNX Runtime has left of a file, and, with CUDA, the places of its nodes: ``{(operator, name): {"CPU", …}}``."""
    options = onnxruntime.SessionOptions()
    # Higher levels fuse nodes that are placed already, and leave them there.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # Apart from the graph, weights may have more than the 2 GB of a protobuf message, and need not be read again.
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        try:
            loaded = session(path, options=options)
        except WorkFailed as error:
            reason = str(error.__cause__).strip().splitlines()[0]
            raise UniLoraError(f"ONNX Runtime does not load {path}: {reason:.300}") from error
        model = onnx.load(options.optimized_model_filepath, load_external_data=False)
    if "CUDAExecutionProvider" not in loaded.get_providers():
        return model, None
    assigned = defaultdict(set)
    for part in loaded.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            assigned[node.op_type, node.name].add(part.ep_name.removesuffix("ExecutionProvider"))
    return model, assigned


def _places(graph: onnx.GraphProto, opsets, assigned, outer_types=None, outer_small=frozenset()):
    """(node, place) of all nodes, those of bodies behind the node that has them.

    Without an assignment this is ONNX Runtime's own rule: a node that has a CUDA kernel is done there, unless all it needs
    is in the CPU's memory already (what Shape and Size give, what was left on the CPU for this reason, small constants,
    inputs of the graph) and its kernel would not read it there.
    """
    types = (outer_types or {}) | _types(graph)
    small = outer_small | {value.name for value in graph.initializer if math.prod(value.dims) <= SMALL}
    free = small | {value.name for value in graph.input}
    on_cpu = set()
    for node in graph.node:
        if node.op_type.startswith("Memcpy") or node.name.startswith(HALF_ON_CPU):
            continue
        near_shape = any(name in on_cpu for name in node.input)
        if not _has_kernel(node, opsets, types):
            place = CPU
        elif near_shape and all(_may_stay(node, i, types, free, on_cpu) for i in range(len(node.input))):
            place = BY_DESIGN
        else:
            place = CUDA
        if node.op_type in ("Shape", "Size") or (place != CUDA and near_shape):
            on_cpu.update(node.output)
        yield node, _assigned(node, assigned, place)
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _places(body, opsets, assigned, types, small)


def _may_stay(node, i, types, free, on_cpu) -> bool:
    name = node.input[i]
    if types.get(name) in NEVER_ON_CPU:
        return False
    return name in free or (name in on_cpu and i not in CPU_INPUTS.get(node.op_type, ()))


def _assigned(node, assigned, place) -> str:
    """Where ONNX Runtime put a node. The table still says which of the CPU's are shapes, and which of a name is which."""
    where = assigned[node.op_type, node.name] if assigned is not None else None
    if not where or (CUDA if place == CUDA else CPU) in where:
        return place
    return next(iter(where))


def _types(graph) -> dict[str, str]:
    """The element type of each value, as the table writes it; ONNX Runtime has written all but those it made float32."""
    types = {value.name: value.data_type for value in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        if value.type.HasField("tensor_type"):
            types[value.name] = value.type.tensor_type.elem_type
    names = {name: onnx.TensorProto.DataType.Name(dtype).lower() for name, dtype in types.items() if dtype}
    halves = {name: "float16" for node in graph.node for name in node.output if name.startswith(HALF_ON_CPU)}
    return names | halves


@functools.cache
def _table() -> dict:
    return json.loads((files(__package__) / "cuda_kernels.json").read_text("utf-8"))


def _has_kernel(node, opsets, types) -> bool:
    """Whether the table has a CUDA kernel for a node's version and types; a type that is not known is taken to fit."""
    kernels = _table()["kernels"].get(operator(node.domain, node.op_type), [])
    if not kernels:
        return False
    since, *formals = _signature(node.op_type, node.domain, opsets.get(node.domain, 1))
    actual = [
        (variable, types[name])
        for names, variables in zip((node.input, node.output), formals)
        for i, name in enumerate(names)
        if name in types and variables
        for variable in variables[min(i, len(variables) - 1)]
    ]
    return any(
        (
            since in (None, first) or (last is not None and first <= since <= last)
        )  # without an end, it was made for one version
        and all(dtype in allowed[variable].split() for variable, dtype in actual if variable in allowed)
        for first, last, allowed in kernels
    )


@functools.cache
def _signature(op_type, domain, opset) -> tuple[int | None, list, list]:
    """The version that an operator has in an opset, and what a kernel may call the types of its inputs and outputs. Where neither
    is known, any kernel is taken to fit."""
    if own := _table()["signatures"].get(operator(domain, op_type)):
        inputs, outputs = ([[variable] for variable in variables] for variables in own)
        return 1, inputs, outputs
    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:  # ONNX Runtime registers operators of its own in ONNX's domain too, and newer ones
        return None, [], []
    return schema.since_version, *(
        [[formal.type_str, formal.name] for formal in formals] for formals in (schema.inputs, schema.outputs)
    )
