"""What there is to say of a base's weights for an adapter, found out once for as long as they seem to be the same: switching then reads
none of them."""

import weakref
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from unilora_spec import Adapter


class Contents:
    """Of one model: the sentences that were to be said for adapters of each record, and what the adapted weights were then.

    A weight is the same while it is the same object, with its numbers in the same place and at the same version, which torch counts
    up at what is written to a tensor. It sees nothing of what is written past that count: through ``.data`` or ``.numpy()``, by the
    kernels of some libraries, or into the parts of a quantized weight; nor of what happens, once it was looked at, to the base outside
    of the adapted weights. A switch may then lack its warning; what is saved is always fingerprinted anew.
    """

    def __init__(self):
        self._found = {}

    def told(self, adapter: Adapter, by_name: Mapping[str, Tensor], look: Callable[[], Iterable[str]]) -> list[str]:
        """What ``look()`` gives of the adapter and the adapted weights, which ``by_name`` gives as they are stored."""
        if adapter.base is None:
            return list(look())
        names = tuple(adapter.layer_map.by_weight())
        key, weights = _key(names, adapter), [by_name[name] for name in names]
        if not self._unchanged(key, weights):
            self._found[key] = [weakref.ref(weight) for weight in weights], _seen(weights), list(look())
        return self._found[key][2]

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
        key = _key(tuple(attached.owners), adapter)
        return self._unchanged(key, weights) and not self._found[key][2]

    def _unchanged(self, key, weights):
        there, before, _ = self._found.get(key, ((), None, None))
        return before is not None and before == _seen(weights) and all(ref() is w for ref, w in zip(there, weights))

    def __getstate__(self):
        return {}  # a copy of the model has weights of its own

    def __setstate__(self, state):
        self._found = {}


def _key(names, adapter):
    base = adapter.base
    return names, base.structure, base.contents, base.rest, tuple(adapter.saved)


def _seen(weights):
    """Where the numbers of weights are and at which version; None of those that have no version, as what inference mode made."""
    if any(weight.is_inference() for weight in weights):
        return None
    return [(weight.data_ptr(), weight._version) for weight in weights]
