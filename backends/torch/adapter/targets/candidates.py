"""Finds the weights of a model that can be adapted, every linear map that a module multiplies by, and why others cannot
be.

A target has the name that users know: that of its module where the module holds one such weight and calls it ``weight``
(a Linear, a convolution, an Embedding, a router), else that of the parameter ("experts.down_proj",
"self_attn.in_proj_weight", "text_projection").
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules import conv
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from unilora_spec import LayerMapError

from ..sites.delta_weight import DeltaWeight
from ..sites.lookup import Lookup
from ..sites.low_rank import LowRank, MergedLinear
from .names import joined, named_modules
from .offloaded import OffloadedWeight, offloaded_weight

_CONV1D = "transformers.pytorch_utils"  # used where it is imported already, as the import takes seconds
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LOOKED_UP = (nn.Embedding, nn.EmbeddingBag)
_QUANTIZED = "is quantized, and only a quantized Linear can be adapted; take the unquantized base"
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


@dataclass(frozen=True)
class Candidate:
    """A weight that can be adapted.

    ``target``         the name that users write
    ``weight``         the parameter's own name in the base (names.py), as the file has it
    ``module``         the module that holds it, inside of all wrappers, under the key ``parameter``
    ``out_features``, ``in_features``, ``transposed``   the matrix as SPEC 7.2 to 7.4 count it
    ``stack``          the number of matrices in a stack (SPEC 7.5); None for a single matrix
    ``is_linear``      whether its module is known to multiply by it, as nn.Linear and stacked experts do. For a table
                       (an Embedding) and other bare parameters only the user knows; see ``targets.plan``
    ``offloaded``      where accelerate keeps the values of an offloaded weight
    """

    target: str
    weight: str
    module: nn.Module
    parameter: str
    out_features: int
    in_features: int
    transposed: bool = False
    stack: int | None = None
    is_linear: bool = True
    offloaded: OffloadedWeight | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the stored matrix; for a Linear, whose numbers may be packed, (out, in) as the module says."""
        linear = isinstance(self.module, nn.Linear)
        return (self.out_features, self.in_features) if linear else tuple(self._stored.shape)

    def values(self) -> torch.Tensor:
        """The values that the module multiplies by: of a quantized weight, the numbers that its codes and scales stand
        for; of an offloaded weight, the values that accelerate keeps.

        Raises ``LayerMapError`` where the values cannot be read.
        """
        weight = self._stored
        if weight.is_meta and self.offloaded is not None:
            if self.is_quantized:
                raise LayerMapError(f"{self.weight} is quantized and offloaded; load the base without offloading it")
            return self.offloaded.values(self.weight)
        if _library(weight) == "bitsandbytes":
            from transformers.integrations.bitsandbytes import dequantize_bnb_weight

            return dequantize_bnb_weight(weight, getattr(self.module, "state", None))
        return weight.dequantize() if _library(weight) == "torchao" else weight

    @property
    def is_quantized(self) -> bool:
        """Whether nothing can be added to the stored weight."""
        return _is_quantized(self._stored)

    @property
    def site(self):
        """The class of the site by which a pair acts on this weight: beside the weight where the module is known to
        multiply by it and by nothing else, or where nothing can be added to it; else by W + ΔW in its place."""
        if self.is_quantized or _library(self.module) == "bitsandbytes":
            return MergedLinear if MergedLinear.fits(self.module) else LowRank
        # nn.MultiheadAttention reads the weight of this one without calling it.
        if isinstance(self.module, NonDynamicallyQuantizableLinear):
            return DeltaWeight
        if MergedLinear.fits(self.module):
            return MergedLinear
        if isinstance(self.module, nn.Embedding) and Lookup.fits(self.module):
            return Lookup
        return LowRank if _multiplies_only(self.module) else DeltaWeight

    @property
    def _stored(self) -> nn.Parameter:
        return self.module._parameters[self.parameter]


@dataclass(frozen=True)
class Unfit:
    """A linear map that cannot be adapted as the model is, with the fields of a ``Candidate``; an error says its name
    and ``why``."""

    target: str
    weight: str
    module: nn.Module
    why: str
    is_linear: bool = True


def candidates(model: nn.Module) -> list[Candidate]:
    """Every weight of ``model`` that can be adapted, in the order of its modules, each once.

    No weight is computed or read. Raises ``LayerMapError`` for a wrapped model to which no adapter can be attached
    (``names.unwrapped``).
    """
    return [each for each in survey(model) if isinstance(each, Candidate)]


def survey(model: nn.Module) -> list[Candidate | Unfit]:
    """``candidates`` together with the linear maps that cannot be adapted as the model is, in the order of the
    modules."""
    found, seen, owners = [], set(), {}
    for name, module in named_modules(model):
        owners[name] = module
        if id(module) not in seen:
            seen.add(id(module))
            found += _of_module(name, module, owners)
    return found


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is transformers' Conv1D: a Linear whose weight is stored (in, out)."""
    return _CONV1D in sys.modules and isinstance(module, sys.modules[_CONV1D].Conv1D)


def _of_module(name, module, owners) -> Iterator[Candidate | Unfit]:
    if isinstance(module, (nn.Linear, conv._ConvNd, *_LOOKED_UP)) or is_conv1d(module):
        yield _of_weight(name, module, owners)
    elif isinstance(module, (ParametrizationList, *_NORMS)):
        return
    else:
        yield from _bare(name, module, owners)


def _of_weight(name, module, owners):
    """The one weight of a Linear, a convolution, a table or a Conv1D. A table (vocabulary, d) counts as it is stored,
    because a graph may look it up and multiply by it; so does the weight (in, out / groups, k …) of a transposed
    convolution, for which SPEC 7.4 has no transposed form."""
    full, linear = joined(name, "weight"), not isinstance(module, _LOOKED_UP)
    weight = module._parameters.get("weight")
    if weight is None:
        return Unfit(name, full, module, _no_weight(module, "weight"), linear)
    if is_lazy(weight):
        why = "has no shape before the model's first forward; run the model once first"
        return Unfit(name, full, module, why, linear)
    if getattr(module, "max_norm", None) is not None:
        return Unfit(
            name, full, module, "is scaled down to max_norm at each forward; set max_norm to None first", linear
        )
    if _is_quantized(weight) and not isinstance(module, nn.Linear):
        return Unfit(name, full, module, _QUANTIZED, linear)
    rows, columns = weight.shape[0], math.prod(weight.shape[1:])
    if isinstance(module, nn.Linear):  # the weight of a quantized one may be packed
        rows, columns = module.out_features, module.in_features
    transposed = is_conv1d(module)
    if transposed:
        rows, columns = columns, rows
    where = offloaded_weight(name, "weight", weight, owners)
    return Candidate(name, full, module, "weight", rows, columns, transposed, is_linear=linear, offloaded=where)


def _bare(name, module, owners):
    """The matrices that a module of any other class holds as parameters of its own."""
    hidden = _hidden(module)
    for key in sorted(hidden):
        full = joined(name, key)
        yield Unfit(full, full, module, _no_weight(module, key), is_linear=False)
    for key, weight in module._parameters.items():
        if weight is None or is_lazy(weight) or key.endswith("bias"):
            continue
        experts = weight.dim() == 3 and _holds_experts(name, module)
        if not (experts or _is_matrix(weight.shape)):
            continue
        # weight_norm and others compute a hidden parameter of this one.
        if key.removesuffix("_v").removesuffix("_orig") in hidden:
            continue
        full = joined(name, key)
        linear = experts or isinstance(module, nn.MultiheadAttention)
        target = name if key == "weight" and weight.dim() == 2 and name else full
        if isinstance(module, nn.RNNBase):
            why = f"is read by {type(module).__name__} from a list of its own, past any adapter; leave it out"
            yield Unfit(target, full, module, why, is_linear=False)
            continue
        if _is_quantized(weight):
            yield Unfit(target, full, module, _QUANTIZED, linear)
            continue
        transposed = experts and bool(getattr(module, "is_transposed", False))
        out, *rest = weight.shape
        stack = out if experts or out == 1 else None
        if stack is not None:
            out, *rest = rest
        columns = math.prod(rest)
        if transposed:
            out, columns = columns, out
        where = offloaded_weight(name, key, weight, owners)
        yield Candidate(target, full, module, key, out, columns, transposed, stack, linear, where)


def _is_matrix(shape) -> bool:
    """Whether a shape is that of a matrix or a stack: (1, d) and (1, 1, d) are vectors; (1, n, d) is a stack of one
    matrix."""
    return len(shape) in (2, 3) and min(shape[-2:]) > 1


def _holds_experts(name, module) -> bool:
    """Whether the three dimensions of a parameter are (experts, ·, ·), not (out, k_1, k_2) as SPEC 7.4 counts any other."""
    return "experts" in name or "experts" in type(module).__name__.lower() or hasattr(module, "num_experts")


def _hidden(module) -> set[str]:
    """The keys of parameters that the module computes from others before each use, so that they are not parameters of
    its own."""
    parametrizations = module._modules.get("parametrizations")
    hidden = set() if parametrizations is None else set(parametrizations._modules)
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, (WeightNorm, SpectralNorm)):
            hidden.add(hook.name)
        elif isinstance(hook, BasePruningMethod):
            hidden.add(hook._tensor_name)
    return hidden


def _no_weight(module, key) -> str:
    if key in _hidden(module):
        return (
            "is computed from other parameters before each use (a parametrization, weight_norm, spectral_norm or pruning); "
            "remove that first, as with torch.nn.utils.parametrize.remove_parametrizations, remove_weight_norm or prune.remove"
        )
    return f"is no parameter of its {type(module).__name__}; leave it out"


def _multiplies_only(module) -> bool:
    """Whether the module computes what torch's own class, or Conv1D, computes. A wrapper of its forward has to be
    accelerate's, which moves weights and inputs and computes nothing."""
    if "forward" in vars(module) and "_hf_hook" not in vars(module):
        return False
    own = next((kind for kind in (nn.Linear, *_CONVOLUTIONS) if isinstance(module, kind)), None)
    if own is None:
        own = sys.modules[_CONV1D].Conv1D if is_conv1d(module) else None
    methods = ("forward", "_conv_forward")
    same = own and all(getattr(type(module), each, None) is getattr(own, each, None) for each in methods)
    return bool(same) and getattr(module, "groups", 1) == 1


def _is_quantized(weight) -> bool:
    """Whether a weight is quantized: torchao's weights have a floating-point dtype, and floats of one byte cannot be
    added."""
    return not weight.is_floating_point() or weight.dtype.itemsize == 1 or _library(weight) == "torchao"


def _library(thing) -> str:
    return type(thing).__module__.partition(".")[0]
