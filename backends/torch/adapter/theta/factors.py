"""What a call of the model holds of the vector: the factors of all segments, and when they may be used again."""

from typing import NamedTuple

import torch
from torch import Tensor


class Factors(NamedTuple):
    """The factors of every segment, and what says whether they may be used again.

    ``theta``  the values of θ that they were made of; None: they are never used again
    ``spent``  holds something once a backward pass has come back to θ through them
    ``again``  whether several backward passes may come back through them
    ``ready``  what sites have made of them for their own products, by whatever they call it; of factors without a gradient alone
    ``rows``   of stacked ones, the ``Rows`` that say which of them each row of a batch has
    """

    segments: list[tuple[Tensor, ...]]
    theta: Tensor | None
    spent: list
    again: bool
    ready: dict
    rows: object = None

    @property
    def has_grad(self) -> bool:
        return self.segments[0][0].requires_grad

    def serve(self, theta: Tensor, dtype: torch.dtype, with_grad: bool) -> bool:
        if self.theta is None or self.segments[0][0].dtype != dtype or self.theta.device != theta.device:
            return False
        if with_grad and not (self.has_grad and (not self.spent or self._serves_again())):
            return False
        if self.segments[0][0].is_inference() and torch.is_grad_enabled():
            return False
        return torch.equal(self.theta, theta)

    def _serves_again(self):
        """Within a backward pass, for a region that a reentrant checkpoint makes anew: where nothing was kept that is gone now."""
        return self.again and torch._C._current_graph_task_id() != -1
