"""Several adapters in memory for one model, by name. One of them is on the model, and a switch costs no more than
copying its numbers."""

import threading
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import unilora_spec
from unilora_spec import Adapter, Base, LayerMap, LayerMapError, Projection, UniLoraError

from ..files.checkpoint import adapter_in
from ..files.contents import Contents
from ..files.record import check_base
from ..files.stored_state import OF_TORCH
from ..theta.expansion import storage_of
from ..theta.factors import Factors
from .mixing import check_linear, weighted, weighted_theta
from .stacked import Stacked

BASE = (None, "base", "__base__")  # in place of an adapter's name: the base alone


class Held(NamedTuple):
    """An adapter in memory that is not on the model: θ as float32[d] and ``saved``, the parameters trained in full by
    name, on the model's device. Nobody writes to them.

    ``storage`` holds P, and equal projections share one; ``new`` names the parameters that the base's checkpoint lacks,
    so that a file has to hold them; ``base`` is the record of its file.
    """

    projection: Projection
    layer_map: LayerMap
    theta: Tensor
    saved: dict[str, Tensor]
    storage: object
    new: list[str]
    base: Base | None


class Adapters:
    """The adapters of a model by name. The values of the ``active`` one are in the model itself; ``base`` is the record
    of its file."""

    def __init__(self, unilora, name: str = "default"):
        self.unilora, self.active, self.base, self.contents = unilora, name, None, Contents()
        self._held, self._stacked, self._lock = {name: None}, Stacked(unilora), threading.RLock()

    @property
    def names(self) -> list[str]:
        """All names, in the order in which they were added."""
        return list(self._held)

    def add(self, name: str, adapter) -> None:
        """Takes the adapter in the file ``adapter``, or an ``Adapter``, into memory under ``name``."""
        self._refuse_taken(name)
        self._held[name] = self._as_held(fitting_adapter(self.unilora.model, adapter))

    def set(self, name: str) -> None:
        """Puts the adapter of this name on the model, and keeps the one that was there under its own name."""
        self._check_known(name)
        self.unilora.refuse_merged()
        with self.unilora.calls.paused(), self._lock:
            if name != self.active:
                before, held = self.held(self.active), self._held[name]
                self._activate(held)
                self._held[self.active], self._held[name], self.active = before, None, name

    def delete(self, name: str) -> None:
        """Forgets an adapter that is not the active one."""
        self._check_known(name)
        if name == self.active:
            raise LayerMapError(f"{name} is the active adapter; set_adapter another one first, or detach()")
        del self._held[name]

    def mix(self, name: str, weights: dict[str, float]) -> None:
        """Adds the weighted sum of adapters under a new name: see ``UniLora.mix``."""
        self._refuse_taken(name)
        if not weights:
            raise LayerMapError("a mix needs adapters with their weights, such as {'a': 0.5, 'b': 0.5}")
        for each in weights:
            self._check_known(each)
        held = {each: self.held(each) for each in weights}
        one = check_alike(held)
        check_linear(one.projection, one.layer_map)
        theta = weighted_theta(weights.values(), [each.theta for each in held.values()])
        saved, every = {}, self.unilora.in_full.parameters_of(n for each in held.values() for n in each.saved)
        for of in dict.fromkeys(each for one in held.values() for each in one.saved):
            brings = [each for each in held if of in held[each].saved]
            values = [held[each].saved[of] for each in brings]
            base = self.unilora.in_full.originals.get(of, every[of])
            saved[of] = weighted(base, [weights[each] for each in brings], values)
        self._held[name] = one._replace(theta=theta, saved=saved)

    def of_rows(self, names) -> Factors:
        """The factors for a batch whose rows have these adapters: see ``UniLora.adapter_names``."""
        names = [None if name in BASE else name for name in names]
        with self._lock:  # no adapter may change while they are collected
            held = {name: self.held(name) for name in dict.fromkeys(names) if name is not None}
        return self._stacked.factors(names, held, self.active)

    def replace(self, adapter: Adapter) -> None:
        """Puts an adapter that fits the model in the place of the active one, under its name."""
        with self.unilora.calls.paused(), self._lock:
            self._activate(self._as_held(adapter))

    def held(self, name: str) -> Held:
        """The adapter of this name with its current values."""
        self._check_known(name)
        if name != self.active:
            return self._held[name]
        one = self.unilora
        theta, saved = one.theta.detach().clone(), one.in_full.trained_values()
        return Held(one.projection, one.layer_map, theta, saved, one.storage, one.in_full.new, self.base)

    def _activate(self, held):
        unilora = self.unilora
        if unilora.layer_map == held.layer_map:
            if unilora.projection == held.projection:
                unilora.vector.set(held.theta)
            else:
                unilora.replace_vector(held.projection, held.layer_map, held.theta)
            unilora.in_full.switch_to(held.saved)
        else:
            before = unilora.in_full.trained_values()
            unilora.in_full.switch_to({})  # its parameters may be among those that the other one adapts
            try:
                unilora.replace_vector(held.projection, held.layer_map, held.theta)
            except BaseException:
                unilora.in_full.switch_to(before)
                raise
            unilora.in_full.switch_to(held.saved)
        unilora.in_full.new, self.base = held.new, held.base
        unilora.set_labels(held)

    def _as_held(self, adapter):
        unilora, device = self.unilora, self.unilora.theta.device
        same_kind = adapter.projection.kind == unilora.projection.kind
        storage = storage_of(adapter.projection, device, unilora.vector.asked if same_kind else None)
        every = unilora.in_full.parameters_of(adapter.saved)
        saved = {name: torch.tensor(value).to(every[name]) for name, value in adapter.saved.items()}
        theta = torch.tensor(adapter.theta, device=device)
        new = []  # what the file lacks, the adapter was trained without
        return Held(adapter.projection, adapter.layer_map, theta, saved, storage, new, adapter.base)

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state):
        vars(self).update(state)
        self._lock = threading.RLock()

    def _refuse_taken(self, name):
        if not isinstance(name, str) or not name or name in BASE:
            raise LayerMapError(f"an adapter cannot be called {name!r:.60}; give a name of its own")
        if name in self._held:
            raise LayerMapError(
                f"there is an adapter {name!r:.60} already; delete_adapter it first, or give another name"
            )

    def _check_known(self, name):
        if name not in self._held:
            raise LayerMapError(f"there is no adapter {name!r:.60}; there are {', '.join(self._held)}")


def check_alike(held: dict[str, Held]) -> Held:
    """Raises ``LayerMapError`` unless all adapters have the same projection and layer map; returns the first of
    them."""
    (name, one), *others = held.items()
    for other, each in others:
        if each.projection != one.projection:
            raise LayerMapError(
                f"{name} and {other} have different projections, {one.projection} and {each.projection}; give adapters of one"
            )
        if each.layer_map != one.layer_map:
            raise LayerMapError(
                f"{name} and {other} adapt different weights, or with different ranks or alpha; give adapters of one layer map"
            )
    return one


def fitting_adapter(model, adapter) -> Adapter:
    """The adapter in a file, in a folder that ``load_adapter`` takes, or an ``Adapter`` as it is.

    Raises ``UniLoraError`` with the file's name where it does not fit the model; warns where the model's weights are
    not its base's.
    """
    if hasattr(model, "unilora"):
        model.unilora.refuse_merged()  # the weights are not the base's
    if isinstance(adapter, Adapter):
        check_base(model, adapter)
        return adapter
    path = Path(adapter)
    adapter = adapter_in(path) if path.is_dir() or path.suffix in OF_TORCH else unilora_spec.load_adapter(path)
    try:
        check_base(model, adapter)
    except UniLoraError as error:
        raise error.within(path) from None
    return adapter
