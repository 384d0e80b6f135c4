"""Arrays that follow from θ, held as the operations that make them from ranges of θ and frozen numbers (SPEC 11).

The reference runs the operations here with NumPy, the torch backend runs them with torch, and the exporter writes them as nodes. A
package that knows the seven operations knows every kind that is made of them.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda how, x, y: x + y,
    "subtract": lambda how, x, y: x - y,
    "multiply": lambda how, x, y: x * y,
    "matmul": lambda how, x, y: x @ y,
    "part": lambda how, x: x[how],
    "reshape": lambda how, x: x.reshape(how),
    "take": lambda how, x, index: x[index],
    # These two are for training alone; no kind that a file holds uses them.
    "largest": lambda how, x: x.topk(how).indices if hasattr(x, "topk") else np.argsort(-x, stable=True)[:, :how],
    "softmax": lambda how, x: _softmax(x),
}
"""What each operation does to arrays of NumPy or of torch; ``how`` is its ``Value``'s (SPEC 11.3)."""

ELEMENTWISE = ("add", "subtract", "multiply")
MOST_WHOLE = 2**24
"""A frozen array of at most so many numbers is made whole, for all its parts; of a larger one each part is made by itself."""


def _softmax(x: Any) -> Any:
    e = math.e ** (x - x[:, :1])  # the first number of a row is its largest
    return e / e.sum(1)[:, None]


@dataclass(frozen=True, eq=False)
class Value:
    """An array of float32 that follows from θ, or a frozen one: an operation and the values that it is applied to.

    ``op``      a name of ``OPERATIONS``; or "theta", a range of θ; or "frozen", an array that does not depend on θ
    ``shape``   the array's
    ``inputs``  the values that the operation is applied to
    ``how``     the shape of a reshape, the slices of a part, the offset in θ of a range, a function of slices that makes this part
                of a frozen array
    """

    op: str
    shape: tuple[int, ...]
    inputs: tuple["Value", ...] = ()
    how: Any = None

    @cached_property
    def array(self) -> np.ndarray:
        """The numbers of a frozen value: float32, or int64 for an index. They are made once, and kept as long as the value."""
        return self.how(tuple(slice(0, n) for n in self.shape))

    @property
    def size(self) -> int:
        """How many numbers the array has."""
        return math.prod(self.shape)

    def __add__(self, other: "Value") -> "Value":
        return self._elementwise("add", other)

    def __sub__(self, other: "Value") -> "Value":
        return self._elementwise("subtract", other)

    def __mul__(self, other: "Value") -> "Value":
        return self._elementwise("multiply", other)

    def _elementwise(self, op: str, other: "Value") -> "Value":
        return Value(op, np.broadcast_shapes(self.shape, other.shape), (self, other))

    def __matmul__(self, other: "Value") -> "Value":
        return Value("matmul", (self.shape[0], other.shape[1]), (self, other))

    def __getitem__(self, slices: slice | tuple[slice, ...]) -> "Value":
        """A part: a slice with a step of 1 for each of the first axes. Where the operation allows it, the part is made of parts of the
        operands, so that it costs its own numbers and not those of the whole."""
        slices = slices if isinstance(slices, tuple) else (slices,)
        slices += (slice(None),) * (len(self.shape) - len(slices))
        bounds = [s.indices(n) for s, n in zip(slices, self.shape)]
        shape = tuple(stop - start for start, stop, _ in bounds)
        if shape == self.shape:
            return self
        part = tuple(slice(start, stop) for start, stop, _ in bounds)
        if self.op == "frozen" and self.size > MOST_WHOLE:
            starts = [s.start for s in part]
            return Value("frozen", shape, how=lambda inner: self.how(_moved(inner, starts)))
        if self.op in ELEMENTWISE:
            return Value(self.op, shape, tuple(each._under(part) for each in self.inputs))
        if self.op == "matmul":
            x, y = self.inputs
            return x[part[0], :] @ y[:, part[1]]
        if self.op == "part":
            return self.inputs[0][_moved(part, [s.start for s in self.how])]
        return Value("part", shape, (self,), part)

    def _under(self, part: tuple[slice, ...]) -> "Value":
        """The part of this operand that an elementwise operation needs for ``part`` of its result: all of an axis that is broadcast."""
        own = part[len(part) - len(self.shape) :]
        return self[tuple(slice(0, 1) if n == 1 else s for n, s in zip(self.shape, own))]

    def reshape(self, *shape: int) -> "Value":
        return self if shape == self.shape else Value("reshape", shape, (self,), shape)

    def take(self, index: "Value") -> "Value":
        """The rows of this value that an ``index`` names: its shape, then that of a row."""
        return Value("take", (*index.shape, *self.shape[1:]), (self, index))

    def largest(self, k: int) -> "Value":
        """Where the k largest numbers of each row are, the largest first: int64 (rows, k), an index. Its gradient is 0."""
        return Value("largest", (self.shape[0], k), (self,), k)

    def softmax(self) -> "Value":
        """The softmax of each row, whose first number has to be its largest."""
        return Value("softmax", self.shape, (self,))


def _moved(slices: tuple[slice, ...], starts: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(at + s.start, at + s.stop) for at, s in zip(starts, slices))


def frozen(shape: tuple[int, ...], make: Callable[[], np.ndarray]) -> Value:
    """Numbers that do not depend on θ: what ``make`` gives, float32 or, for an index, int64, of this shape."""
    return Value("frozen", shape, how=lambda part: make()[part])


def frozen_in_parts(shape: tuple[int, ...], make: Callable[[tuple[slice, ...]], np.ndarray]) -> Value:
    """Numbers that do not depend on θ, of this shape, where ``make(slices)`` gives a part of them without the rest."""
    return Value("frozen", shape, how=make)


def ordered(values: Iterable[Value]) -> list[Value]:
    """The values and all that they are made of, each once and after its inputs."""
    found: dict[Value, None] = {}
    waiting = list(reversed(list(values)))
    while waiting:  # not by recursion: a sum may be as deep as a file likes
        value = waiting.pop()
        if value in found:
            continue
        if missing := [each for each in value.inputs if each not in found]:
            waiting += [value, *reversed(missing)]
        else:
            found[value] = None
    return list(found)


def result(value: Value, theta: np.ndarray) -> np.ndarray:
    """The array of a value at θ. Each array on the way is freed once nothing else is made of it."""
    order = ordered([value])
    uses = Counter(each for of in order for each in of.inputs)
    arrays: dict[Value, np.ndarray] = {}
    for each in order:
        if (array := _array_of(each, theta, arrays)) is not None:
            arrays[each] = array
        for of in each.inputs:
            uses[of] -= 1
            if not uses[of]:
                arrays.pop(of, None)
    return arrays[value]


def add_gradient(value: Value, theta: np.ndarray, g: np.ndarray, total: np.ndarray) -> None:
    """Adds the gradient for θ to ``total``, float64[d], where ``g`` is the gradient of the value's array, in its shape.

    ``theta`` is float64[d], the point at which the operations are differentiated.
    """
    order = ordered([value])
    arrays: dict[Value, np.ndarray] = {}
    trained: set[Value] = set()
    for each in order:
        if (array := _array_of(each, theta, arrays)) is not None:
            arrays[each] = array
        if each.op == "theta" or not trained.isdisjoint(each.inputs):
            trained.add(each)
    gradients = {value: g}
    for each in reversed(order):
        # Frozen numbers have no gradient, nor have the values that an index is made of.
        if each not in trained or each not in gradients:
            continue
        g = gradients.pop(each)
        if each.op == "theta":
            total[each.how : each.how + each.size] += g.ravel()
        elif each.op == "part" and each.inputs[0].op == "theta":
            _range(each.inputs[0], total)[each.how] += g
        elif each.op != "largest":
            of_inputs = _ADJOINTS[each.op](each.how, g, *_inputs(each, arrays))
            for of, of_input in zip(each.inputs, of_inputs):
                if of in trained and np.ndim(of_input):
                    gradients[of] = gradients[of] + of_input if of in gradients else of_input


def _range(value: Value, vector: np.ndarray) -> np.ndarray:
    return vector[value.how : value.how + value.size].reshape(value.shape)


def _array_of(value: Value, theta: np.ndarray, arrays: dict[Value, np.ndarray]) -> Any:
    """The array of a value whose inputs are in ``arrays``; None for a frozen one, of which perhaps only parts are needed."""
    if value.op == "frozen":
        return None
    if value.op == "theta":
        return _range(value, theta)
    if value.op == "part" and value.inputs[0].op == "frozen":
        return value.inputs[0].how(value.how)
    return OPERATIONS[value.op](value.how, *_inputs(value, arrays))


def _inputs(value: Value, arrays: dict[Value, np.ndarray]) -> list[np.ndarray]:
    return [of.array if of.op == "frozen" else arrays[of] for of in value.inputs]


# The adjoint of each operation: it takes the gradient of the result to the gradients of the inputs, which is 0 for an index.


def _summed_to(shape: Sequence[int], g: np.ndarray) -> np.ndarray:
    """The gradient of an array that was broadcast."""
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return g.sum(axis=tuple(axis for axis, n in enumerate(shape) if n == 1), keepdims=True)


def _of_part(how: tuple[slice, ...], g: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    whole = np.zeros(x.shape)
    whole[how] = g
    return [whole]


def _of_softmax(how: None, g: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    y = _softmax(x)
    return [y * (g - (y * g).sum(axis=1, keepdims=True))]


def _of_take(how: None, g: np.ndarray, x: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, float]:
    whole = np.zeros(x.shape)
    np.add.at(whole, index, g)
    return whole, 0.0


_ADJOINTS: dict[str, Callable[..., Any]] = {
    "add": lambda how, g, x, y: (_summed_to(x.shape, g), _summed_to(y.shape, g)),
    "subtract": lambda how, g, x, y: (_summed_to(x.shape, g), -_summed_to(y.shape, g)),
    "multiply": lambda how, g, x, y: (_summed_to(x.shape, g * y), _summed_to(y.shape, g * x)),
    "matmul": lambda how, g, x, y: (g @ y.T, x.T @ g),
    "part": _of_part,
    "reshape": lambda how, g, x: [g.reshape(x.shape)],
    "take": _of_take,
    "softmax": _of_softmax,
}
