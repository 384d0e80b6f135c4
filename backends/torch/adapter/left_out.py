"""What ``model.unilora`` does without its adapter: the base's outputs, while the adapter stays on."""

import contextlib

from .files.originals import refuse_unseen


class LeftOut:
    """Of ``UniLora``, whose ``doors`` know for whom the adapter acts."""

    @property
    def enabled(self) -> bool:
        """Whether the adapter acts; False gives the base's outputs, as ``disabled()`` does, in all threads.

        Calls of other threads end before it changes. Raises ``LayerMapError`` where ``disabled()`` does, and within a call.
        """
        return self.doors.enabled

    @enabled.setter
    def enabled(self, enabled: bool):
        if not enabled:
            self._refuse_unseen()
        with self.doors.switching():
            self.doors.enabled = bool(enabled)

    @contextlib.contextmanager
    def disabled(self):
        """Within the block, this thread's calls of the model are the base's, as it was before ``attach``: the reference of a
        preference's loss.

            with torch.no_grad(), model.unilora.disabled(): reference = model(**inputs)

        Parameters trained in full compute with the values that they had before; for the optimizer, ``state_dict`` and other threads
        they stay as trained. A parameter that was unfrozen by hand has no value of before, and no dropout is taken out. What was
        compiled runs without the compiler meanwhile. Raises ``LayerMapError`` within ``merged()``, and where a recurrent layer
        of torch was trained in full. ``model.disable_adapter()`` is the same, by the name that PEFT gives it.
        """
        self._refuse_unseen()
        with self.doors.off():
            yield self.model

    disable_adapter = disabled

    def _refuse_unseen(self):
        self.refuse_merged()
        refuse_unseen(self.model, self.in_full.originals)
