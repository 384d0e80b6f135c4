"""Looks after what an adapter's outputs mean: the labels in the model's configuration, and the base outside of what the
adapter changes (SPEC 8.6, 10.5, 10.6)."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from unilora_spec import Adapter, rest

from ..targets.names import without_wrappers

_FIELDS = ("id2label", "label2id", "problem_type")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def set_labels(model: nn.Module, adapter: Adapter) -> Callable[[], None]:
    """Gives the configuration of ``model`` the labels and the problem type on the adapter's record, if the adapter
    brings the head that they belong to. Returns a function that gives the configuration its own ones back.

    A head has a row for each label, so that a saved parameter with as many rows is a part of it. Without such a
    parameter the head and its labels are the model's own. ``adapter`` must fit the model.
    """
    config, record = getattr(model, "config", None), adapter.base
    if record is None or not hasattr(config, "id2label"):
        return nothing
    count = len(record.labels or config.id2label or ())
    if not any(value.shape[:1] == (count,) for value in adapter.saved.values()):
        return nothing
    before = {name: getattr(config, name, None) for name in _FIELDS}
    if record.labels:
        config.id2label = dict(enumerate(record.labels))
        config.label2id = {label: number for number, label in enumerate(record.labels)}
    if record.problem_type:
        config.problem_type = record.problem_type
    return partial(_give_back, config, before)


def nothing() -> None:
    """Gives nothing back, as nothing was set."""


def _give_back(config, before):
    for name, value in before.items():
        setattr(config, name, value)


def fingerprint(model: nn.Module, without: Collection[str]) -> str | None:
    """The fingerprint of a model's tensors except for those named in ``without`` (SPEC 10.5)."""
    return rest.fingerprint(looked_at(each for each in compared(model) if each[0] not in without))


def warnings(model: nn.Module, adapter: Adapter, originals: Mapping[str, torch.Tensor] = {}) -> list[str]:
    """A sentence where ``model`` differs from the base on record outside of what the adapter changes, or none (SPEC 10.6).

    ``originals`` has, by name, the values from before of parameters that another adapter has changed.
    """
    if not (adapter.base and adapter.base.rest):
        return []
    base = ((name, originals.get(name, tensor)) for name, tensor in compared(model))
    return rest.warnings_of(adapter.other_rest(looked_at(base)))


def compared(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters of a model and the floating-point buffers that its checkpoints hold, by name."""
    for name, parameter in model.named_parameters():
        yield without_wrappers(name), parameter
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            if buffer.is_floating_point() and name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield without_wrappers(name), buffer


@torch.no_grad()
def looked_at(tensors: Iterable[tuple[str, torch.Tensor]]) -> list[tuple[str, tuple[int, ...], np.ndarray | None]]:
    """Each tensor as ``rest.fingerprint`` takes it, without values where it is packed or its values are not here.

    All values of a device are copied from it at once, as each transfer waits for what runs there.
    """
    found, taken = [], {}
    for name, tensor in tensors:
        values = None
        if _is_plain(tensor):
            values = _entries(tensor)
            taken.setdefault(values.device, []).append(values)
        found.append((name, () if is_lazy(tensor) else tuple(tensor.shape), values))
    whole = {device: torch.cat(values).cpu().numpy() for device, values in taken.items()}
    ends = dict.fromkeys(whole, 0)
    for number, (name, shape, values) in enumerate(found):
        if values is not None:
            first = ends[values.device]
            ends[values.device] = end = first + len(values)
            found[number] = name, shape, whole[values.device][first:end]
    return found


def _is_plain(tensor) -> bool:
    # torchao's packed tensors have a floating-point dtype.
    packed = type(tensor).__module__.partition(".")[0] in ("torchao", "bitsandbytes")
    return tensor.dtype in _FLOATS and not (packed or tensor.is_meta or is_lazy(tensor))


def _entries(tensor) -> torch.Tensor:
    if hasattr(tensor, "full_tensor"):  # sharded by FSDP, with a part in each process
        tensor = tensor.full_tensor()
    which = rest.entries(tensor.numel())
    if tensor.is_contiguous():
        taken = tensor.detach().view(-1)[torch.from_numpy(which).to(tensor.device)]
    else:
        taken = tensor.detach()[
            tuple(torch.from_numpy(i).to(tensor.device) for i in np.unravel_index(which, tensor.shape))
        ]
    return taken.float()
