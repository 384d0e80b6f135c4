"""The fingerprint of a base's weights, taken once for as long as they seem to be the same, so that switching reads none of them."""

import weakref
from collections.abc import Callable, Mapping

from torch import Tensor

from unilora_spec import Adapter


class Contents:
    """Of the weights of one model, by the names that an adapter has: the fingerprint, and what the weights were when it was taken.

    A weight is the same while it is the same object, with its numbers in the same place and at the same version, which torch counts
    up at what is written to a tensor. It sees nothing of what is written past that count: through ``.data`` or ``.numpy()``, by the
    kernels of some libraries, or into the parts of a quantized weight. So the warning of a switch may be missing then; what
    is saved is always fingerprinted anew.
    """

    def __init__(self):
        self._taken = {}

    def same(self, adapter: Adapter, by_name: Mapping[str, Tensor], read: Callable) -> bool | None:
        """What ``adapter.same_contents(read)`` says of the weights, which ``by_name`` gives as they are stored (SPEC 10.2)."""
        if adapter.base is None:
            return None
        names = tuple(adapter.layer_map.by_weight())
        weights = [by_name[name] for name in names]
        counted = not any(weight.is_inference() for weight in weights)  # those have no version
        seen = [(weight.data_ptr(), weight._version) for weight in weights] if counted else None
        key = names, adapter.base.contents
        there, before, is_same = self._taken.get(key, ((), None, None))
        if seen is not None and seen == before and all(ref() is weight for ref, weight in zip(there, weights)):
            return is_same
        is_same = adapter.same_contents(read)
        self._taken[key] = [weakref.ref(weight) for weight in weights], seen, is_same
        return is_same

    def __getstate__(self):
        return {}  # a copy of the model has weights of its own

    def __setstate__(self, state):
        self._taken = {}
