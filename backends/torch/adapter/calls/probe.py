"""Finds weights that are computed with outside of their own module, in the first call that comes in by each entry
point.

targets/readers.py finds modules that read ``self.….weight``, by their source. Code that reads the weight in another
way, by a variable or in a function that is given the module, would take W in place of the adapter's W + ΔW, and nothing
in its result would show it.
"""

import contextlib
from collections.abc import Mapping

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from unilora_spec import LayerMapError

# Attributes and methods that only look at a weight. Everything else computes with it.
_LOOKS = {
    "dtype", "device", "shape", "layout", "requires_grad", "is_leaf", "grad", "grad_fn", "ndim", "is_cuda", "is_meta", "is_quantized",
    "is_sparse", "itemsize", "nbytes", "names", "_version", "_base", "output_nr", "name",
    "size", "dim", "numel", "nelement", "stride", "element_size", "storage_offset", "is_floating_point", "is_complex", "is_contiguous",
    "data_ptr", "untyped_storage", "get_device", "is_inference", "is_shared", "__len__", "__hash__", "__repr__", "__format__", "__bool__",
}  # fmt: skip


@contextlib.contextmanager
def probing(weights: Mapping[str, tuple[nn.Module, str]]):
    """Within the block, raises ``LayerMapError`` where one of ``weights`` is computed with outside of a call of its own
    module. ``weights`` has, by name, the module that holds the weight and the key there."""
    probe = _Probe(weights)
    handles = [handle for module in probe.modules for handle in probe.follow(module)]
    try:
        with probe:
            yield
    finally:
        for handle in handles:
            handle.remove()


def runs_compiled(module: nn.Module) -> bool:
    """Whether a call of ``module`` runs code that torch.compile has made of it, of a part of it, or of what is around
    it. That code multiplies by the weights without calling their modules, with A and B traced into it."""
    if torch._C._dynamo.eval_frame.get_eval_frame_callback() is not None:
        return True
    return any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in module.modules())


class _Probe(TorchFunctionMode):
    """Sees every function of torch in its block, and checks the uses of ``weights``."""

    def __init__(self, weights):
        super().__init__()
        # Each is held, as accelerate exchanges an offloaded one during a call, and another tensor would get its id.
        self.weights = {id(w := module._parameters[key]): (w, name, module) for name, (module, key) in weights.items()}
        self.modules = list({id(module): module for module, _ in weights.values()}.values())
        self.called = []

    def follow(self, module):
        """Hooks that note when a call of the module begins and ends."""
        return (
            module.register_forward_pre_hook(lambda module, inputs: self.called.append(module)),
            module.register_forward_hook(lambda module, inputs, output: self._left(module), always_call=True),
        )

    def _left(self, module):
        if self.called and self.called[-1] is module:
            self.called.pop()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for value in (*args, *kwargs.values()):
            for each in value if isinstance(value, list | tuple) else (value,):
                if id(each) in self.weights:
                    self._check_use(function, *self.weights[id(each)][1:])
        return function(*args, **kwargs)

    def _check_use(self, function, name, module):
        asked = function.__name__ if function.__name__ != "__get__" else function.__self__.__name__
        if asked not in _LOOKS and not any(module is called for called in self.called):
            raise LayerMapError(
                f"{name} is read by the model ({asked}) without a call of its {type(module).__name__}, where the adapter would not act; "
                "leave it out of the targets"
            )
