"""How a graph of the mode "factored", its expander and its .onnx_adapter know that they belong together, whoever runs them.

ONNX Runtime feeds all that an .onnx_adapter holds by its names, and refuses a name that a graph does not have. So the graph has
two inputs of no entries, unused and with a default, whose names end in a digest of what the others must agree with, and the others
bring them along: an adapter of other layers, alpha or base, and an expander of another projection, fail in the first run.
"""

import hashlib

import numpy as np

from unilora_spec import Adapter, canonical_json
from unilora_spec.serialization import describe

FITS, EXPANDS = "unilora.fits", "unilora.expands"


def mark_of_factors(adapter: Adapter) -> dict[str, np.ndarray]:
    """What A and B depend on to be those of a graph: the layers, their scale and the base. The seed is not among it."""
    layer_map, base = adapter.layer_map, adapter.base
    same = {"layers": layer_map.to_json(), "alpha": layer_map.alpha, "scaling": layer_map.scaling}
    return _mark(FITS, same | {"base": base.contents if base else ""})


def marks(adapter: Adapter) -> dict[str, np.ndarray]:
    """Those of A and B, and of the way to them from θ: the projection as well."""
    stored = {name: hashlib.sha256(value).hexdigest() for name, value in adapter.projection.tensors.items()}
    (factors,) = mark_of_factors(adapter)
    same = {"factors": factors, "projection": describe(adapter)["projection"], "stored": stored}
    return mark_of_factors(adapter) | _mark(EXPANDS, same)


def _mark(kind: str, same: dict) -> dict[str, np.ndarray]:
    digest = hashlib.sha256(canonical_json.encode(same)).hexdigest()[:12]
    return {f"{kind}.{digest}": np.zeros(0, np.float32)}
