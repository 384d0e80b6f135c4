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
        weights, key = [by_name[name] for name in names], (names, adapter.base.structure, adapter.base.contents)
        if not self._unchanged(key, weights):
            is_same = adapter.same_contents(read)
            self._taken[key] = [weakref.ref(weight) for weight in weights], _seen(weights), is_same
        return self._taken[key][2]

    def knows(self, adapter: Adapter, attached) -> bool:
        """Whether an adapter is one for what ``attached`` adapts and trains in full, and the weights are those that it was found to
        be made for: there is nothing to check then."""
        originals = attached.in_full.originals
        if adapter.base is None or adapter.layer_map != attached.layer_map or adapter.saved.keys() != originals.keys():
            return False
        if any(value.shape != tuple(originals[name].shape) for name, value in adapter.saved.items()):
            return False
        attached.structure.check()
        weights = [owner.module._parameters[owner.parameter] for owner in attached.owners.values()]
        key = tuple(attached.owners), adapter.base.structure, adapter.base.contents
        return self._unchanged(key, weights) and self._taken[key][2]

    def _unchanged(self, key, weights):
        there, before, _ = self._taken.get(key, ((), None, None))
        return before is not None and before == _seen(weights) and all(ref() is w for ref, w in zip(there, weights))

    def __getstate__(self):
        return {}  # a copy of the model has weights of its own

    def __setstate__(self, state):
        self._taken = {}


def _seen(weights):
    """Where the numbers of weights are and at which version; None of those that have no version, as what inference mode made."""
    if any(weight.is_inference() for weight in weights):
        return None
    return [(weight.data_ptr(), weight._version) for weight in weights]
