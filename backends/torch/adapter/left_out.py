"""Methods of ``model.unilora`` that give the base's outputs while the adapter stays on the model."""

import contextlib

from .files.originals import refuse_recurrent


class LeftOut:
    """A part of ``UniLora``, whose ``calls`` know in which threads the adapter acts."""

    @property
    def enabled(self) -> bool:
        """Whether the adapter acts; False gives the base's outputs, as ``disabled()`` does, in all threads.

        The calls of other threads end before it changes. Raises ``LayerMapError`` where ``disabled()`` does, and within
        a call.
        """
        return self.calls.enabled

    @enabled.setter
    def enabled(self, enabled: bool):
        if not enabled:
            self._refuse_disabling()
        with self.calls.paused():
            self.calls.enabled = bool(enabled)

    @contextlib.contextmanager
    def disabled(self):
        """Within the block, this thread's calls of the model give the base's outputs, as before ``attach``: the
        reference in the loss of preference learning.

            with torch.no_grad(), model.unilora.disabled(): reference = model(**inputs)

        Parameters trained in full compute with the values that they had before; for the optimizer, ``state_dict`` and other threads
        they stay as trained. A parameter that was unfrozen by hand keeps its value, as none from before is known, and
        dropout acts as ever. Compiled models run without the compiler meanwhile. Raises ``LayerMapError`` within
        ``merged()``, and where a recurrent layer of torch was trained in full. ``model.disable_adapter()`` does the
        same, under PEFT's name for it.
        """
        self._refuse_disabling()
        with self.calls.of_base():
            yield self.model

    disable_adapter = disabled

    def _refuse_disabling(self):
        self.refuse_merged()
        refuse_recurrent(self.model, self.in_full.originals)
