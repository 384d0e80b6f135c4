"""Where accelerate keeps the weights that it has taken off the model: in memory or on disk, with the meta device in their place."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from unilora_spec import LayerMapError

_HOOKS = "accelerate.hooks"


@dataclass(frozen=True)
class Kept:
    """``weights`` holds the values of a weight under ``key``."""

    weights: Mapping[str, torch.Tensor]
    key: str

    def values(self, name: str) -> torch.Tensor:
        """Those of the weight ``name``. Raises ``LayerMapError`` where accelerate does not find them any more."""
        try:
            return self.weights[self.key]
        except (KeyError, OSError) as error:
            raise LayerMapError(
                f"{name} is offloaded, and accelerate does not find its values ({error!r:.200}); load the base without offloading it"
            ) from error


def kept(name: str, key: str, weight: torch.Tensor, owners: Mapping[str, nn.Module]) -> Kept | None:
    """Where the values of ``weight``, the parameter ``key`` of the module ``name``, are kept, if accelerate has offloaded it.

    ``owners`` holds the modules by name, that one and all above it. The hook is the module's own, or that of one above that
    places all below it (``place_submodules``, of preload_module_classes).
    """
    if not weight.is_meta or _HOOKS not in sys.modules:
        return None
    parts = name.split(".") if name else []
    for above in range(len(parts), -1, -1):
        inner = ".".join([*parts[above:], key])
        for hook in _hooks(owners.get(".".join(parts[:above]))):
            if hook.offload and hook.weights_map is not None and (hook.place_submodules or inner == key):
                return Kept(hook.weights_map, inner)
    return None


def _hooks(module):
    """The module's hooks that move weights."""
    hook, accelerate = getattr(module, "_hf_hook", None), sys.modules[_HOOKS]
    each = hook.hooks if isinstance(hook, accelerate.SequentialHook) else (hook,)
    return [one for one in each if isinstance(one, accelerate.AlignDevicesHook)]
