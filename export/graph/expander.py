"""A and B for the mode "factored": a graph that gives them from θ, and the file in which ONNX Runtime keeps adapters."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from unilora_spec import Adapter, UniLoraError

from .functions import add_functions
from .marks import mark_of_factors, marks
from .rebuild import COMPUTING_OPSET, GraphTape, factor_name, factors


def expander(adapter: Adapter, opset: int) -> ir.Model:
    """θ (d numbers, the adapter's own by default) → A and B of each segment, by their names, in float32."""
    tape = GraphTape(max(opset, COMPUTING_OPSET))
    theta = ir.Value(name="theta", shape=ir.Shape([adapter.projection.d]), type=ir.TensorType(ir.DataType.FLOAT))
    theta.const_value = ir.Tensor(np.asarray(adapter.theta, np.float32), name="theta")
    outputs = [value for pair in factors(tape, adapter, theta, fed=True).values() for value in pair]
    for name, empty in marks(adapter).items():
        outputs.append(tape.add("Identity", tape.constant(f"{name}.empty", empty), name=name, shape=empty.shape))
    graph = ir.Graph(
        [theta], outputs, nodes=tape.nodes, initializers=[theta, *tape.initializers],
        opset_imports={"": tape.opset}, name="expander",
    )  # fmt: skip
    model = ir.Model(graph, ir_version=10)
    add_functions(model)
    return model


def write_adapter(adapter: Adapter, path: Path) -> None:
    """A, B and what was trained in full as an .onnx_adapter file, which ``onnxruntime.LoraAdapter`` loads. Raises ``OSError``."""
    tensors = _stored(adapter)
    file = onnxruntime.AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(1)
    file.set_parameters({name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in tensors.items()})
    try:
        file.export_adapter(str(path))
    except RuntimeError as error:  # ONNX Runtime's, with its own source's path
        raise OSError(f"ONNX Runtime could not write {path.name}; the disk may be full") from error


def check_adapter(adapter: Adapter, path: Path) -> bool:
    """Whether an .onnx_adapter file holds what ``write_adapter`` writes. Raises ``UniLoraError`` where it is no such file."""
    try:
        found = onnxruntime.AdapterFormat.read_adapter(str(path)).get_parameters()
        arrays = {name: value.numpy() for name, value in found.items()}
    except Exception as error:  # ONNX Runtime's, of its own classes
        raise UniLoraError(f"{path} is no adapter of ONNX Runtime: {str(error).splitlines()[0]:.200}") from error
    stored = _stored(adapter)
    return set(arrays) == set(stored) and all(np.array_equal(arrays[name], value) for name, value in stored.items())


def _stored(adapter: Adapter) -> dict[str, np.ndarray]:
    tensors = {name: value for segment, A, B in adapter.factors() for name, value in _named(segment, A, B)}
    tensors |= {name: np.asarray(value, np.float32) for name, value in adapter.saved.items()}
    return tensors | mark_of_factors(adapter)


def _named(segment, A, B):
    return (factor_name(segment, "A"), A), (factor_name(segment, "B"), B)
