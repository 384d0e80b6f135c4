"""What an adapter is: a vector, and everything needed to rebuild a model's delta weights from it (SPEC 7, 8, 10)."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import canonical_json, rest
from .errors import BaseMismatch, FileError
from .layer_map import LayerMap
from .projection import Projection, Read, kind_named
from .segment import Segment

DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
BAND = 2**20  # entries of ΔW that are in memory at once while it is added: 4 MiB, and a few copies of it


@dataclass(frozen=True)
class Base:
    """The base model's record (SPEC 10).

    ``name``          the folder or hub id, as its user gave it
    ``architecture``  the model class of transformers, or None for a plain module
    ``labels``        the names of its output classes, where the adapter brings a head
    ``structure``     fingerprint of the adapted weights' names and shapes (SPEC 10.1)
    ``contents``      fingerprint of their values (SPEC 10.2)
    ``problem_type``  one of ``PROBLEM_TYPES``: what the outputs of a head are, where the model's configuration says it
    ``rest``          fingerprint of the base outside of what the adapter changes (SPEC 10.5), or None where none was taken
    """

    name: str
    structure: str
    contents: str
    architecture: str | None = None
    labels: tuple[str, ...] | None = None
    problem_type: str | None = None
    rest: str | None = None

    @classmethod
    def of(
        cls,
        name: str,
        layer_map: LayerMap,
        shapes: Mapping[str, tuple[int, ...]],
        read: Read,
        architecture: str | None = None,
        id2label: Mapping[int, str] | None = None,
        problem_type: str | None = None,
        rest: str | None = None,
    ) -> "Base":
        """The record of a base whose weights have these ``shapes`` and the values that ``read(name)`` gives, by name.

        ``id2label`` are the labels as the configurations of transformers hold them: {0: "negative", …}. LABEL_0 and
        LABEL_1 alone, which every configuration begins with, are recorded only where ``problem_type`` says that there are outputs.
        ``rest`` is what ``rest.fingerprint`` makes of the other tensors.
        """
        names = layer_map.by_weight()
        labels = tuple(id2label[i] for i in sorted(id2label)) if id2label else ()
        meaningful = labels and (problem_type in PROBLEM_TYPES or labels != ("LABEL_0", "LABEL_1"))
        return cls(
            name,
            structure_fingerprint({name: tuple(shapes[name]) for name in names}),
            contents_fingerprint(names, read),
            architecture,
            labels if meaningful else None,
            problem_type if problem_type in PROBLEM_TYPES else None,
            rest,
        )


@dataclass
class Adapter:
    """A trained adapter (SPEC 8): what ``load_adapter`` returns and ``save_adapter`` takes.

    ``projection``  how θ becomes θ_D; its D is the layer map's
    ``layer_map``   which weight each range of θ_D adapts
    ``theta``       float32[d], finite
    ``base``        the base model's record, or None where nothing is known of it
    ``saved``       parameters trained in full beside θ, by name: float32 arrays, finite
    ``dtypes``      how the file's tensors are stored where not as F32: {"theta": "F16", "saved.classifier.bias": "BF16"}

    Raises ``FileError`` where the parts contradict each other.
    """

    projection: Projection
    layer_map: LayerMap
    theta: np.ndarray
    base: Base | None = None
    saved: Mapping[str, np.ndarray] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if type(self.projection) is not kind_named(self.projection.kind):
            raise FileError("the projection is one that is trained; give what its stored_as makes of theta", "9.1")
        if self.projection.D != self.layer_map.D:
            raise FileError(f"D is {self.projection.D}, but the layer map holds {self.layer_map.D} entries", "8.8")
        if np.shape(self.theta) != (self.projection.d,):
            raise FileError(f"theta has shape {list(np.shape(self.theta))}; d says [{self.projection.d}]", "8.8")
        if both := {segment.name for segment in self.layer_map.segments if segment.name in self.saved}:
            raise FileError(f"{min(both)} is both adapted and trained in full; it can be one of them", "8.8")
        if "" in self.saved:
            raise FileError("a saved parameter has no name", "8.3")

    def factors(self) -> Iterator[tuple[Any, ...]]:
        """Each segment with its A (rank, in) and B (out, rank), or of rank 0 its one factor (out, in), float32, one segment at a
        time (SPEC 7.2)."""
        for segment, offset in self.layer_map.placed():
            yield segment, *segment.factors(self._theta_D(segment, offset))

    def delta_weights(self) -> Iterator[tuple[Segment, np.ndarray]]:
        """Each segment with its ΔW, float32 (out, in), one at a time (SPEC 7.7)."""
        for segment, *factors in self.factors():
            yield segment, self.layer_map.factor_scale(segment) * segment.product(*factors)

    def _theta_D(self, segment: Segment, offset: int) -> np.ndarray:
        return self.projection.expand(self.theta, offset, offset + segment.size)

    def check_base(self, shapes: Mapping[str, tuple[int, ...]], where: object = "the model") -> None:
        """Raises ``BaseMismatch`` unless weights of these ``shapes``, by name, are of the adapted base's form (SPEC 10.3)."""
        check_fit(self.layer_map, shapes)
        adapted = {name: shapes[name] for name in self.layer_map.by_weight()}
        if self.base and structure_fingerprint(adapted) != self.base.structure:
            raise BaseMismatch(f"the weights in {where} have other shapes than the base that was adapted", "10.3")

    def check_saved(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises ``BaseMismatch`` unless a model's parameters of these ``shapes``, by name, can take the saved ones (SPEC 10.3).

        It is separate from ``check_base``, as the files of a base may lack the head that a model has.
        """
        for name, value in self.saved.items():
            if shapes.get(name) != value.shape:
                there = f"it has {list(shapes[name])}" if name in shapes else "it is not there"
                raise BaseMismatch(f"the model has no parameter {name} of shape {list(value.shape)}: {there}", "10.3")

    def same_contents(self, read: Read) -> bool | None:
        """Whether the weights that ``read(name)`` gives have the values that are on record; None without one (SPEC 10.2)."""
        return contents_fingerprint(self.layer_map.by_weight(), read) == self.base.contents if self.base else None

    def other_rest(self, tensors: Iterable[tuple[str, tuple[int, ...], np.ndarray | None]]) -> list[str]:
        """The names of tensors of a base, one for each group of them that is not as it is on record (SPEC 10.6).

        ``tensors`` are as ``rest.fingerprint`` takes them; those that the adapter changes may be among them.
        """
        return rest.differing(self.base.rest, self.outside(tensors)) if self.base and self.base.rest else []

    def outside(self, tensors: Iterable[rest.Tensor]) -> Iterator[rest.Tensor]:
        """Those of ``tensors``, each a tuple with its name first, that the adapter neither adapts nor brings (SPEC 10.5)."""
        own = {*self.layer_map.by_weight(), *self.saved}
        return (each for each in tensors if each[0] not in own)

    def merge(self, weights: Mapping[str, np.ndarray]) -> None:
        """Adds every ΔW to the float32 arrays of ``weights``, by name and in place, and sets those that are ``saved`` (SPEC 7.10).

        Raises ``BaseMismatch`` before anything changes where a weight is missing or its shape does not fit.
        """
        shapes = {name: array.shape for name, array in weights.items()}
        check_fit(self.layer_map, shapes)
        self.check_saved(shapes)
        for name, placed in self.layer_map.placed_by_weight().items():
            self.add_deltas(placed, weights[name])
        for name, value in self.saved.items():
            weights[name][...] = value

    def add_deltas(
        self,
        placed: Iterable[tuple[Segment, int]],
        weight: np.ndarray,
        widen: Callable[[np.ndarray], np.ndarray] = np.asarray,
        narrow: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ) -> None:
        """Adds the ΔW of the ``placed`` segments (with their offsets), all of one weight, to its array in place (SPEC 7.10).

        Where the array holds its values in a form that NumPy does not add, such as BF16 as uint16, ``widen`` makes floats of
        entries and ``narrow`` makes entries of floats. ΔW is made one band of rows at a time, so that it takes little memory.
        """
        for segment, offset in placed:
            scale = self.layer_map.factor_scale(segment)
            for band, product in self._bands(segment, offset):
                part = band.part(weight)
                part[...] = narrow(widen(part) + band.stored(scale * product, part.shape))

    def _bands(self, segment: Segment, offset: int) -> Iterator[tuple[Segment, np.ndarray]]:
        """The bands of a segment, each with its ΔW before the scale s is applied."""
        if segment.rank == 0:  # the entries of a band lie together in θ_D, and no other part of it is needed
            for rows, band in segment.bands(BAND):
                yield band, *band.factors(self._theta_D(band, offset + rows.start * segment.in_features))
        else:
            A, B = segment.factors(self._theta_D(segment, offset))
            for rows, band in segment.bands(BAND):
                yield band, B[rows] @ A


def check_fit(layer_map: LayerMap, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ``BaseMismatch`` where a weight that the layer map names is missing or of another form (SPEC 10.3)."""
    for segment in layer_map.segments:
        if segment.name not in shapes:
            raise BaseMismatch(f"the base has no weight {segment.name}; give the base that was adapted", "10.3")
        segment.check_shape(shapes[segment.name])


def structure_fingerprint(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """32 hexadecimal digits over the adapted weights' names and full shapes (SPEC 10.1)."""
    listing = [[name, list(shape)] for name, shape in sorted(shapes.items())]
    return hashlib.sha256(canonical_json.encode(listing)).hexdigest()[:32]


def contents_fingerprint(names: Iterable[str], read: Read) -> str:
    """32 hexadecimal digits over the adapted weights' values (SPEC 10.2).

    ``read(name)`` gives one weight as a NumPy array; they are read one at a time, in the order of their names.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(np.ascontiguousarray(read(name), dtype="<f4").data)
    return digest.hexdigest()[:32]
