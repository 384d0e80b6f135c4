"""SPEC 11 for every kind that it has: θ_D, its adjoint and what a request or a file of the kind holds.

A kind's own text is in kinds/, written for numbers of any type. With ``Rounded`` it gives the bits, with fractions what is
exact, with ``Size`` how large all that is summed can be, of which a bound on roundings is made.
"""

from fractions import Fraction

from . import arithmetic, files
from .arithmetic import f32
from .kinds import LAYERED, PROGRAMS


class Rounded(float):
    """Rounded to float32 by each operation. (A float64 in between changes nothing: it has more than twice the bits.)"""

    def __add__(self, other):
        return Rounded(f32(float(self) + float(other)))

    def __sub__(self, other):
        return Rounded(f32(float(self) - float(other)))

    def __mul__(self, other):
        return Rounded(f32(float(self) * float(other)))


class Size(float):
    """The size that a number would have if no terms cancelled: sums and differences add sizes."""

    def __new__(cls, value):
        return super().__new__(cls, abs(value))

    def __add__(self, other):
        return Size(float(self) + float(other))

    __sub__ = __add__

    def __mul__(self, other):
        return Size(float(self) * float(other))


class Differential:
    """A number and its derivatives with respect to the θ_j on which it depends, by j."""

    def __init__(self, value, by=()):
        self.value, self.by = value, dict(by)

    def __add__(self, other):
        return Differential(self.value + other.value, _added(self.by.items(), other.by.items()))

    def __sub__(self, other):
        zero = type(self.value)(0)
        return Differential(
            self.value - other.value, _added(self.by.items(), ((j, zero - d) for j, d in other.by.items()))
        )

    def __mul__(self, other):
        ours = ((j, d * other.value) for j, d in self.by.items())
        return Differential(self.value * other.value, _added(ours, ((j, self.value * d) for j, d in other.by.items())))


def _added(first, second):
    total = dict(first)
    for j, d in second:
        total[j] = total[j] + d if j in total else d
    return total


def segments_of(p):
    """The segments of a layered projection of the protocol, one by one."""
    return files.unfold(p["layers"])


def of(p):
    """kind, D, d and source, as arithmetic.py takes them, of a projection of the protocol."""
    kind, source = p["kind"], int(p["seed"])
    if kind == "table":
        source = p["index"]
    elif kind in LAYERED:
        source = LAYERED[kind].index(p, segments_of(p))
    return kind, p["D"], p["d"], source


def roundings(p, segments):
    """More than there are between θ and an entry: the products and sums of a row with a column, and a few more. (A block of a
    transform of n numbers has log2 n.)"""
    of_kind = LAYERED[p["kind"]]
    most = of_kind.summed(p, segments) if hasattr(of_kind, "summed") else max(s["rank"] for s in segments)
    return most + 24


def expand(p, theta, start=0, stop=None):
    """θ_D[start:stop], and how far off each entry may be: 0 where its bits are fixed (SPEC 6.2, 11.3)."""
    if p["kind"] not in PROGRAMS:
        values = arithmetic.expand(*of(p), theta, start, stop)
        return values, [0.0] * len(values)
    of_kind, segments = LAYERED[p["kind"]], segments_of(p)
    if of_kind.EXACT:
        values = [float(x) for x in of_kind.theta_D(p, segments, [Rounded(x) for x in theta], Rounded)[start:stop]]
        return values, [0.0] * len(values)
    values = of_kind.theta_D(p, segments, [Fraction(x) for x in map(float, theta)], Fraction)[start:stop]
    sizes = of_kind.theta_D(p, segments, [Size(x) for x in theta], Size)[start:stop]
    return [float(x) for x in values], [roundings(p, segments) * 2**-23 * size + 2**-126 for size in sizes]


def adjoint(p, theta, g, start=0):
    """(Pᵀg)_j at θ, where g is the gradient of the rows from ``start`` on, and the bound that SPEC 11.4 allows."""
    of_kind, segments = LAYERED[p["kind"]], segments_of(p)

    def gathered(number, g):
        at = [Differential(number(x), {j: number(1)}) for j, x in enumerate(map(float, theta))]
        rows = of_kind.theta_D(p, segments, at, lambda x: Differential(number(x)))[start : start + len(g)]
        total = dict.fromkeys(range(p["d"]), number(0))
        for row, x in zip(rows, map(number, map(float, g))):
            total = _added(total.items(), ((j, x * d) for j, d in row.by.items()))
        return [float(x) for x in total.values()]

    many = len(g) + roundings(p, segments)
    return gathered(Fraction, g), [many * 2**-23 * size + 2**-126 for size in gathered(Size, g)]
