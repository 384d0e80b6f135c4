"""What a projection is: a way to rebuild θ_D, the long vector of all LoRA factors, from a trained vector θ.

The requirements on a kind, each with its reason; docs/methods.md writes every member of the LoRA family against them.

1. The trained state is one flat float32 vector of ``d`` numbers. A method that trains several things (VeRA's λ_d and
   λ_b) gives each a range of it, so that files, optimizers and graphs know one tensor only.
2. ``expand`` is a pure function of that vector. What is frozen comes from the seed, from the layer map where the kind is
   ``layered``, from whole numbers of its own (``options``), or, where ``stored`` says so, from tensors beside θ in the file.
   These may come from the base's weights, by ``of_base``, when training begins; a file is read without the base.
3. ``expand`` works on any slice of θ_D without the rest, so that a large model is rebuilt tensor by tensor.
4. ``adjoint`` is the transposed Jacobian of ``expand`` at θ, which is all that training needs of a kind.
5. ``initial`` is the start of training, from the seed and the layer map: plain LoRA starts A and B differently.
6. ``index``, ``members`` and ``scale`` exist only where an entry depends on one trained number: class ``Gather`` of gather.py.
   Other kinds are made of a few operations that every package knows: class ``Program`` of program.py.
7. What is trained may be more than a file is to hold (VB-LoRA's logits): ``trained_as`` is then another projection, whose
   ``stored_as`` gives one of the kind.

A kind is one file under kinds/, with a class that names itself: ``class Mine(Projection, kind="mine")``.
"""

import hashlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from .errors import KindError, LayerMapError, LimitError
from .layer_map import LayerMap
from .permutation import check_D, in_blocks, keys, mix

MAX_DIM = 2**31 - 1
KINDS: dict[str, type["Projection"]] = {}
Read = Callable[[str], np.ndarray]
"""Gives a weight of the base by its name, as an array of NumPy."""


class Option(NamedTuple):
    """A whole number that only this kind has, a field of `projection` in the file (SPEC 11.1)."""

    least: int
    default: int
    meaning: str


class Projection(ABC):
    """How θ_D follows from θ (SPEC 1, 6, 11), e.g. ``Projection(kind="balanced", D=36864, d=5760, seed=42)``.

    ``D`` is the length of θ_D (the layer map's), ``d`` that of θ, ``seed`` a number below 2^64. ``layer_map`` is given to kinds
    that are ``layered``, ``tensors`` are those that the kind has in the file beside θ, by the names of its ``stored``, each of
    one axis, and ``options`` are the kind's own whole numbers. ``Projection.of`` finds all of them for a layer map.
    Raises ``KindError`` for an unknown kind, for other tensors or options than the kind's, ``LimitError`` outside of
    1 ≤ d ≤ D ≤ 2^40, d < 2^31, 0 ≤ seed < 2^64.

    >>> p = Projection(kind="balanced", D=36864, d=5760, seed=42)
    >>> p.index(0, 8).tolist()
    [805, 2990, 5608, 1842, 5693, 5545, 1564, 5238]
    """

    kind: ClassVar[str]
    layered: ClassVar[bool] = False
    d_is_free: ClassVar[bool] = True  # else ``dim`` gives the only d for a layer map
    links: int = 1  # ranges of theta that are trained one after the other (SPEC 11.15)
    stored: ClassVar[Mapping[str, str]] = {}  # the tensors of a file that are the kind's own: name → dtype (SPEC 8.3)
    known_options: ClassVar[Mapping[str, Option]] = {}
    layer_map: LayerMap  # None where the kind is not ``layered``

    def __init_subclass__(cls, kind: str | None = None):
        if kind:
            cls.kind, KINDS[kind] = kind, cls

    def __new__(cls, kind: str = "balanced", **_: Any) -> Self:
        return super().__new__(kind_named(kind) if cls is Projection else cls)  # type: ignore[return-value]

    def __init__(
        self,
        kind: str = "balanced",
        *,
        D: int,
        d: int,
        seed: int,
        layer_map: LayerMap | None = None,
        tensors: Mapping[str, np.ndarray] = {},
        **options: int,
    ) -> None:
        self.D, self.d, self.seed = check_D(operator.index(D)), operator.index(d), operator.index(seed)
        most = self.largest_dim(self.D)
        if not 1 <= self.d <= most:
            raise LimitError(f"d is {self.d}; give one from 1 to {most}, as D is {D}", "1.1")
        self.keys = keys(self.seed, 10)
        self.options = self.checked_options(options)
        self.layer_map = layer_map if self.layered else None  # type: ignore[assignment]
        if self.layered and (layer_map is None or layer_map.D != self.D):
            raise LimitError(f"kind {self.kind} needs its layer map, of D = {self.D} entries", "11.1")
        self.tensors = dict(tensors)
        for name in sorted(self.stored.keys() ^ self.tensors.keys()):
            verb = "needs" if name in self.stored else "has no"
            raise KindError(f"kind {self.kind} {verb} tensor {name!r:.60}, which comes with an adapter's file", "8.3")

    @classmethod
    def of(
        cls,
        layer_map: LayerMap,
        kind: str = "balanced",
        d: int | None = None,
        seed: int = 0,
        read: Read | None = None,
        **options: int,
    ) -> "Projection":
        """The projection to train for an adapter of a kind: the kind's ``trained_as``. ``d`` may be None where the layer map allows
        only one.

        ``read(name)`` gives a weight of the base as float32, of its stored shape, to kinds that begin with it. Options that
        are not given have their defaults. Raises as the constructor does, and ``LimitError`` where d is missing.
        """
        of_kind = kind_named(kind).trained_as()
        options = of_kind.with_defaults(options)
        d = of_kind.dim(layer_map, **options) if d is None else d
        tensors = of_kind.of_base(layer_map, read, **options)
        return of_kind(kind, D=layer_map.D, d=d, seed=seed, layer_map=layer_map, tensors=tensors, **options)

    @classmethod
    def fitted(cls, layer_map: LayerMap, **options: int) -> LayerMap:
        """The layer map that an adapter gets where its user asks for this one. It is another one only where the kind puts several
        adapters of these ranks and scaling beside each other."""
        return layer_map

    @classmethod
    def dim(cls, layer_map: LayerMap, **options: int) -> int:
        """The only d that the kind allows for a layer map. Raises ``LimitError`` where d is the user's choice."""
        raise LimitError(f"d is missing; give the length of theta, from 1 to D = {layer_map.D}", "1.1")

    @classmethod
    def trained_as(cls) -> type["Projection"]:
        """The class that is trained to get this kind: its ``stored_as`` gives a projection of this kind. By default it is the class
        itself."""
        return cls

    def stored_as(self, theta: np.ndarray) -> tuple["Projection", np.ndarray]:
        """What a file holds of a trained θ, float32[d]: the projection of the kind, and its θ."""
        return self, theta

    @classmethod
    def largest_dim(cls, D: int) -> int:
        """The largest d that there can be with this D (SPEC 1.1)."""
        return min(D, MAX_DIM)

    @classmethod
    def lengths(cls, layer_map: LayerMap, **options: int) -> dict[str, int]:
        """How long each tensor of ``stored`` is. Raises ``KindError`` where they do not come from training."""
        if cls.stored:
            raise KindError(f"kind {cls.kind} needs tensors that come with an adapter's file, not from training", "8.3")
        return {}

    @classmethod
    def of_base(cls, layer_map: LayerMap, read: Any, **options: int) -> dict[str, np.ndarray]:
        """The tensors of ``stored`` that training begins with, as long as ``lengths`` says, made of the base's weights: ``read(name)``
        gives one as float32, of its stored shape, and is asked for each once. Raises ``KindError`` as ``lengths`` does."""
        cls.lengths(layer_map, **options)
        return {}

    @classmethod
    def with_defaults(cls, options: Mapping[str, int]) -> dict[str, int]:
        """``checked_options`` of ``options``, with the defaults of those that are not given."""
        return cls.checked_options({name: option.default for name, option in cls.known_options.items()} | dict(options))

    @classmethod
    def checked_options(cls, options: Mapping[str, int]) -> dict[str, int]:
        """The options in the order of ``known_options``. Raises ``KindError`` for others, ``LimitError`` for values (SPEC 11.1)."""
        for name in sorted(cls.known_options.keys() ^ options.keys()):
            known = ", ".join(cls.known_options) or "none"
            verb = "needs" if name in cls.known_options else "has no"
            raise KindError(f"kind {cls.kind} {verb} option {name!r:.60}; its options are {known}", "11.1")
        for name, (least, _, meaning) in cls.known_options.items():
            if type(options[name]) is not int or not least <= options[name] <= MAX_DIM:
                raise LimitError(f"{name} is {options[name]!r:.40}; give {meaning}, from {least}", "11.1")
        return {name: options[name] for name in cls.known_options}

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, also one in another process, makes all else again from these.
        given: dict[str, Any] = {"layer_map": self.layer_map, "tensors": self.tensors, **self.options}
        return partial(type(self), self.kind, D=self.D, d=self.d, seed=self.seed, **given), ()

    def __repr__(self) -> str:
        options = "".join(f", {name}={value}" for name, value in self.options.items())
        return f"Projection(kind={self.kind!r}, D={self.D}, d={self.d}, seed={self.seed}{options})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Projection) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        digests = (hashlib.sha256(np.ascontiguousarray(self.tensors[name]).data).digest() for name in self.stored)
        return repr(self), self.layer_map, *digests

    @abstractmethod
    def expand(self, theta: np.ndarray, start: int = 0, stop: int | None = None) -> np.ndarray:
        """θ_D[start:stop] as float32[stop − start] of θ, float32[d]: the same bits in every implementation (SPEC 6.2)."""

    @abstractmethod
    def adjoint(self, g: np.ndarray, start: int = 0, theta: np.ndarray | None = None) -> np.ndarray:
        """Pᵀg as float32[d]. ``g`` is the gradient of θ_D[start : start + len(g)]; the rest counts as zero (SPEC 6.3, 11.4).
        A ``Gather`` is linear; others need the ``theta`` at which P is the Jacobian."""

    @abstractmethod
    def initial(self, layer_map: LayerMap | None, bound: float = 0.02) -> np.ndarray:
        """The θ, float32[d], that training starts from; ``layer_map`` is the adapter's ``LayerMap`` (SPEC 6.4)."""

    def uniform_start(self, start: int, stop: int) -> np.ndarray:
        """2u − 1 in float64 for the entries start … stop − 1 of the start vector (SPEC 6.4)."""
        j = np.arange(start, stop, dtype=np.uint32)
        return 2 * (mix(mix(j, self.keys[8]), self.keys[9]) / 2.0**32) - 1

    def hashes(self, stream: int, i: np.ndarray) -> np.ndarray:
        """h(i) of one of the seed's streams of 32-bit numbers: uint32 of the shape of i, int64 (SPEC 11.2)."""
        first, second = keys(self.seed, 12 + 2 * stream)[-2:]
        return mix(mix(i.astype(np.uint32), first) ^ (i >> 32).astype(np.uint32), second)

    def uniform(self, stream: int, i: np.ndarray) -> np.ndarray:
        """Numbers of a stream, uniform in [−1, 1): float64 of the shape of i, int64 (SPEC 11.2)."""
        return 2 * (self.hashes(stream, i) / 2.0**32) - 1

    def normal(self, stream: int, start: int, stop: int) -> np.ndarray:
        """Numbers of a stream, nearly normal with mean 0 and variance 1: sums of twelve, float64 (SPEC 11.2)."""
        result = np.empty(stop - start)
        for i, end in in_blocks(start, stop):
            h = self.hashes(stream, np.arange(12 * i, 12 * end)).reshape(-1, 12)
            result[i - start : end - start] = h.sum(axis=1, dtype=np.uint64) / 2.0**32 - 6
        return result

    @staticmethod
    def vector(value: Any, length: int, name: str) -> np.ndarray:
        """``value`` as float32[length]; ``LimitError`` with its name for another length (SPEC 1.3)."""
        value = np.asarray(value, dtype=np.float32)
        if value.shape != (length,):
            raise LimitError(f"{name} has shape {list(value.shape)}; it must be [{length}]", "1.3")
        return value

    def checked_index(self, length: int, end: int, possible: str, rule: str) -> np.ndarray:
        """The tensor ``index`` as int32[length], a copy that nobody else changes.

        Raises ``LimitError`` with ``rule`` for another shape, other numbers than whole ones, or one outside of 0 … end − 1, with
        ``possible`` for what to give.
        """
        index = np.asarray(self.tensors["index"])
        if index.shape != (length,) or not np.issubdtype(index.dtype, np.integer):
            raise LimitError(f"index is {index.dtype} {list(index.shape)}; it must be whole numbers [{length}]", rule)
        if not 0 <= index.min() <= index.max() < end:
            at = int(np.argmax((index < 0) | (index >= end)))
            raise LimitError(f"index[{at}] is {index[at]}; give {possible}", rule)
        index = index.astype(np.int32)
        index.flags.writeable = False
        return index

    @classmethod
    def check_factors(cls, layer_map: LayerMap) -> None:
        """Raises ``LayerMapError`` for a segment of rank 0, which has no A and B (SPEC 11.1)."""
        for segment in layer_map.segments:
            if segment.rank == 0:
                raise LayerMapError(f"{segment.name} has rank 0, and kind {cls.kind} has A and B; give a rank", "11.1")

    def range_of(self, start: int, stop: int | None, end: int) -> tuple[int, int]:
        """``start`` and ``stop`` (None: the end) checked to be a range of 0 … end; ``LimitError`` otherwise."""
        start, stop = operator.index(start), end if stop is None else operator.index(stop)
        if not 0 <= start <= stop <= end:
            raise LimitError(f"[{start}, {stop}) is not a range of [0, {end})", "1.3")
        return start, stop


def kind_named(kind: str) -> type[Projection]:
    """The class of a kind. Raises ``KindError`` for an unknown one (SPEC 9.1)."""
    if kind not in KINDS:
        raise KindError(f"projection kind {kind!r:.60} is unknown; this version knows {', '.join(KINDS)}", "9.1")
    return KINDS[kind]


from . import kinds  # noqa: F401  the kinds register themselves on import
