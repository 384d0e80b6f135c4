"""Stacks the factors of several adapters, for batches whose rows have different adapters."""

from functools import partial

import torch
from torch import Tensor

from unilora_spec import LayerMapError

from ..theta.expansion import storage_of
from ..theta.factors import Factors
from .rows import Rows, check_rows_possible


class Stacked:
    """Stacks adapters for the sites of ``unilora``, and keeps the last stack for a batch with the same ones."""

    def __init__(self, unilora):
        self.unilora, self._last = unilora, None

    def factors(self, names: list[str | None], held: dict, active: str) -> Factors:
        """The factors for a batch whose row i has the adapter ``held[names[i]]``, or none where ``names[i]`` is None.

        Raises ``LayerMapError`` where they cannot act beside each other, or not on the sites of the ``active`` one.
        """
        if not names:
            raise LayerMapError("adapter_names needs a name for each row of the batch")
        for name, each in held.items():
            self._check(name, each, active)
        check_rows_possible(self.unilora)
        theta_D = self._theta_D(held, None in names)
        numbers = {name: i for i, name in enumerate([*held, None])}
        of_row = torch.tensor([numbers[name] for name in names], device=theta_D.device)
        rows = Rows(of_row, [*(each.saved for each in held.values()), {}], self.unilora.layer_map)
        segments = torch.func.vmap(self.unilora.vector.cut)(theta_D)
        return Factors(segments, None, [], True, {}, rows)

    def _check(self, name, held, active):
        unilora = self.unilora
        if held.layer_map != unilora.layer_map:
            raise LayerMapError(
                f"{name} adapts other weights than {active}, which is active, or with other ranks or alpha; set_adapter one of the "
                "batch first, and name adapters of one layer map"
            )
        if other := held.saved.keys() ^ unilora.in_full.originals.keys():
            raise LayerMapError(
                f"{min(other)} is trained in full by one of {name} and {active}, which is active, and not by the other; name adapters that "
                "train the same"
            )

    @torch.no_grad()
    def _theta_D(self, held, has_base) -> Tensor:
        """θ_D of each adapter, (adapters, D), followed by a row of zeros for the base if ``has_base``."""
        unilora, device = self.unilora, self.unilora.theta.device
        key = has_base, unilora.calls.dtype, device, [(each.projection, each.layer_map) for each in held.values()]
        thetas = [each.theta.to(device) for each in held.values()]
        if self._last is not None and self._last[0] == key and all(map(torch.equal, self._last[1], thetas)):
            return self._last[2]
        self._last = None  # frees its memory before the next stack is made
        theta_D = torch.zeros(len(held) + has_base, unilora.layer_map.D, dtype=unilora.calls.dtype, device=device)
        of_projection = {}
        for i, each in enumerate(held.values()):
            of_projection.setdefault(each.projection, []).append(i)
        for projection, numbers in of_projection.items():
            expand = partial(storage_of(projection, device).expand, dtype=unilora.calls.dtype)
            theta_D[numbers] = torch.func.vmap(expand)(torch.stack([thetas[i] for i in numbers]))
        self._last = key, thetas, theta_D
        return theta_D

    def __getstate__(self):
        return {"unilora": self.unilora, "_last": None}
