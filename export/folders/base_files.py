"""The base of an adapter as files: compared with the adapter, read without a framework (SPEC 10)."""

from pathlib import Path

from unilora_spec import Adapter, BaseMismatch, UniLoraError
from unilora_spec.base_model import (
    FLOATS,
    Stored,
    affix,
    by_model_name,
    other_rest,
    read_values,
    stored_name,
    tensors_of,
)
from unilora_spec.rest import warnings_of

OTHER_CONTENTS = "the base's weights are not those that the adapter was trained on: another checkpoint of its form"


class BaseFiles:
    """The tensors of a base that an adapter fits.

    ``folder``    where they are
    ``tensors``   all of them, by the names in the files
    ``named``     the name in the files of each, by its name in the model's code; they differ where transformers renames while loading
    ``stored``    the name in the files of each adapted weight, by its name in the model
    ``warnings``  at most two: that the adapted weights, or the other tensors, have not the values on record

    ``progress(step, done, total)`` is called with the bytes that have been read. Raises ``BaseMismatch`` where a weight is missing or has another shape,
    ``UniLoraError`` where it is quantized, ``FileError`` where the files are unsound.
    """

    def __init__(self, adapter: Adapter, folder: Path, progress=lambda step, done, total: None):
        self.folder, self.tensors = folder, tensors_of(folder)
        self.named = {name: name for name in self.tensors}
        weights = adapter.layer_map.by_weight()
        try:
            self._found = {name: stored_name(name, self.named) for name in weights}
        except BaseMismatch:
            from ..torch_base.base import names_in_model  # transformers takes seconds to import

            self.named = names_in_model(adapter, folder, self.tensors)
            self._found = {name: stored_name(name, self.named) for name in weights}
        self.stored = {name: self.named[inner] for name, inner in self._found.items()}
        for name in self.stored:
            if (dtype := self[name].dtype) not in FLOATS:
                raise UniLoraError(
                    f"{folder}: {name} is stored as {dtype}, to which nothing can be added; give the base as it was"
                    f" before it was quantized ({', '.join(FLOATS)})"
                )
        adapter.check_base({name: self[name].shape for name in self.stored}, folder)

        total, done = sum(self[name].size for name in self.stored), 0

        def read(name):
            nonlocal done
            done += self[name].size
            progress("comparing the base with the adapter's record", done, total)
            return read_values(self[name])

        self.warnings = [OTHER_CONTENTS] if adapter.same_contents(read) is False else []
        self.warnings += warnings_of(other_rest(adapter, self._by_name(), self._found))

    def __getitem__(self, name: str) -> Stored:
        """The stored tensor of an adapted weight, by the weight's name in the model."""
        return self.tensors[self.stored[name]]

    def affix(self) -> tuple[str, str]:
        """The prefix that only the model's names have, and the one that only the files' names have (SPEC 10.4)."""
        return affix(self._found)

    def by_model_name(self) -> dict[str, Stored]:
        """All tensors by the names that the model has for them, found by ``affix``."""
        return by_model_name(self._by_name(), self._found)

    def _by_name(self) -> dict[str, Stored]:
        return {name: self.tensors[inner] for name, inner in self.named.items()}
