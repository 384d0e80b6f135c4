"""Changes a PyTorch model for the time of an export, in its values and in the form in which it runs, and restores it afterwards."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch.utils import _pytree as pytree

from unilora_spec.rest import entries

from .cache import PAST, PRESENT, cache_of, flat


@contextlib.contextmanager
def inference(model: torch.nn.Module):
    """The model as an export runs it, without dropout and in the form that can be traced.

    A decoder gives no cache of keys and values, and experts (mixture-of-experts models of transformers) are computed for
    all tokens at once; their default there is a kernel that ONNX has no operator for.
    """
    training = {module: module.training for module in model.modules()}
    config = getattr(model, "config", None)
    cache = getattr(config, "use_cache", None)
    experts = model.get_experts_implementation() if hasattr(model, "get_experts_implementation") else None
    try:
        model.eval()
        if cache is not None:
            config.use_cache = False
        if experts is not None:
            model.set_experts_implementation("batched_mm")
        with torch.no_grad():
            yield
    finally:
        for module, value in training.items():
            module.training = value
        if cache is not None:
            config.use_cache = cache
        if experts is not None:
            model.set_experts_implementation(experts)


@contextlib.contextmanager
def values(parameters: Mapping[str, torch.Tensor], new: Mapping[str, np.ndarray]):
    """Other values in some of the parameters, for a while and in place, so that tied ones stay tied."""
    before = {name: parameters[name].detach().clone() for name in new}
    with torch.no_grad():
        try:
            for name, value in new.items():
                parameters[name].copy_(torch.from_numpy(np.ascontiguousarray(value)))
            yield
        finally:
            for name, value in before.items():
                parameters[name].copy_(value)


def run(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The model's outputs by name. Where a past is in the batch (cache.py), the cache after it is among them."""
    plain = {name: value for name, value in batch.items() if not name.startswith(f"{PAST}.")}
    cache = cache_of(batch) if len(plain) < len(batch) else None
    output = model(**plain) if cache is None else model(**plain, past_key_values=cache, use_cache=True)
    outputs = dict(output) if isinstance(output, Mapping) else {"output": output}
    if cache is not None:
        outputs.pop(PAST, None)
        outputs |= flat(cache, PRESENT)
    named = {}
    for name, value in outputs.items():
        leaves = [leaf for leaf in pytree.tree_leaves(value) if leaf is not None]
        named |= {name if len(leaves) == 1 else f"{name}.{i}": leaf for i, leaf in enumerate(leaves)}
    return named


class Flat(torch.nn.Module):
    """A model as it is traced: tensors by name come in, and those named in ``outputs`` go out."""

    def __init__(self, model: torch.nn.Module, outputs: Iterable[str]):
        super().__init__()
        self.model, self.outputs = model, list(outputs)

    def forward(self, batch):
        answers = run(self.model, batch)
        return [answers[name] for name in self.outputs]


def sampled(model: torch.nn.Module) -> Iterator[tuple[str, tuple[int, ...], np.ndarray | None]]:
    """The tensors of a model as ``unilora_spec.rest.fingerprint`` takes them: a few entries of each, and none of packed ones."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        values = None
        if tensor.is_floating_point() and type(tensor) in (torch.Tensor, torch.nn.Parameter):
            which = torch.from_numpy(entries(tensor.numel())).to(tensor.device)
            values = array(tensor.detach().reshape(-1)[which])
        yield name, tuple(tensor.shape), values


def array(tensor: torch.Tensor) -> np.ndarray:
    """A copy of a tensor's values, in float32."""
    return tensor.detach().cpu().float().numpy().copy()


def arrays(outputs: Mapping[str, torch.Tensor], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Copies of some outputs' values, each in its own type; of bfloat16, which NumPy lacks, in float32."""
    found = {name: outputs[name].detach().cpu() for name in names}
    return {name: (v.float() if v.dtype == torch.bfloat16 else v).numpy().copy() for name, v in found.items()}
