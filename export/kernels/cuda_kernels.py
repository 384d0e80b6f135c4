"""Makes cuda_kernels.json again: the kernels that a CUDA build of ONNX Runtime registers, and for which types.

    python -m export.kernels.cuda_kernels > export/kernels/cuda_kernels.json

It asks ONNX Runtime itself, so it needs onnxruntime-gpu and a GPU; ``get_all_opkernel_def`` starts every provider of the
build, and ends the process where TensorRT's libraries are missing. ONNX Runtime publishes the same as
docs/OperatorKernels.md, where the types of all kernels of an operator are thrown together.
"""

import json

from onnxruntime import __version__
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

DOMAINS = ("", "ai.onnx.ml", "com.microsoft")  # the others are ONNX Runtime's own, and in no file
OPEN_END = 2**31 - 1


def table(provider: str = "CUDAExecutionProvider") -> dict:
    """The kernels of ``provider``: ``{operator: [[first version, last or None, {type variable: "type type …"}], …]}``.

    Beside them the signatures of ONNX Runtime's own operators, ``{operator: [inputs, outputs]}`` as names of type
    variables; those of ONNX's operators are in ``onnx.defs``.
    """
    kernels = {}
    for kernel in runtime.get_all_opkernel_def():
        if kernel.provider == provider and kernel.domain in DOMAINS:
            first, last = kernel.version_range
            types = {name: {_short(t) for t in allowed} for name, allowed in kernel.type_constraints.items()}
            versions = (first, None if last == OPEN_END else last)
            _add(kernels.setdefault(operator(kernel.domain, kernel.op_name), []), versions, types)
    signatures = {
        name: [[formal.typeStr for formal in formals] for formals in (schema.inputs, schema.outputs)]
        for schema in runtime.get_all_operator_schema()
        if schema.domain == "com.microsoft" and (name := operator(schema.domain, schema.name)) in kernels
    }
    return {
        "source": f"the {provider.removesuffix('ExecutionProvider')} kernels that ONNX Runtime {__version__} registers",
        "signatures": dict(sorted(signatures.items())),
        "kernels": {name: _sorted(found) for name, found in sorted(kernels.items())},
    }


def operator(domain: str, op_type: str) -> str:
    """An operator's name with its domain before it, unless that is ONNX's own."""
    return f"{domain}::{op_type}" if domain not in ("", "ai.onnx") else op_type


def _short(name):
    return name.removeprefix("tensor(").removesuffix(")") if name.startswith("tensor(") else name


def _add(found, versions, types):
    """Kernels that differ in one type alone become one: float and double for T is the same as both in one."""
    for other_versions, other in found:
        if versions == other_versions and types.keys() == other.keys():
            different = [name for name in types if types[name] != other[name]]
            if len(different) <= 1:
                for name in different:
                    other[name] |= types[name]
                return
    found.append((versions, types))


def _sorted(found):
    kernels = [
        [*versions, {name: " ".join(sorted(types[name])) for name in sorted(types)}] for versions, types in found
    ]
    return sorted(kernels, key=lambda kernel: (kernel[0], json.dumps(kernel[2])))


def text(table: dict) -> str:
    """The table as JSON, an operator a line."""
    parts = []
    for key, value in table.items():
        if isinstance(value, dict):
            lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(item)}" for name, item in value.items())
            value = f"{{\n{lines}\n}}"
        else:
            value = json.dumps(value)
        parts.append(f"{json.dumps(key)}: {value}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    print(text(table()), end="")
