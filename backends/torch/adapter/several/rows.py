"""Runs a batch with an adapter for each of its rows: sites and heads take the factors and values of each row's adapter
from a stack.

A row is an entry of the first dimension of a module's input. An input with n times as many entries has each row n
times, one after the other, as beams are laid out, or tokens that were flattened.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unilora_spec import LayerMap, LayerMapError

from ..calls.in_place import InPlaceOfForward
from ..sites.shown import shows
from ..targets.candidates import is_conv1d

_OF_ONE_INPUT = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.RMSNorm, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Rows:
    """Which adapter each row has, for one thread.

    ``of_row``     int64[rows], the number of each row's adapter in the stack of factors
    ``heads``      for each number, the adapter's parameters trained in full by name; the base is the last, and has none
    ``layer_map``  the layer map that all adapters have
    """

    def __init__(self, of_row: Tensor, heads: Sequence[dict[str, Tensor]], layer_map: LayerMap):
        self.of_row, self.heads, self.layer_map = of_row, heads, layer_map
        self._running = None

    def add_deltas(
        self, module, x: Tensor, output: Tensor, segment, s: float, factors, add: Callable, convolved: Callable
    ):
        """``output`` with s·(x Aᵀ)Bᵀ of each row's adapter added, from a segment's stacked ``factors``; ``add`` and
        ``convolved`` are functions of the site."""
        self._check(segment.name, x, module)
        first, *rest = (factor.to(x) for factor in factors)
        if isinstance(module, nn.modules.conv._ConvNd):
            delta = self._each(x, lambda x, i: convolved(module, x, first[i], [B[i] for B in rest], s))
            return add(output, delta.to(output.dtype), segment, 1 - module.weight.dim())
        x = x.reshape(len(self.of_row), -1, x.shape[-1])
        if rest:
            delta = torch.bmm(x, first[self.of_row].transpose(1, 2)) * s
            delta = torch.bmm(delta, rest[0][self.of_row].transpose(1, 2))
        else:
            delta = self._each(x, lambda x, i: F.linear(x, first[i]) * s)
        return add(output, delta.to(output.dtype).view(*output.shape[:-1], -1), segment, -1)

    def run_heads(self, name: str, module, forward: Callable, x: Tensor) -> Tensor:
        """The output of a module with parameters trained in full, computed for each row with those of its adapter."""

        def one(x, i):
            self._running = i
            try:
                return forward(x)
            finally:
                self._running = None

        return self.by_adapter(name, module, x, one)

    def head(self, name: str) -> Tensor | None:
        """The parameter of this name of the adapter whose rows ``run_heads`` runs; None for the base's own. Raises
        ``LayerMapError`` outside of ``run_heads``."""
        if self._running is None:
            raise LayerMapError(
                f"{name} is read without a call of its module, which has one for each adapter of the rows; "
                "run a batch of each adapter"
            )
        return self.heads[self._running].get(name)

    def by_adapter(self, name: str, module, x: Tensor, one: Callable) -> Tensor:
        """Calls ``one(rows of x, number)`` once for each adapter, with the rows that have it, and puts the results in
        the places of the rows."""
        self._check(name, x, module)
        return self._each(x, one)

    def _each(self, x, one):
        of_row = self.of_row.repeat_interleave(len(x) // len(self.of_row))
        result = None
        for i in of_row.unique().tolist():
            places = (of_row == i).nonzero()[:, 0]
            part = one(x[places], i)
            result = part.new_empty(len(x), *part.shape[1:]) if result is None else result
            result[places] = part
        return result

    def _check(self, name, x, module):
        least = module.weight.dim() if isinstance(module, nn.modules.conv._ConvNd) else 1 + x.is_floating_point()
        if x.dim() < least or len(x) % len(self.of_row):
            raise LayerMapError(
                f"{name} gets an input of shape {list(x.shape)}, whose first dimension does not go by the {len(self.of_row)} rows of "
                "adapter_names; run a batch of each adapter"
            )


class ByRow(InPlaceOfForward):
    """Runs a module with parameters trained in full once for each adapter of a batch."""

    def __init__(self, module, model, name: str):
        super().__init__(module)
        self.model, self.name = model, name

    def run(self, *inputs, **named):
        rows = self.model.unilora.calls.rows
        if rows is None:
            return self.inner(*inputs, **named)
        (x,) = (*inputs, *named.values())
        return rows.run_heads(self.name, self.module, self.inner, x)

    remove = InPlaceOfForward.close


def check_rows_possible(unilora) -> None:
    """Raises ``LayerMapError`` where a module of the model cannot take a different adapter for each row."""
    for name, owner in unilora.owners.items():
        if shows(owner.module, owner.parameter):
            raise LayerMapError(
                f"{name} acts as a whole weight W + ΔW, of which rows share one; run a batch of each adapter"
            )
        if "experts" in name.split("."):
            raise LayerMapError(
                f"{name} gets a part of the rows alone, chosen by a router; run a batch of each adapter"
            )
    for module, name in unilora.in_full.shown_on().items():
        if not isinstance(module, _OF_ONE_INPUT) and not is_conv1d(module):
            raise LayerMapError(
                f"{name} is trained in full in a {type(module).__name__}, which has no rows of one input; run a batch of each adapter"
            )
