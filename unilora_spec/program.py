"""θ_D as a program: a few operations on ranges of θ and on frozen numbers (SPEC 11).

A kind says what its A and B are in ``Value``s, once. The reference runs them with NumPy, the torch backend with torch, an
exporter writes them as nodes: seven operations are all that a package has to know to know every such kind.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np

from .errors import LimitError
from .layer_map import LayerMap, Segment
from .projection import MAX_DIM, Projection

OPERATIONS = {
    "add": lambda how, x, y: x + y,
    "subtract": lambda how, x, y: x - y,
    "multiply": lambda how, x, y: x * y,
    "matmul": lambda how, x, y: x @ y,
    "part": lambda how, x: x[how],
    "reshape": lambda how, x: x.reshape(how),
    "take": lambda how, x, index: x[index],
    # These two are for training alone, and no kind of a file has them.
    "largest": lambda how, x: x.topk(how).indices if hasattr(x, "topk") else np.argsort(-x, stable=True)[:, :how],
    "softmax": lambda how, x: _softmax(x),
}
"""What each operation does to arrays of NumPy or of torch; ``how`` is its ``Value``'s (SPEC 11.3)."""


def _softmax(x):
    e = math.e ** (x - x[:, :1])  # the first number of a row is its largest
    return e / e.sum(1)[:, None]


@dataclass(frozen=True, eq=False)
class Value:
    """An array of float32 that follows from θ, or a frozen one: an operation and what it is applied to.

    ``op``      a name of ``OPERATIONS``; or "theta", a range of θ; or "frozen", an array that does not depend on θ
    ``shape``   the array's
    ``inputs``  the values that the operation is applied to
    ``how``     the shape of a reshape, the slices of a part, the offset in θ of a range, a function that makes a frozen array
    """

    op: str
    shape: tuple[int, ...]
    inputs: tuple["Value", ...] = ()
    how: object = None

    @cached_property
    def array(self) -> np.ndarray:
        """The numbers of a frozen value: float32, or int64 of an index. Made once, and kept while the value is."""
        return self.how()

    def __add__(self, other: "Value") -> "Value":
        return Value("add", np.broadcast_shapes(self.shape, other.shape), (self, other))

    def __sub__(self, other: "Value") -> "Value":
        return Value("subtract", np.broadcast_shapes(self.shape, other.shape), (self, other))

    def __mul__(self, other: "Value") -> "Value":
        return Value("multiply", np.broadcast_shapes(self.shape, other.shape), (self, other))

    def __matmul__(self, other: "Value") -> "Value":
        return Value("matmul", (self.shape[0], other.shape[1]), (self, other))

    def __getitem__(self, slices: tuple[slice, ...]) -> "Value":
        """A part: a slice with a step of 1 for each of the first axes."""
        slices = slices if isinstance(slices, tuple) else (slices,)
        bounds = [s.indices(n) for s, n in zip(slices, self.shape)]
        shape = (*(stop - start for start, stop, _ in bounds), *self.shape[len(slices) :])
        if shape == self.shape:
            return self
        return Value("part", shape, (self,), tuple(slice(start, stop) for start, stop, _ in bounds))

    def reshape(self, *shape: int) -> "Value":
        return Value("reshape", shape, (self,), shape)

    def take(self, index: "Value") -> "Value":
        """The rows of this value that an ``index`` names: its shape, then that of a row."""
        return Value("take", (*index.shape, *self.shape[1:]), (self, index))

    def largest(self, k: int) -> "Value":
        """Where the k largest numbers of each row are, the largest first: int64 (rows, k), an index. Its gradient is 0."""
        return Value("largest", (self.shape[0], k), (self,), k)

    def softmax(self) -> "Value":
        """Of each row, whose first number is its largest."""
        return Value("softmax", self.shape, (self,))


def frozen(shape: tuple[int, ...], make: Callable[[], np.ndarray]) -> Value:
    """Numbers that do not depend on θ: what ``make`` gives, float32 or, for an index, int64, of this shape."""
    return Value("frozen", shape, how=make)


def ordered(values: Iterable[Value]) -> list[Value]:
    """The values and all that they are made of, each once and after its inputs."""
    found: dict[Value, None] = {}

    def add(value):
        if value not in found:
            for each in value.inputs:
                add(each)
            found[value] = None

    for value in values:
        add(value)
    return list(found)


class Start(NamedTuple):
    """What a range of θ begins training with (SPEC 11.5): ``form`` is "constant", "uniform" in ±size or "normal" with that
    deviation."""

    form: str
    size: float


class Range(NamedTuple):
    """A range of θ: what is trained under one name."""

    name: object
    shape: tuple[int, ...]
    start: Start


class Program(Projection):
    """A kind whose θ_D is made of ``Value``s, from named ranges of θ; d follows from the layer map, unless it is free (SPEC 11.1).

    ``exact``  whether each entry is the same bits everywhere, as it is without products of matrices (SPEC 11.3)
    """

    layered, d_is_free = True, False
    exact: ClassVar[bool] = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        given = self.options
        if self.d_is_free:
            given = given | {"d": self.d}
        elif self.d != (needed := self.dim(self.layer_map, **self.options)):
            raise LimitError(f"d is {self.d}; kind {self.kind} has {needed} numbers for this layer map", "11.1")
        self._ranges, offset = {}, 0
        for name, shape, start in self.layout(self.layer_map, **given):
            self._ranges[name] = Value("theta", shape, how=offset), start
            offset += math.prod(shape)

    @classmethod
    def dim(cls, layer_map, **options):
        if cls.d_is_free:
            return super().dim(layer_map, **options)
        return sum(math.prod(shape) for _, shape, _ in cls.layout(layer_map, **options))

    @classmethod
    def largest_dim(cls, D):
        # What follows from the layer map may exceed D: what all segments share can be more than one of them has.
        return super().largest_dim(D) if cls.d_is_free else MAX_DIM

    @classmethod
    @abstractmethod
    def layout(cls, layer_map: LayerMap, **options: int) -> Iterator[Range]:
        """The ranges of θ in order. Where d is free, it is one of ``options``."""

    @abstractmethod
    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, Value]]:
        """Values of one axis that hold θ_D's entries start … stop − 1 and perhaps some around them, without gaps and in order,
        each with the row in θ_D of its first entry."""

    def range(self, name) -> Value:
        """A range of θ, in its shape."""
        return self._ranges[name][0]

    def expand(self, theta, start=0, stop=None):
        start, stop = self.range_of(start, stop, self.D)
        theta = self.vector(theta, self.d, "theta").astype(np.float32 if self.exact else np.float64)
        result = np.empty(stop - start, dtype=np.float32)
        for first, value in self.pieces(start, stop):
            ours, its = _overlap(start, stop, first, value.shape[0])
            result[ours] = _run(value, theta)[value][its]
        return result

    def adjoint(self, g, start=0, theta=None):
        start, stop = self.range_of(start, start + len(g), self.D)
        g = self.vector(g, stop - start, "g").astype(np.float64)
        theta = self.vector(theta, self.d, "theta").astype(np.float64)
        total = np.zeros(self.d)
        for first, value in self.pieces(start, stop):
            ours, its = _overlap(start, stop, first, value.shape[0])
            of_value = np.zeros(value.shape)
            of_value[its] = g[ours]
            _add_gradient(of_value, _run(value, theta), total)
        return total.astype(np.float32)

    def initial(self, layer_map=None, bound=0.02):
        theta = np.empty(self.d, dtype=np.float32)
        for value, (form, size) in self._ranges.values():
            start, stop = value.how, value.how + math.prod(value.shape)
            unit = {"constant": _ones, "uniform": self.uniform_start, "normal": self._normal_start}[form]
            theta[start:stop] = unit(start, stop) * size
        return theta

    def _normal_start(self, start, stop):
        return self.normal(0, start, stop)


class Factored(Program):
    """A program that gives each segment its A and B."""

    @classmethod
    def dim(cls, layer_map, **options):
        cls.check_factors(layer_map)
        return super().dim(layer_map, **options)

    @abstractmethod
    def factors(self, number: int, segment: Segment) -> tuple[Value, Value]:
        """A (rank, in) and B (out, rank) of the segment with this number in the layer map."""

    def pieces(self, start, stop):
        for number, (segment, offset) in enumerate(self.layer_map.placed()):
            if offset < stop and start < offset + segment.size:
                for value in self.factors(number, segment):
                    yield offset, value.reshape(math.prod(value.shape))
                    offset += math.prod(value.shape)


def largest(layer_map: LayerMap) -> tuple[int, int, int]:
    """The largest rank, in and out of all segments: the sizes of what they share (SPEC 11.6)."""
    sizes = zip(*((s.rank, s.in_features, s.out_features) for s in layer_map.segments))
    return tuple(map(max, sizes))


def _ones(start, stop):
    return np.ones(stop - start)


def _run(value: Value, theta: np.ndarray) -> dict[Value, np.ndarray]:
    """The arrays of a value and of all that it is made of, in order."""
    arrays = {}
    for each in ordered([value]):
        if each.op == "theta":
            arrays[each] = theta[each.how : each.how + math.prod(each.shape)].reshape(each.shape)
        elif each.op == "frozen":
            arrays[each] = each.array
        else:
            arrays[each] = OPERATIONS[each.op](each.how, *(arrays[of] for of in each.inputs))
    return arrays


def _overlap(start, stop, first, length) -> tuple[slice, slice]:
    """The entries that [start, stop) shares with [first, first + length), counted from the beginning of each."""
    begin, end = max(start, first), max(start, first, min(stop, first + length))
    return slice(begin - start, end - start), slice(begin - first, end - first)


# The adjoint of each operation: from the gradient of its result to those of its inputs, which of an index is 0.


def _summed_to(shape, g):
    """The gradient of an array that was broadcast."""
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return g.sum(axis=tuple(axis for axis, n in enumerate(shape) if n == 1), keepdims=True)


def _of_part(how, g, x):
    whole = np.zeros(x.shape)
    whole[how] = g
    return [whole]


def _of_softmax(how, g, x):
    y = _softmax(x)
    return [y * (g - (y * g).sum(axis=1, keepdims=True))]


def _of_take(how, g, x, index):
    whole = np.zeros(x.shape)
    np.add.at(whole, index, g)
    return whole, 0.0


_ADJOINTS = {
    "add": lambda how, g, x, y: (_summed_to(x.shape, g), _summed_to(y.shape, g)),
    "subtract": lambda how, g, x, y: (_summed_to(x.shape, g), -_summed_to(y.shape, g)),
    "multiply": lambda how, g, x, y: (_summed_to(x.shape, g * y), _summed_to(y.shape, g * x)),
    "matmul": lambda how, g, x, y: (g @ y.T, x.T @ g),
    "part": _of_part,
    "reshape": lambda how, g, x: [g.reshape(x.shape)],
    "take": _of_take,
    "softmax": _of_softmax,
}


def _add_gradient(g, arrays: dict[Value, np.ndarray], total: np.ndarray) -> None:
    """Adds to ``total``, float64[d], what the gradient ``g`` of the last of ``arrays`` is for θ."""
    gradients = dict.fromkeys(arrays, 0.0) | {next(reversed(arrays)): g}
    for value, array in reversed(arrays.items()):
        g = gradients.pop(value)
        if value.op == "theta":
            total[value.how : value.how + array.size] += g.ravel()
        elif value.inputs and np.ndim(g):  # none comes to what an index is made of
            of_inputs = _ADJOINTS[value.op](value.how, g, *(arrays[each] for each in value.inputs))
            for each, of_input in zip(value.inputs, of_inputs):
                gradients[each] = gradients[each] + of_input
