"""θ_D as a program: a few operations on ranges of θ and on frozen numbers (SPEC 11).

A kind says what its A and B are in ``Value``s, once. The reference runs them with NumPy, the torch backend with torch, an
exporter writes them as nodes: seven operations are all that a package has to know to know every such kind.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np

from .errors import LayerMapError, LimitError
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
}
"""What each operation does to arrays of NumPy or of torch; ``how`` is its ``Value``'s (SPEC 11.3)."""


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
        return Value("part", shape, (self,), tuple(slice(start, stop) for start, stop, _ in bounds))

    def reshape(self, *shape: int) -> "Value":
        return Value("reshape", shape, (self,), shape)

    def take(self, index: "Value") -> "Value":
        """The rows of this value that a frozen ``index`` names: its shape, then that of a row."""
        return Value("take", (*index.shape, *self.shape[1:]), (self, index))


def frozen(shape: tuple[int, ...], make: Callable[[], np.ndarray]) -> Value:
    """Numbers that do not depend on θ: what ``make`` gives, float32 or, for an index, int64, of this shape."""
    return Value("frozen", shape, how=make)


def under(value: Value) -> list[Value]:
    """All that a value is made of, itself last: each once, and after its inputs."""
    found = {}

    def visit(each):
        if each not in found:
            for of_input in each.inputs:
                visit(of_input)
            found[each] = None

    visit(value)
    return list(found)


def run(value: Value, leaf: Callable[[Value], object]) -> dict:
    """The array of each value that ``value`` is made of, itself last, where ``leaf`` gives the ranges of θ and the frozen arrays:
    NumPy's or torch's."""
    made = {}
    for each in under(value):
        made[each] = OPERATIONS[each.op](each.how, *[made[x] for x in each.inputs]) if each.inputs else leaf(each)
    return made


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
        self._offsets, end = {}, 0
        for name, shape, start in self.layout(self.layer_map, **given):
            self._offsets[name] = end, shape, start
            end += math.prod(shape)

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
        offset, shape, _ = self._offsets[name]
        return Value("theta", shape, how=offset)

    def expand(self, theta, start=0, stop=None):
        start, stop = self.range_of(start, stop, self.D)
        theta = self.vector(theta, self.d, "theta").astype(np.float32 if self.exact else np.float64)
        result = np.empty(stop - start, dtype=np.float32)
        for first, value in self.pieces(start, stop):
            ours, its = _overlap(start, stop, first, value.shape[0])
            result[ours] = run(value, lambda leaf: _leaf(leaf, theta))[value][its]
        return result

    def adjoint(self, g, start=0, theta=None):
        start, stop = self.range_of(start, start + len(g), self.D)
        g = self.vector(g, stop - start, "g").astype(np.float64)
        theta = self.vector(theta, self.d, "theta").astype(np.float64)
        total = np.zeros(self.d)
        for first, value in self.pieces(start, stop):
            ours, its = _overlap(start, stop, first, value.shape[0])
            arrays = run(value, lambda leaf: _leaf(leaf, theta))
            of_value = np.zeros(value.shape)
            of_value[its] = g[ours]
            _add_gradient(value, of_value, arrays, total)
        return total.astype(np.float32)

    def initial(self, layer_map=None, bound=0.02):
        theta = np.empty(self.d, dtype=np.float32)
        for offset, shape, (form, size) in self._offsets.values():
            stop = offset + math.prod(shape)
            unit = {"constant": _ones, "uniform": self.uniform_start, "normal": self._normal_start}[form]
            theta[offset:stop] = unit(offset, stop) * size
        return theta

    def _normal_start(self, start, stop):
        return self.normal(0, start, stop)


class Factored(Program):
    """A program that gives each segment its A and B."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for segment in self.layer_map.segments:
            if segment.rank == 0:
                raise LayerMapError(f"{segment.name} has rank 0, and kind {self.kind} has A and B; give a rank", "11.1")

    @abstractmethod
    def factors(self, number: int, segment: Segment) -> tuple[Value, Value]:
        """A (rank, in) and B (out, rank) of the segment with this number in the layer map."""

    def pieces(self, start, stop):
        for number, (segment, offset) in enumerate(self.layer_map.placed()):
            if offset < stop and start < offset + segment.size:
                for value in self.factors(number, segment):
                    yield offset, value.reshape(math.prod(value.shape))
                    offset += math.prod(value.shape)


def _ones(start, stop):
    return np.ones(stop - start)


def _leaf(value: Value, theta: np.ndarray) -> np.ndarray:
    if value.op == "frozen":
        return value.array
    return theta[value.how : value.how + math.prod(value.shape)].reshape(value.shape)


def _overlap(start, stop, first, length) -> tuple[slice, slice]:
    """The entries that [start, stop) shares with [first, first + length), counted from the beginning of each."""
    begin, end = max(start, first), max(start, first, min(stop, first + length))
    return slice(begin - start, end - start), slice(begin - first, end - first)


# The adjoint of each operation: from the gradient of its result to those of its inputs, None for an index.


def _summed_to(shape, g):
    """The gradient of an array that was broadcast."""
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return g.sum(axis=tuple(axis for axis, n in enumerate(shape) if n == 1), keepdims=True)


def _of_part(how, g, x):
    whole = np.zeros(x.shape)
    whole[how] = g
    return [whole]


def _of_take(how, g, x, index):
    whole = np.zeros(x.shape)
    np.add.at(whole, index, g)
    return whole, None


_ADJOINTS = {
    "add": lambda how, g, x, y: (_summed_to(x.shape, g), _summed_to(y.shape, g)),
    "subtract": lambda how, g, x, y: (_summed_to(x.shape, g), -_summed_to(y.shape, g)),
    "multiply": lambda how, g, x, y: (_summed_to(x.shape, g * y), _summed_to(y.shape, g * x)),
    "matmul": lambda how, g, x, y: (g @ y.T, x.T @ g),
    "part": _of_part,
    "reshape": lambda how, g, x: [g.reshape(x.shape)],
    "take": _of_take,
}


def _add_gradient(value: Value, g, arrays, total):
    """Adds to ``total`` what a gradient of ``value`` is for θ. ``arrays`` are those of all values under it, as ``run`` gives them."""
    gradients = {value: g}
    for each in reversed(arrays):
        g = gradients.pop(each, None)
        if g is None or each.op == "frozen":
            continue
        if each.op == "theta":
            total[each.how : each.how + g.size] += g.ravel()
            continue
        inputs = [arrays[x] for x in each.inputs]
        for x, of_x in zip(each.inputs, _ADJOINTS[each.op](each.how, g, *inputs)):
            if of_x is not None:
                gradients[x] = gradients[x] + of_x if x in gradients else of_x
