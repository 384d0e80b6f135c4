"""θ and P on a model: the one new parameter, how P is held beside it, and the factors that both make."""

import math
import warnings

import torch
from torch import Tensor, nn

from unilora_spec import KindError, LayerMap, Projection

from .expansion import storage_of

THETA = "unilora_theta"


class Vector:
    """θ as a parameter of ``model``, float32[d], and P on θ's device; the layer map says which range of θ_D = Pθ is
    which segment's.

    ``link`` is the number of the link of a chain that is trained (SPEC 11.15).
    """

    def __init__(self, model: nn.Module, projection: Projection, layer_map: LayerMap, theta, device, asked: str | None):
        self.model, self.projection, self.layer_map, self.asked = model, projection, layer_map, asked
        self.storage = storage_of(projection, device, asked)
        self._shapes = [segment.factor_shapes for segment in layer_map.segments]
        self._sizes = [math.prod(shape) for shapes in self._shapes for shape in shapes]
        with torch.inference_mode(False):  # else it could never be trained
            model.register_parameter(THETA, nn.Parameter(torch.as_tensor(theta).to(device, copy=True)))
        self.link = self.last_link()

    @property
    def theta(self) -> nn.Parameter:
        """θ, float32[d]."""
        return self.model._parameters[THETA]

    @property
    def in_parts(self) -> bool:
        """Whether θ is sharded, so that each process holds a part of it (FSDP)."""
        return hasattr(self.theta, "full_tensor")

    def expand(self, dtype: torch.dtype) -> Tensor:
        """θ_D, ``dtype``[D], differentiable with respect to θ; never the tensor θ itself."""
        if self.storage.device != self.theta.device:  # the model has moved
            self.storage = storage_of(self.projection, self.theta.device, self.asked)
        theta = self._theta_of_link()
        theta_D = self.storage.expand(theta, dtype)
        return theta_D.view_as(theta_D) if theta_D is theta else theta_D

    def cut(self, theta_D: Tensor) -> list[tuple[Tensor, ...]]:
        """A (rank, in) and B (out, rank) of every segment, or the one factor (out, in) of a segment of rank 0, as views
        of θ_D."""
        # In one split: then one copy of all their gradients is that of θ_D, where those of slices would be added up.
        factors = iter(theta_D.split(self._sizes))
        return [tuple(next(factors).reshape(shape) for shape in shapes) for shapes in self._shapes]

    def apply(self, function, recurse: bool = True) -> nn.Module:
        """Takes the place of the model's ``_apply``, by which torch moves and casts a model: θ stays float32 where the
        model is cast to half precision, in which small steps of training would be rounded away, and a warning says
        so."""
        before = self.theta.detach()
        model = type(self.model)._apply(self.model, function, recurse)
        now = self.theta.dtype
        if before.dtype == torch.float32 and now in (torch.float16, torch.bfloat16):
            self.theta.data = before.to(self.theta.device)
            warnings.warn(f"the model is cast to {now}, and its vector {THETA} stays float32", stacklevel=4)
        return model

    @torch.no_grad()
    def set(self, theta: Tensor) -> None:
        """Gives θ these values."""
        self.theta.copy_(theta)
        self.link = self.last_link()

    @torch.no_grad()
    def reset(self, bound: float | None) -> None:
        """Gives θ the values from which training starts (SPEC 6.4)."""
        bound = self.layer_map.bound if bound is None else bound
        self.theta.copy_(torch.from_numpy(self.projection.initial(self.layer_map, bound)))
        self.link = 0

    @torch.no_grad()
    def next_link(self, bound: float | None) -> int:
        """Ends the training of the current link, gives the next one its start values and returns its number.

        Raises ``KindError`` after the last link, and where θ is sharded.
        """
        links = self.projection.links
        if self.link + 1 >= links:
            raise KindError(f"kind {self.projection.kind} has {links} links, and link {self.link} is the last of them")
        if self.in_parts:
            raise KindError(
                "next_link writes a range of theta, and theta is in parts, as FSDP shards it; train a chain under DDP"
            )
        self.link += 1
        start = self.projection.start_of(self.link, self.layer_map.bound if bound is None else bound)
        self.theta[self.projection.link(self.link)] = torch.from_numpy(start).to(self.theta.device)
        return self.link

    def last_link(self) -> int:
        """The number of the last link that has been given its start values: the links after it are zero."""
        if self.projection.links == 1 or self.theta.is_meta:
            return 0
        begun = self.theta.detach().unflatten(0, (self.projection.links, -1)).any(dim=1).nonzero()
        return int(begun[-1]) if len(begun) else 0

    def _theta_of_link(self) -> Tensor:
        """θ, with a gradient of none of the links before the current one. (The links after it are zero, and have none
        anyway.)"""
        theta = self.theta
        if self.link == 0:
            return theta
        first = self.projection.link(self.link).start
        return torch.cat([theta[:first].detach(), theta[first:]])
