"""How a graph of the mode "factored", its expander and its .onnx_adapter know that they belong together, whoever runs them.

ONNX Runtime feeds all that an .onnx_adapter holds by its names, and refuses a name that a graph does not have. So the graph has
two unused inputs without entries and with a default, whose names end in a digest of what the others must agree with, and the other
files hold them too: an adapter of other layers or another base, and an expander of another projection, fail in the first run. A graph
of the mode "input" has one of them, which comes with θ: a θ of another seed fails as well.
"""

import hashlib

import numpy as np

from unilora_spec import Adapter, canonical_json
from unilora_spec.serialization import describe

from .rebuild import lora_name

FITS, EXPANDS = "unilora.fits", "unilora.expands"


def mark_of_factors(adapter: Adapter) -> dict[str, np.ndarray]:
    """The mark of A and s·B: a digest of the layers and the base, which they have in common with their graph. Rank, alpha and the seed may
    differ."""
    base = adapter.base
    layers = [[lora_name(s, "A"), s.out_features, s.in_features] for s in adapter.layer_map.segments]
    return _mark(FITS, {"layers": layers, "base": base.contents if base else ""})


def mark_of_theta(adapter: Adapter) -> dict[str, np.ndarray]:
    """The mark of θ: a digest of all that the meaning of its numbers depends on, which is the adapter without θ's values."""
    stored = {name: hashlib.sha256(value).hexdigest() for name, value in adapter.projection.tensors.items()}
    layer_map, base = adapter.layer_map, adapter.base
    same = {"layers": layer_map.to_json(), "alpha": layer_map.alpha, "scaling": layer_map.scaling}
    same |= {"base": base.contents if base else "", "projection": describe(adapter)["projection"], "stored": stored}
    return _mark(EXPANDS, same)


def marks(adapter: Adapter) -> dict[str, np.ndarray]:
    """The marks of A and s·B, and of θ."""
    return mark_of_factors(adapter) | mark_of_theta(adapter)


def _mark(kind: str, same: dict) -> dict[str, np.ndarray]:
    digest = hashlib.sha256(canonical_json.encode(same)).hexdigest()[:12]
    return {f"{kind}.{digest}": np.zeros(0, np.float32)}
