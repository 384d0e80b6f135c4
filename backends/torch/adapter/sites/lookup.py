"""A and B beside the table of an nn.Embedding: rows of B·A are added to the rows that the module looks up."""

from functools import partial

import torch
from torch.nn import functional as F

from .low_rank import LowRank


class Lookup(LowRank):
    """Forward hook of an nn.Embedding, whose table (n, d) is W: to each row looked up, s·B[i]·A is added, or s·M[i] of rank 0.

    No gradient reaches the row of ``padding_idx``, as in the table itself.
    """

    @staticmethod
    def fits(module) -> bool:
        """Whether the module looks rows up as torch's own nn.Embedding does, with none of its further options."""
        plain = type(module).forward is torch.nn.Embedding.forward and "forward" not in vars(module)
        return plain and module.max_norm is None and not module.sparse and not module.scale_grad_by_freq

    def _added(self, module, ids, output, factors):
        if factors.rows is not None:
            for number, segment, s in self.pairs:
                own = [factor.to(output) for factor in factors.segments[number]]
                delta = partial(self._delta_of_rows, module, segment, s, own)
                output = output + factors.rows.by_adapter(segment.name, module, ids, delta)
            return output
        for number, segment, s in self.pairs:
            output = output + self._delta(
                module, ids, segment, s, *(factor.to(output) for factor in factors.segments[number])
            )
        for (number, segment, s), draw in zip(self.pairs, self.unilora.draws(self.pairs)):
            norms = self._norms(module, segment, factors.segments[number], s)
            output = output + self._rows(ids, segment, draw(norms, segment.in_features).to(output))
        return output

    def _delta_of_rows(self, module, segment, s, stacks, ids, i):
        return self._delta(module, ids, segment, s, *(stack[i] for stack in stacks))

    def _delta(self, module, ids, segment, s, first, *rest):
        rows = self._rows(ids, segment, rest[0] if rest else first)
        delta = s * (rows @ first if rest else rows)
        if module.padding_idx is not None:
            delta = torch.where((ids == module.padding_idx).unsqueeze(-1), delta.detach(), delta)
        return delta

    @staticmethod
    def _rows(ids, segment, table):
        """The rows ``ids`` of ``table``, which holds the segment's rows; an id of a row outside the segment gives
        zeros."""
        if segment.row is None:
            return F.embedding(ids, table)
        own = (ids >= segment.row) & (ids < segment.row + segment.out_features)
        found = F.embedding((ids - segment.row).clamp(0, segment.out_features - 1), table)
        return found * own.unsqueeze(-1)
