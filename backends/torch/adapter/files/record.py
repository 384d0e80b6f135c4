"""Makes what a file holds of the adapter on a model, and checks whether a model is one for an adapter (SPEC 8, 10)."""

import functools
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from unilora_spec import Adapter, Base, FileError, LayerMapError

from ..targets.candidates import candidates
from ..targets.names import parameters
from ..theta.vector import THETA
from . import meaning
from .contents import Contents

DTYPES = {torch.float16: "F16", torch.bfloat16: "BF16"}


def adapter_of(unilora, dtype: str) -> Adapter:
    """The adapter on a model as the specification's object, with θ to be stored as ``dtype``."""
    every = unilora.in_full.parameters()
    trained = {name: every[name] for name in unilora.trained_in_full()}
    saved = {name: as_array(parameter) for name, parameter in trained.items()}
    dtypes = {f"saved.{name}": DTYPES.get(parameter.dtype, "F32") for name, parameter in trained.items()}
    projection, theta = unilora.projection.stored_as(as_array(unilora.theta))
    return Adapter(projection, unilora.layer_map, theta, base_of(unilora), saved, dtypes | {"theta": dtype})


def base_of(unilora) -> Base:
    """The record of the adapted model (SPEC 10)."""
    model, owners = unilora.model, unilora.owners
    shapes = {name: owner.shape for name, owner in owners.items()}
    name, known = type(model).__name__, ()
    if getattr(model, "config", None) is not None and hasattr(model, "name_or_path"):
        config = model.config
        known = (name, getattr(config, "id2label", None), getattr(config, "problem_type", None))
        name = model.name_or_path or name
    rest = meaning.fingerprint(model, {THETA, *unilora.trained_in_full(), *owners})
    return Base.of(name, unilora.layer_map, shapes, lambda name: as_array(owners[name].values()), *known, rest=rest)


def values_of(model: nn.Module) -> Callable[[str], np.ndarray]:
    """A function that gives the values of a weight by its name, as float32; for a quantized weight, the values that its
    codes stand for."""

    @functools.cache
    def owners():  # at the first weight, as most kinds read none
        return {candidate.weight: candidate for candidate in candidates(model)}

    return lambda name: as_array(owners()[name].values())


def as_array(tensor) -> np.ndarray:
    """The values of a tensor as a float32 array. Raises ``LayerMapError`` for a tensor on the meta device, which has
    none."""
    if tensor.is_meta:
        raise LayerMapError("the model is on the meta device and has no values; give it a device and its weights first")
    if hasattr(tensor, "full_tensor"):  # sharded by FSDP, with a part in each process
        tensor = tensor.full_tensor()
    return tensor.detach().float().cpu().numpy()


def check_base(model: nn.Module, adapter: Adapter) -> None:
    """Raises ``UniLoraError`` where an adapter does not fit a model (SPEC 10.3); warns where the weights are not its
    base's (10.2)."""
    attached = getattr(model, "unilora", None)
    contents = attached.adapters.contents if attached else Contents()
    if attached and contents.knows(adapter, attached):
        return
    owners = {candidate.weight: candidate for candidate in candidates(model)}
    shapes = {name: tuple(module._parameters[key].shape) for name, (module, key) in parameters(model).items()}
    shapes |= {name: owner.shape for name, owner in owners.items()}
    adapter.check_base(shapes)
    adapter.check_saved(shapes)
    for segment in adapter.layer_map.segments:
        owner = owners.get(segment.name)
        if owner is None:
            raise FileError(f"{segment.name} belongs to a module that cannot be adapted while it runs; merge instead")
        if segment.index is None and segment.transposed != owner.transposed:  # a square weight fits either way round
            raise FileError(f"{segment.name} is stored the other way round than the adapter says; merge instead")
    originals = attached.in_full.originals if attached else {}
    weights = {name: owners[name].module._parameters[owners[name].parameter] for name in adapter.layer_map.by_weight()}

    def read(name):  # what is trained in full now may be what another adapter adapts
        return as_array(originals[name] if name in originals else owners[name].values())

    def look():
        if adapter.same_contents(read) is False:
            yield f"the model's weights are not those of {adapter.base.name}, which the adapter was trained on"
        yield from meaning.warnings(model, adapter, originals)

    for line in contents.warnings(adapter, weights, look):
        warnings.warn(line, stacklevel=4)
