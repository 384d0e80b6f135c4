"""The factors of all segments, as a call of the model uses them, and whether a later call may use them again."""

from typing import NamedTuple

import torch
from torch import Tensor


class Factors(NamedTuple):
    """The factors of every segment, and what decides whether a later call may use them again.

    ``theta``       the values of θ that they were made of; None where no later call may use them
    ``spent``       a list that has an entry once a backward pass through them has reached θ
    ``repeatable``  whether several backward passes may go through them
    ``ready``       what each site has prepared of them for its own products, by site; only of factors without a
                    gradient
    ``rows``        for a batch of several adapters, the ``Rows`` that say which adapter each row has
    """

    segments: list[tuple[Tensor, ...]]
    theta: Tensor | None
    spent: list
    repeatable: bool
    ready: dict
    rows: object = None

    @property
    def has_grad(self) -> bool:
        return self.segments[0][0].requires_grad

    def are_usable_for(self, theta: Tensor, dtype: torch.dtype, with_grad: bool) -> bool:
        """Whether a call with the values ``theta`` may use them, in ``dtype``, and for a gradient if ``with_grad``."""
        if self.theta is None or self.segments[0][0].dtype != dtype or self.theta.device != theta.device:
            return False
        if with_grad and not (self.has_grad and (not self.spent or self._allow_another_backward())):
            return False
        if self.has_grad and not with_grad and torch.is_grad_enabled():
            return False  # θ has been frozen: a backward pass, of a head that is trained, would go on to θ for nothing
        if self.segments[0][0].is_inference() and torch.is_grad_enabled():
            return False
        return torch.equal(self.theta, theta)

    def _allow_another_backward(self):
        """Whether this is a region that a reentrant checkpoint computes again within a backward pass, and whether that
        pass can go through factors that an earlier one went through."""
        return self.repeatable and torch._C._current_graph_task_id() != -1
