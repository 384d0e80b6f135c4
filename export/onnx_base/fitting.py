"""The weights to find in an ONNX file, and the initializers there: whether one can hold the other, by its shape and uses."""

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from unilora_spec import BaseMismatch, Segment
from unilora_spec.base_model import stored_name

from ..graph.sites import Use, uses
from .exporter_names import ATTENTION, names, original

HOWS = ("name", "node name", "bias name")
NEVER_WEIGHTS = (ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING)


class Constant:
    """An initializer that is used, and how.

    ``names``  (where from, name) of each name of a parameter that it may have
    ``forms``  what it may be as a matrix: ((out, in), whether it holds (in, out)); both ways where no use tells
    """

    def __init__(self, value: ir.Value, found: list[Use]):
        self.value, self.uses, self.names = value, found, set(names(value, found))
        self.forms = list({(use.shape, use.transposed) for use in found if use.form != "other"})
        shape = tuple(value.shape)
        if len(self.forms) != 1:
            self.forms = [(shape, False), (shape[::-1], True)] if len(shape) == 2 else []
        self.packed = any(use.form == "product" and use.node.op_type == "MatMulNBits" for use in found)

    @property
    def is_named(self) -> bool:
        """Whether its name, or the nodes around it, identify a parameter."""
        own = original(self.value.name)
        return len(self.names) > 1 or ("." in own and "::" not in own)

    @property
    def family(self):
        """Equal for constants that are used in one way."""
        return tuple(sorted((use.node.op_type, use.form) for use in self.uses))

    def rows(self, transposed) -> int:
        """How many rows it has as a matrix."""
        return self.forms[0][0][0] if self.packed else self.value.shape[1 if transposed else 0]

    def read(self, transposed, rows: np.ndarray) -> np.ndarray:
        """Some rows of it as a matrix (out, …), float32: its values, or what stands for them where it is quantized."""
        array = self.value.const_value.numpy()
        if self.packed:
            array = _unpacked(array[rows], self.uses)[:, : self.forms[0][0][1]]
        else:
            array = array[:, rows].T if transposed else array[rows]
        array = np.array(array, np.float32).reshape(len(rows), -1)
        release(self.value)
        return array


def release(value: ir.Value) -> None:
    """Releases external data, of which all that is still needed must have been copied."""
    if isinstance(value.const_value, ir.ExternalTensor):
        value.const_value.release()


def _unpacked(packed: np.ndarray, uses) -> np.ndarray:
    """The numbers of MatMulNBits, (rows, blocks, bytes), the lowest bits first."""
    bits = next(use.node.attributes["bits"].as_int() for use in uses if use.node.op_type == "MatMulNBits")
    numbers = np.stack([(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)], -1)
    return numbers.reshape(len(packed), -1)


class File:
    """The initializers of a file that are in use, in the order of use, and by the names that they may have."""

    def __init__(self, model: ir.Model):
        self.graph = model.graph
        order = {node: i for i, node in enumerate(model.graph.all_nodes())}
        self.initializers = dict(model.graph.initializers)
        self.constants, self.index = [], {how: defaultdict(dict) for how in HOWS}
        self.fused = next(
            (node for node in order if node.domain == "com.microsoft" and node.op_type in ATTENTION), None
        )
        for value in self.initializers.values():
            if value.const_value is not None and value.dtype not in NEVER_WEIGHTS and (found := uses(value)):
                self.constants.append(Constant(value, found))
        self.constants.sort(key=lambda constant: min(order[use.node] for use in constant.uses))
        self.of = {constant.value: constant for constant in self.constants}
        for constant in self.constants:
            for how, name in constant.names:
                self.index[how][name][constant.value] = constant

    def find(self, how, name, whole=False) -> list[Constant]:
        """The constants of that name, with or without leading parts (SPEC 10.4); ``whole``: with none of the name's left out."""
        try:
            stored = stored_name(name, self.index[how])
            return list(self.index[how][stored].values()) if not whole or f".{stored}".endswith(f".{name}") else []
        except BaseMismatch:
            return []


@dataclass(frozen=True)
class Weight:
    """An adapted weight."""

    name: str
    segments: list[Segment]

    def __str__(self):
        return f"{self.name} ({self.segments[0].describe()})"

    @property
    def form(self):
        """Equal for weights that differ in their names alone."""
        return tuple(replace(segment, name="*") for segment in self.segments)

    @property
    def turn(self):
        """How many rows it has, and whether the model that was adapted stores it as (in, out)."""
        return self.segments[0].out_features, self.segments[0].transposed

    @property
    def whole(self):
        return self.segments[0].row is None and self.segments[0].index is None

    def fits(self, constant: Constant, own_name=False) -> list[bool]:
        """The ways in which a constant can hold the weight: whether transposed. The likelier one is first."""
        turned = self.segments[0].transposed
        found = [in_out for form, in_out in constant.forms if self._holds(form[::-1] if turned else form)]
        if not constant.forms and self._holds(constant.value.shape):
            found = [False]
        return sorted(found, key=lambda in_out: in_out != turned)

    def stacked(self, constant: Constant) -> list[tuple[bool, int]]:
        """(transposed, how many rows) of each way in which a constant can hold the weight among others."""
        first = self.segments[0]
        return [
            (in_out, form[0])
            for form, in_out in constant.forms
            if self.whole and form[1] == first.in_features and form[0] > first.out_features
        ]

    def _holds(self, shape) -> bool:
        try:
            for segment in self.segments:
                segment.check_shape(shape)
        except BaseMismatch:
            return False
        return True


@dataclass(frozen=True)
class Saved:
    """A parameter trained in full."""

    name: str
    shape: tuple[int, ...]

    def __str__(self):
        return f"{self.name} ({' × '.join(map(str, self.shape))})"

    def fits(self, constant: Constant, own_name=False) -> list[bool]:
        """The ways in which a constant can hold the parameter: whether transposed. The likelier one is first: of a square constant with
        the parameter's own name, the name says whether a tool has transposed it. Any other square one is taken for nn.Linear's, (out, in),
        as an initializer that has lost its name was folded with a Transpose."""
        if len(self.shape) != 2:
            return [False] if tuple(constant.value.shape) == self.shape else []
        found = [in_out for form, in_out in constant.forms if form == self.shape]
        found += [not in_out for form, in_out in constant.forms if form[::-1] == self.shape]
        named = ("_Transposed" in constant.value.name) != constant.packed
        return sorted(dict.fromkeys(found), key=lambda turned: own_name and turned != named)


@dataclass(frozen=True)
class Match:
    """An initializer that holds a weight or a saved parameter of an adapter.

    ``name``        the adapter's
    ``value``       the initializer, in floats or quantized
    ``transposed``  whether it holds (in, out); of a saved parameter of two dimensions, whether it holds its transpose
    ``how``         what identified it: "name", "node name", "bias name", "fingerprint", "given", or "copy" of another match
    ``row``         the first row (of ``out``) where the initializer is a stack of matrices (q, k, v) that holds this one in part
    """

    name: str
    value: ir.Value
    transposed: bool
    how: str
    row: int | None = None

    @property
    def place(self):
        return self.value, self.transposed, self.row


def values(match: Match, segment: Segment) -> np.ndarray:
    """A copy of a weight's values in floats, in float32 and in the form of the model that was adapted.

    ``segment`` is one of the weight's. External data is read and released again.
    """
    return read_values(*match.place, segment.out_features, segment.transposed)


def read_values(value: ir.Value, transposed, row, out, turned) -> np.ndarray:
    """A copy of a weight's values: read from (in, out) where ``transposed``, turned to (in, out) where ``turned``."""
    array = value.const_value.numpy()
    if array.ndim == 2:
        array = array.T if transposed else array
        array = array if row is None else array[row : row + out]
        array = array.T if turned else array
    array = np.array(array, np.float32, order="C")
    release(value)
    return array
