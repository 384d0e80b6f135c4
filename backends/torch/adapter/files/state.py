"""Hooks of an adapted model's ``state_dict`` and ``load_state_dict``: the state holds what is trained, and a record of
the adapter.

A state holds θ, what is trained in full and the record: seed, kind, layer map and base as JSON, uint8. So a trainer's checkpoint is
small, and an adapter's file can be made of it without the call that attached (checkpoint.py). A state of another projection or
layer map is refused, and no state changes a frozen weight.
"""

import contextlib

import numpy as np
import torch

from unilora_spec import FileError, LayerMapError, UniLoraError, canonical_json
from unilora_spec.serialization import describe_projection

from ..calls.threads import PerThread
from ..targets.names import without_wrappers
from ..theta.vector import THETA
from .record import base_of

RECORD = "unilora_record"
TENSOR = "unilora_tensor_"  # before the name of a tensor that the kind has in an adapter's file beside θ


class State:
    """The hooks on the state of the model that ``unilora`` is on."""

    def __init__(self, unilora):
        self.unilora, self._base, self._thread = unilora, None, _Thread()
        self._may_be_filled = unilora.theta.is_meta
        model = unilora.model
        self._handles = [
            model.register_state_dict_post_hook(_after_state_dict),
            model.register_load_state_dict_pre_hook(_before_load),
            model.register_load_state_dict_post_hook(_after_load),
        ]
        self._set_attribute(RECORD, torch.zeros(0, dtype=torch.uint8))
        self._tensors = {TENSOR + name: torch.from_numpy(v) for name, v in unilora.projection.tensors.items()}
        for name, value in self._tensors.items():
            self._set_attribute(name, value)

    def _set_attribute(self, name, value):
        """Sets ``value`` as an attribute of the model: tools that shard a state look for an attribute by each name in
        it."""
        setattr(self.unilora.model, name, value)

    def remove(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()
        for name in (RECORD, *self._tensors):
            delattr(self.unilora.model, name)

    def trained(self) -> list[str]:
        """The names of θ and of the parameters trained beside it."""
        return [THETA, *self.unilora.trained_in_full()]

    @contextlib.contextmanager
    def of_the_base(self):
        """Within the block, ``state_dict()`` in this thread is the base's as it was: without what belongs to the adapter."""
        self._thread.is_of_base = True
        try:
            yield
        finally:
            self._thread.is_of_base = False

    def after_state_dict(self, state, prefix):
        if self._thread.is_of_base:
            for name in (THETA, RECORD, *self._tensors):
                state.pop(prefix + name, None)
            originals = self.unilora.in_full.originals
            for name in [name for name in state if name.startswith(prefix)]:
                state[name] = originals.get(without_wrappers(name.removeprefix(prefix)), state[name])
            return
        trained = set(self.trained())
        for name in [name for name in state if name.startswith(prefix)]:
            if without_wrappers(name.removeprefix(prefix)) not in trained:
                del state[name]
        self._set_attribute(RECORD, _as_tensor(self._described()))
        state |= {prefix + name: getattr(self.unilora.model, name) for name in (RECORD, *self._tensors)}

    def before_load(self, state, prefix):
        record = state.pop(prefix + RECORD, None)
        if record is not None:
            self._refuse_other(record)
        for name in self._tensors:
            state.pop(prefix + name, None)
        self._thread.prefix, self._thread.is_trained = prefix, prefix + THETA in state
        frozen = [name for name in self._frozen() if prefix + name in state]
        if self._thread.is_trained:
            for name in frozen:
                del state[prefix + name]
        elif not self._may_be_filled:
            self._refuse_base(state, prefix, frozen)

    def after_load(self, incompatible):
        """Takes the frozen weights off the list of missing keys after a state that holds only what is trained."""
        if self._thread.is_trained:
            frozen = {self._thread.prefix + name for name in self._frozen()}
            missing = [name for name in incompatible.missing_keys if name not in frozen]
            incompatible.missing_keys[:] = missing
        self.unilora.vector.link = self.unilora.vector.last_link()

    def _frozen(self):
        model, trained = self.unilora.model, set(self.trained())
        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        names += [name for name, _ in model.named_buffers(remove_duplicate=False)]
        return [name for name in names if without_wrappers(name) not in trained]

    def _defining(self):
        layer_map = self.unilora.layer_map
        return {
            "projection": describe_projection(self.unilora.projection),
            "alpha": layer_map.alpha,
            "scaling": layer_map.scaling,
            "layers": layer_map.to_json(),
        }

    def _described(self):
        if self._base is None and not self.unilora.in_parts:  # a sharded model has not all values here
            base = base_of(self.unilora)
            self._base = {name: value for name, value in vars(base).items() if value is not None}
        trained = self.unilora.trained_in_full()
        return self._defining() | {"trained": trained} | ({"base": self._base} if self._base else {})

    def _refuse_other(self, record):
        try:
            said = canonical_json.decode(bytes(record.cpu().numpy()))
        except (UniLoraError, TypeError, ValueError):
            raise FileError(
                f"the state's {RECORD} is no record of an adapter; give a state as a trainer wrote it"
            ) from None
        for field, own in self._defining().items():
            of_state = said.get(field)
            if of_state != canonical_json.decode(canonical_json.encode(own)):
                if field == "projection" and isinstance(of_state, dict):
                    field, of_state, own = next(
                        (name, of_state.get(name), own.get(name))
                        for name in (*own, *of_state)
                        if of_state.get(name) != own.get(name)
                    )
                shown = f": {of_state!r:.60} in place of {own!r:.60}" if field != "layers" else ""
                raise LayerMapError(
                    f"the state is of another adapter, whose {field} differs{shown}; attach as it was attached, or make a file of it: "
                    "python -m backends.torch adapter"
                )

    def _refuse_base(self, state, prefix, frozen):
        model = self.unilora.model
        tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(
            model.named_buffers(remove_duplicate=False)
        )
        for name in frozen:
            own, new = tensors[name], state[prefix + name]
            if own.shape == new.shape and not own.is_meta and not _equal(own, new):
                raise LayerMapError(
                    f"the state has no {THETA} and another {name} than the model: it is not this adapter's; detach() before a base is loaded"
                )


def _equal(own, new) -> bool:
    own = own.full_tensor() if hasattr(own, "full_tensor") else own
    return torch.equal(own.detach().cpu(), new.detach().cpu().to(own.dtype))


def _as_tensor(value) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(canonical_json.encode(value), np.uint8).copy())


class _Thread(PerThread):
    is_of_base = is_trained = False
    prefix = ""


# The hooks are functions of the model, so that the hooks of a copied model find the copy's adapter.


def _after_state_dict(model, state, prefix, metadata):
    model.unilora.state.after_state_dict(state, prefix)


def _before_load(model, state, prefix, *_):
    model.unilora.state.before_load(state, prefix)


def _after_load(model, incompatible):
    model.unilora.state.after_load(incompatible)
