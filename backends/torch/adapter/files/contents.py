"""Remembers whether a base's weights are those that an adapter was trained on, as long as the weights seem unchanged: a
switch of adapters then reads none of them."""

import weakref
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from unilora_spec import Adapter


class Contents:
    """For one model: the warnings for adapters with each record, and the state of the adapted weights when they were
    found.

    A weight counts as unchanged while it is the same object, with its numbers in the same place and at the same
    version, which torch raises at each write to a tensor. Writes that go past that count stay unseen: through ``.data``
    or ``.numpy()``, by the kernels of some libraries, or into the parts of a quantized weight. So do later changes of
    the base outside of the adapted weights. A switch may then lack its warning; what is saved is always fingerprinted
    anew.
    """

    def __init__(self):
        self._found = {}

    def warnings(self, adapter: Adapter, by_name: Mapping[str, Tensor], look: Callable[[], Iterable[str]]) -> list[str]:
        """The warnings for an adapter on the adapted weights, which ``by_name`` gives as they are stored: what
        ``look()`` gives, or what it gave before if the weights are unchanged."""
        if adapter.base is None:
            return list(look())
        names = tuple(adapter.layer_map.by_weight())
        key, weights = _key(names, adapter), [by_name[name] for name in names]
        if not self._unchanged(key, weights):
            self._found[key] = [weakref.ref(weight) for weight in weights], _places_and_versions(weights), list(look())
        return self._found[key][2]

    def knows(self, adapter: Adapter, attached) -> bool:
        """Whether nothing has to be checked: the adapter is for what ``attached`` adapts and trains in full, and its
        weights were found to be those that the adapter was made for, and are unchanged."""
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
        return (
            before is not None
            and before == _places_and_versions(weights)
            and all(ref() is w for ref, w in zip(there, weights))
        )

    def __getstate__(self):
        return {}  # a copy of the model has weights of its own

    def __setstate__(self, state):
        self._found = {}


def _key(names, adapter):
    base = adapter.base
    return names, base.structure, base.contents, base.rest, tuple(adapter.saved)


def _places_and_versions(weights):
    """Where the numbers of each weight are, and at which version; None where a weight has no version, as those made in
    inference mode."""
    if any(weight.is_inference() for weight in weights):
        return None
    return [(weight.data_ptr(), weight._version) for weight in weights]
