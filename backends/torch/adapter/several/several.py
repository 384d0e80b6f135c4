"""What ``model.unilora`` does with several adapters in memory."""

import contextlib
from collections.abc import Sequence

from unilora_spec import LayerMap, Projection

from ..files.state import State
from ..theta.expansion import storage_of
from ..theta.vector import Vector


class Several:
    """Of ``UniLora``, whose ``adapters`` hold them."""

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

        It may be of another kind, seed, length, rank and layer map. What is held: θ, its parameters trained in full, and P's storage,
        one for all adapters of one projection. Raises ``UniLoraError`` as ``load_adapter`` does, and ``LayerMapError`` for a name
        that is taken; warns where the model's weights are not those it was trained on.
        """
        self.adapters.add(name, adapter)

    def set_adapter(self, name: str) -> None:
        """Lets the adapter of this name act; the one before keeps, under its own, what was trained of it.

        Calls of the model in other threads end first. Of one projection and layer map, the parameter ``theta`` stays and takes other
        values, so that an optimizer goes on with it; else it is another parameter. Raises ``LayerMapError`` for an unknown name, within
        a call, and within ``merged()``.
        """
        self.adapters.set(name)

    def delete_adapter(self, name: str) -> None:
        """Forgets an adapter. Raises ``LayerMapError`` for an unknown name, and for the active one."""
        self.adapters.delete(name)

    def mix(self, name: str, weights: dict[str, float]) -> None:
        """Adds, under ``name``, the weighted sum of adapters: {"a": 0.5, "b": 0.5}.

        The sum is that of the delta weights, and, of what was trained in full, of the differences to the base. Adapters have to be of one
        projection and layer map, and ΔW linear in θ: all ranks 0, and a kind whose θ_D is linear in θ (balanced, uniform, identity,
        table, layerwise, fastfood). Raises ``LayerMapError`` for others: a sum of pairs A, B is not the pair of the sum.
        """
        self.adapters.mix(name, weights)

    @contextlib.contextmanager
    def adapter_names(self, names: Sequence[str | None]):
        """Within the block, row i of this thread's batches has the adapter ``names[i]``; None or "base" is the base alone.

            with torch.no_grad(), model.unilora.adapter_names(["a", "b", None]): model(**batch_of_three)

        A row is an entry of the first dimension of the inputs. One of n times as many rows has each n times, one after the other, as
        beams of ``generate`` are. The adapters are those of the time the block was entered, of one layer map and
        with the same parameters trained in full as the active one; kind, seed and d may differ. Heads are served where they are Linear,
        Embedding, norms or convolutions.

        Raises ``LayerMapError`` for other adapters, for weights that act as W + ΔW (stacked experts, grouped convolutions,
        embeddings), for modules of a mixture that see a part of the rows, for inputs that do not go by the rows, within ``merged()``,
        and for a call that wants a gradient.
        """
        self.refuse_merged()
        with self.doors.instead(self.adapters.of_rows(names)):
            yield self.model

    def become(self, projection: Projection, layer_map: LayerMap, theta) -> None:
        """Puts another vector in the place of this one, of any projection and layer map; within ``doors.switching()``.

        θ is a new parameter then, of the values ``theta``, float32[d]. What is trained in full stays as it is.
        """
        asked = (
            self.vector.asked if projection.kind == self.projection.kind else None
        )  # of another kind it may be refused
        storage = storage_of(
            projection, self.theta.device, asked
        )  # what cannot be held is refused before anything changes
        sites_stay = layer_map == self.layer_map
        if sites_stay:
            self.projection, layer_map = projection, self.layer_map
            self.state.remove()
        else:
            self._withdraw()
            self._find(projection, layer_map)
        self.vector = Vector(self.model, projection, layer_map, theta, storage.device, asked)
        self.model._apply = self.vector.apply
        self.doors.through(self.vector, self.structure, self._parts())
        if not sites_stay:
            self._install_sites()
        self.state = State(self)
