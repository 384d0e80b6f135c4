"""The files that a graph is fed from: the expander, a graph from θ to A and s·B, and the .onnx_adapter of ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx_ir.passes.common import InlinePass

from unilora_spec import Adapter, UniLoraError

from ..modes import PLAIN, Form
from .functions import add_functions
from .marks import mark_of_factors, mark_of_theta, marks
from .rebuild import COMPUTING_OPSET, GraphTape, factors, lora_name, pairs, scale_of


def expander(adapter: Adapter, opset: int, form: Form = PLAIN) -> ir.Model:
    """θ (d numbers, the adapter's own by default) → A (in, rank) and s·B (rank, out) of each segment, as they are fed."""
    tape = GraphTape(opset=max(opset, COMPUTING_OPSET), inline=form.inline)
    theta = ir.Value(name="theta", shape=ir.Shape([adapter.projection.d]), type=ir.TensorType(ir.DataType.FLOAT))
    if not form.required:
        theta.const_value = ir.Tensor(np.asarray(adapter.theta, np.float32), name="theta")
    found, outputs = factors(tape, adapter, theta, fed=True), []
    for segment, offset in adapter.layer_map.placed():
        A, B = found[offset]
        scaled = tape.add("Mul", B, scale_of(tape, adapter, segment), shape=B.shape)
        for factor, value in (("A", A), ("B", scaled)):
            shape = list(value.shape)[::-1]
            outputs.append(tape.add("Transpose", value, perm=[1, 0], shape=shape, name=lora_name(segment, factor)))
    for name, empty in marks(adapter).items():
        outputs.append(tape.add("Identity", tape.constant(f"{name}.empty", empty), name=name, shape=empty.shape))
    graph = ir.Graph(
        [theta], outputs, nodes=tape.nodes, initializers=[*[theta] * (not form.required), *tape.initializers],
        opset_imports={"": tape.opset}, name="expander",
    )  # fmt: skip
    model = ir.Model(graph, ir_version=10)
    add_functions(model)
    if form.inline:
        InlinePass()(model)
    return model


def write_adapter(adapter: Adapter, mode: str, path: Path, marked: bool = True) -> None:
    """θ for the mode "input", A and s·B for "factored", and what was trained in full, as an .onnx_adapter file, which
    ``onnxruntime.LoraAdapter`` loads. Raises ``OSError``."""
    tensors = _stored(adapter, mode) | (_mark(adapter, mode) if marked else {})
    file = onnxruntime.AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(1)
    file.set_parameters({name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in tensors.items()})
    try:
        file.export_adapter(str(path))
    except RuntimeError as error:  # ONNX Runtime's, with its own source's path
        raise OSError(f"ONNX Runtime could not write {path.name}; the disk may be full") from error


def check_adapter(adapter: Adapter, mode: str, path: Path) -> bool:
    """Whether an .onnx_adapter file holds what ``write_adapter`` writes, with its mark or without. Raises ``UniLoraError`` where it is no such file."""
    try:
        file = onnxruntime.AdapterFormat.read_adapter(str(path))  # its values are views of it, which do not keep it
        arrays = {name: value.numpy().copy() for name, value in file.get_parameters().items()}
    except Exception as error:  # ONNX Runtime's, of its own classes
        raise UniLoraError(f"{path} is no adapter of ONNX Runtime: {str(error).splitlines()[0]:.200}") from error
    stored = _stored(adapter, mode)
    if set(arrays) - set(stored) not in (set(), set(_mark(adapter, mode))):
        return False
    return all(name in arrays and np.array_equal(arrays[name], value) for name, value in stored.items())


def _stored(adapter: Adapter, mode: str) -> dict[str, np.ndarray]:
    tensors = {"theta": np.asarray(adapter.theta, np.float32)} if mode == "input" else pairs(adapter)
    return tensors | {name: np.asarray(value, np.float32) for name, value in adapter.saved.items()}


def _mark(adapter: Adapter, mode: str) -> dict[str, np.ndarray]:
    return mark_of_theta(adapter) if mode == "input" else mark_of_factors(adapter)
