"""Is a weight computed with by others than its module? Looked for in the first call that comes in by each door.

``readers`` finds those who read ``self.….weight`` by their source. Who reads it in another way, by a variable or in a function that is
given the module, would take W where the adapter's W + ΔW belongs; nothing in what it returns would tell.
"""

import contextlib
from collections.abc import Mapping

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from unilora_spec import LayerMapError

# What is asked of a weight to look at it. Everything else computes with it.
_LOOKS = {
    "dtype", "device", "shape", "layout", "requires_grad", "is_leaf", "grad", "grad_fn", "ndim", "is_cuda", "is_meta", "is_quantized",
    "is_sparse", "itemsize", "nbytes", "names", "_version", "_base", "output_nr", "name",
    "size", "dim", "numel", "nelement", "stride", "element_size", "storage_offset", "is_floating_point", "is_complex", "is_contiguous",
    "data_ptr", "untyped_storage", "get_device", "is_inference", "is_shared", "__len__", "__hash__", "__repr__", "__format__", "__bool__",
}  # fmt: skip


@contextlib.contextmanager
def probing(weights: Mapping[str, tuple[nn.Module, str]]):
    """Within the block, raises ``LayerMapError`` where another module than its own computes with one of ``weights``: by name, the module
    that holds it and the key there."""
    looked = _Looked(weights)
    handles = [handle for module in looked.modules for handle in looked.follow(module)]
    try:
        with looked:
            yield
    finally:
        for handle in handles:
            handle.remove()


def is_made(module: nn.Module) -> bool:
    """Whether a call of ``module`` runs what torch.compile has made, of it, of a part, or of what is around it: which multiplies by the
    weights without calling their modules, with A and B traced into it."""
    if torch._C._dynamo.eval_frame.get_eval_frame_callback() is not None:
        return True
    return any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in module.modules())


class _Looked(TorchFunctionMode):
    def __init__(self, weights):
        super().__init__()
        # Each is held, as accelerate exchanges an offloaded one during a call, and another tensor would get its id.
        self.weights = {id(w := module._parameters[key]): (w, name, module) for name, (module, key) in weights.items()}
        self.modules = list({id(module): module for module, _ in weights.values()}.values())
        self.called = []

    def follow(self, module):
        """Notes when the module is called."""
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
                    self._computed(function, *self.weights[id(each)][1:])
        return function(*args, **kwargs)

    def _computed(self, function, name, module):
        asked = function.__name__ if function.__name__ != "__get__" else function.__self__.__name__
        if asked not in _LOOKS and not any(module is called for called in self.called):
            raise LayerMapError(
                f"{name} is read by the model ({asked}) without a call of its {type(module).__name__}, where the adapter would not act; "
                "leave it out of the targets"
            )
