"""The Uni-LoRA specification as a library: projection, layer map and file, with NumPy alone. The text is SPEC.md."""

from . import command  # noqa: F401  first, before NumPy: from then on a signal ends a program of the project with one sentence
from .adapter import Adapter, Base, check_fit, contents_fingerprint, structure_fingerprint
from .errors import (
    BaseMismatch,
    FileError,
    KindError,
    LayerMapError,
    LimitError,
    UniLoraError,
    VersionError,
    WorkFailed,
)
from .layer_map import LayerMap
from .placing import replacing
from .projection import Projection
from .segment import Segment
from .serialization import load_adapter, save_adapter

__all__ = [
    "Adapter",
    "Base",
    "BaseMismatch",
    "FileError",
    "KindError",
    "LayerMap",
    "LayerMapError",
    "LimitError",
    "Projection",
    "Segment",
    "UniLoraError",
    "VersionError",
    "WorkFailed",
    "check_fit",
    "contents_fingerprint",
    "load_adapter",
    "replacing",
    "save_adapter",
    "structure_fingerprint",
]
