"""Finds the values of weights that accelerate has offloaded to memory or disk, leaving a tensor on the meta device in
the model."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from unilora_spec import LayerMapError

_HOOKS = "accelerate.hooks"


@dataclass(frozen=True)
class OffloadedWeight:
    """An offloaded weight, whose values ``weights`` holds under ``key``."""

    weights: Mapping[str, torch.Tensor]
    key: str

    def values(self, name: str) -> torch.Tensor:
        """The values; ``name`` is for the error. Raises ``LayerMapError`` where accelerate does not find them any
        more."""
        try:
            return self.weights[self.key]
        except (KeyError, OSError) as error:
            raise LayerMapError(
                f"{name} is offloaded, and accelerate does not find its values ({error!r:.200}); load the base without offloading it"
            ) from error


def offloaded_weight(
    name: str, key: str, weight: torch.Tensor, owners: Mapping[str, nn.Module]
) -> OffloadedWeight | None:
    """Where the values of ``weight`` are, the parameter ``key`` of the module ``name``; None unless accelerate has
    offloaded it.

    ``owners`` holds that module and all above it by name. The hook that knows is the module's own, or that of a module
    above it that places all modules below (``place_submodules``, of preload_module_classes).
    """
    if not weight.is_meta or _HOOKS not in sys.modules:
        return None
    parts = name.split(".") if name else []
    for above in range(len(parts), -1, -1):
        inner = ".".join([*parts[above:], key])
        for hook in _hooks(owners.get(".".join(parts[:above]))):
            if hook.offload and hook.weights_map is not None and (hook.place_submodules or inner == key):
                return OffloadedWeight(hook.weights_map, inner)
    return None


def _hooks(module):
    """The hooks of a module that move weights."""
    hook, accelerate = getattr(module, "_hf_hook", None), sys.modules[_HOOKS]
    each = hook.hooks if isinstance(hook, accelerate.SequentialHook) else (hook,)
    return [one for one in each if isinstance(one, accelerate.AlignDevicesHook)]
