"""Methods of ``model.unilora`` for several adapters in memory."""

import contextlib
from collections.abc import Sequence

from unilora_spec import LayerMap, Projection

from ..files.state import State
from ..theta.expansion import storage_of
from ..theta.vector import Vector


class Several:
    """A part of ``UniLora``, whose ``adapters`` hold the adapters."""

    @property
    def names(self) -> list[str]:
        """The names of the adapters in memory; the one that was attached is "default"."""
        return self.adapters.names

    @property
    def active(self) -> str:
        """The name of the adapter that acts, is trained and is saved."""
        return self.adapters.active

    def add_adapter(self, name: str, adapter) -> None:
        """Takes the adapter in the file ``adapter``, or an ``Adapter``, into memory under ``name``; ``set_adapter`` lets it act.

        It may have another kind, seed, length, rank and layer map. It takes memory for θ, for its parameters trained in
        full, and for P, which adapters with equal projections share. Raises ``UniLoraError`` as ``load_adapter`` does,
        and ``LayerMapError`` for a name that is taken; warns where the model's weights are not those that the adapter
        was trained on.
        """
        self.adapters.add(name, adapter)

    def set_adapter(self, name: str) -> None:
        """Lets the adapter of this name act; the one before it stays in memory under its own name, as trained.

        Calls of the model in other threads end first. If both have the same projection and layer map, the parameter
        ``theta`` stays and takes other values, so that an optimizer goes on with it; else it is another parameter.
        Raises ``LayerMapError`` for an unknown name, within a call, and within ``merged()``.
        """
        self.adapters.set(name)

    def delete_adapter(self, name: str) -> None:
        """Removes an adapter from memory. Raises ``LayerMapError`` for an unknown name, and for the active one."""
        self.adapters.delete(name)

    def mix(self, name: str, weights: dict[str, float]) -> None:
        """Adds, under ``name``, the weighted sum of adapters: {"a": 0.5, "b": 0.5}.

        It sums the delta weights, and, for parameters trained in full, their differences to the base. The adapters have
        to have the same projection and layer map, and ΔW linear in θ: all ranks 0, and a kind whose θ_D is linear in θ
        (balanced, uniform, identity, table, layerwise, fastfood). Raises ``LayerMapError`` for others: the sum of pairs
        A, B is not the pair of the sum.
        """
        self.adapters.mix(name, weights)

    @contextlib.contextmanager
    def adapter_names(self, names: Sequence[str | None]):
        """Within the block, row i of this thread's batches has the adapter ``names[i]``; None or "base" is the base alone.

            with torch.no_grad(), model.unilora.adapter_names(["a", "b", None]): model(**batch_of_three)

        A row is an entry of the first dimension of the inputs. An input with n times as many rows has each row n times,
        one after the other, as the beams of ``generate`` are laid out. The adapters act with their values at the time
        the block is entered. They need the layer map of the active one and the same parameters trained in full; kind,
        seed and d may differ. Heads can be Linear, Embedding, norms or convolutions.

        Raises ``LayerMapError`` for other adapters, for weights that act as W + ΔW (stacked experts, grouped convolutions,
        embeddings), for experts of a mixture, which see a part of the rows, for inputs that do not go by the rows,
        within ``merged()``, and for a call that wants a gradient.
        """
        self.refuse_merged()
        with self.calls.with_factors(self.adapters.of_rows(names)):
            yield self.model

    def replace_vector(self, projection: Projection, layer_map: LayerMap, theta) -> None:
        """Puts another vector in the place of this one, with any projection and layer map; to be called within
        ``calls.paused()``.

        θ is then a new parameter with the values ``theta``, float32[d]. Parameters trained in full stay as they are.
        """
        # Another kind might refuse the storage that was asked for, and must do so before anything changes.
        asked = self.vector.asked if projection.kind == self.projection.kind else None
        storage = storage_of(projection, self.theta.device, asked)
        sites_stay = layer_map == self.layer_map
        if sites_stay:
            self.projection, layer_map = projection, self.layer_map
            self.state.remove()
        else:
            self._withdraw()
            self._find(projection, layer_map)
        self.vector = Vector(self.model, projection, layer_map, theta, storage.device, asked)
        self.model._apply = self.vector.apply
        self.calls.replace(self.vector, self.structure, self._parts())
        if not sites_stay:
            self._install_sites()
        self.state = State(self)
