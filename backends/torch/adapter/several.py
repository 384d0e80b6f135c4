"""What ``model.unilora`` does with several adapters in memory."""


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
