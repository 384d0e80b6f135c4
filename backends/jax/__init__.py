"""Uni-LoRA for JAX: an adapter is a static specification and an array θ; the model stays as it is.

spec = plan(params, ["query", "value"], rank=4, d=5760, seed=0)
theta = init(spec)
loss = lambda theta: loss_of(model(merged(spec, theta, params), batch))     # jit, grad, vmap, scan, shard_map
save("vec.safetensors", spec, theta, params)
"""

import unilora_spec  # noqa: F401  before JAX: its first import lets Ctrl-C end in a sentence

from .factors import apply, deltas, index, init, merged
from .files import load, save
from .paths import Leaf, from_checkpoint, from_torch, to_checkpoint
from .plan import plan
from .specification import Adapter, Specification

__all__ = [
    "Adapter",
    "Leaf",
    "Specification",
    "apply",
    "deltas",
    "from_checkpoint",
    "from_torch",
    "index",
    "init",
    "load",
    "merged",
    "plan",
    "save",
    "to_checkpoint",
]
