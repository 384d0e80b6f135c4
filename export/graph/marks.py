"""How a graph of the mode "factored", its expander and its .onnx_adapter know that they belong together, whoever runs them.

ONNX Runtime feeds all that an .onnx_adapter holds by its names, and refuses a name that a graph does not have. So the graph has
two inputs of no entries, unused and with a default, whose names end in a digest of what the others must agree with, and the others
bring them along: an adapter of other layers or another base, and an expander of another projection, fail in the first run. A graph
of the mode "input" has one of them, which comes with θ: one of another seed fails as well.
"""

import hashlib

import numpy as np

from unilora_spec import Adapter, canonical_json
from unilora_spec.serialization import describe

from .rebuild import lora_name

FITS, EXPANDS = "unilora.fits", "unilora.expands"


def mark_of_factors(adapter: Adapter) -> dict[str, np.ndarray]:
    """What A and s·B depend on to be those of a graph: the layers and the base. Rank, alpha and the seed are not among it."""
    base = adapter.base
    layers = [[lora_name(s, "A"), s.out_features, s.in_features] for s in adapter.layer_map.segments]
    return _mark(FITS, {"layers": layers, "base": base.contents if base else ""})


def mark_of_theta(adapter: Adapter) -> dict[str, np.ndarray]:
    """What θ depends on to mean in a graph what it means in its adapter: all but its own values."""
    stored = {name: hashlib.sha256(value).hexdigest() for name, value in adapter.projection.tensors.items()}
    layer_map, base = adapter.layer_map, adapter.base
    same = {"layers": layer_map.to_json(), "alpha": layer_map.alpha, "scaling": layer_map.scaling}
    same |= {"base": base.contents if base else "", "projection": describe(adapter)["projection"], "stored": stored}
    return _mark(EXPANDS, same)


def marks(adapter: Adapter) -> dict[str, np.ndarray]:
    """Those of A and B, and of the way to them from θ."""
    return mark_of_factors(adapter) | mark_of_theta(adapter)


def _mark(kind: str, same: dict) -> dict[str, np.ndarray]:
    digest = hashlib.sha256(canonical_json.encode(same)).hexdigest()[:12]
    return {f"{kind}.{digest}": np.zeros(0, np.float32)}
